"""How long what business said of a token is believed, and how much of it is kept."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable
from uuid import UUID, uuid4

import msgspec
import pytest

from services.access import identities as module
from services.access.claims import Claim
from services.access.identities import BELIEVED_S, KNOWN_S, Identities
from services.access.identity import Identity, IdentityDocument, read_identity
from services.deadline import Deadline
from services.problems import Unauthenticated

CUSTOMER = UUID("0198c0de-0000-7000-8000-000000000001")
TAG = f"customer-{CUSTOMER}"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stream:
    """A tag stream that has missed nothing since a moment, or says that it can not tell."""

    def __init__(self) -> None:
        self.since: float | None = 0.0

    def steady_since(self) -> float | None:
        return self.since


class Lookup:
    """Business, where one customer has every token; `during` happens while it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.known = True
        self.expires_in_s = 60.0
        self.during: Callable[[], None] = lambda: None

    async def __call__(self, digest: str, position: int, _: Deadline) -> Identity | None:
        self.asked.append((digest, position))
        known = self.known
        await asyncio.sleep(0)
        self.during()
        document = IdentityDocument(CUSTOMER, "customer", None, (), self.expires_in_s)
        return Identity(document) if known else None


class World:
    def __init__(self) -> None:
        self.clock, self.stream, self.lookup = Clock(), Stream(), Lookup()
        self.identities = Identities(self.lookup, self.stream, clock=self.clock)
        self.claim = bearer(new_token())

    async def is_let_in(self, claim: Claim | None = None) -> bool:
        try:
            found = await self.identities.identity_of(claim or self.claim, Deadline.after(5))
        except Unauthenticated:
            return False
        assert found is not None
        assert found.customer_id == str(CUSTOMER)
        return True

    @property
    def lookups(self) -> int:
        return len(self.lookup.asked)


@pytest.fixture
def world() -> World:
    return World()


def new_token() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def bearer(token: str) -> Claim:
    return Claim(token.encode(), bearer=True)


async def test_while_the_stream_vouches_nobody_is_asked_again(world: World) -> None:
    for _ in range(int(KNOWN_S)):
        assert await world.is_let_in()
        world.clock.now += 0.99
    assert world.lookups == 1
    world.clock.now += 1.0
    assert await world.is_let_in()
    assert world.lookups == 2  # a backstop


@pytest.mark.parametrize("since", [None, 1000.5])
async def test_where_the_stream_does_not_vouch_business_is_asked_every_second(
    world: World, since: float | None
) -> None:
    assert await world.is_let_in()
    world.stream.since = since
    for lookups in range(1, 5):
        for _ in range(10):
            assert await world.is_let_in()
        assert world.lookups == lookups
        world.clock.now += BELIEVED_S
        world.stream.since = None if since is None else world.clock.now - 0.01


async def test_what_was_looked_up_after_a_gap_is_vouched_for(world: World) -> None:
    world.stream.since = world.clock.now
    assert await world.is_let_in()
    world.clock.now += 30
    assert await world.is_let_in()
    assert world.lookups == 1


async def test_a_session_that_ends_is_over_when_its_tag_is_heard(world: World) -> None:
    assert await world.is_let_in()
    world.lookup.known = False
    world.clock.now += 0.001
    world.identities.purge(["customer-" + str(uuid4()), "product-" + str(CUSTOMER)], 5)
    assert await world.is_let_in()
    world.identities.purge(["list", TAG], 7)
    assert not await world.is_let_in()
    assert world.lookup.asked[-1][1] == 7  # by who has seen what the message was about


async def test_a_session_that_ends_unheard_is_over_within_a_second(world: World) -> None:
    world.stream.since = None
    assert await world.is_let_in()
    world.lookup.known = False
    world.clock.now += BELIEVED_S
    assert not await world.is_let_in()


async def test_a_session_that_ends_while_it_is_looked_up_is_not_believed(world: World) -> None:
    def end() -> None:
        world.clock.now += 0.001
        world.lookup.known = False
        world.identities.purge([TAG], 7)

    world.lookup.during = end
    assert not await world.is_let_in()
    assert [position for _, position in world.lookup.asked] == [0, 7]


async def test_of_whom_something_is_told_all_the_time_nothing_is_kept(world: World) -> None:
    world.lookup.during = lambda: world.identities.purge([TAG], 7)
    for requests in range(1, 4):
        assert await world.is_let_in()
        assert world.lookups == requests * module.LOOKUPS_IN_A_ROW


async def test_nothing_is_believed_longer_than_it_lasts(world: World) -> None:
    world.lookup.expires_in_s = 0.5
    assert await world.is_let_in()
    world.clock.now += 0.5
    world.lookup.known = False
    assert not await world.is_let_in()


async def test_invented_tokens_push_no_known_one_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNKNOWN_LIMIT", 10)
    assert await world.is_let_in()
    world.lookup.known = False
    for _ in range(50):
        assert not await world.is_let_in(bearer(new_token()))
    assert len(world.identities._unknown) == 10
    assert await world.is_let_in()
    assert world.lookups == 51


async def test_known_tokens_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_LIMIT", 10)
    for _ in range(50):
        assert await world.is_let_in(bearer(new_token()))
    assert world.identities.held == 10


async def test_who_was_told_of_is_forgotten_only_on_the_safe_side(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLD_LIMIT", 10)
    assert await world.is_let_in()
    world.lookup.known = False
    world.clock.now += 0.001
    world.identities.purge([TAG], 1)
    for _ in range(50):
        world.clock.now += 0.001
        world.identities.forget(str(uuid4()))
    assert len(world.identities._told) == 10
    assert not await world.is_let_in()
    world.clock.now += KNOWN_S + 1
    world.identities.forget(str(uuid4()))
    assert len(world.identities._told) == 1


async def test_the_token_itself_is_not_held(world: World) -> None:
    token = new_token()
    assert await world.is_let_in(bearer(token))
    assert token not in str(vars(world.identities))


async def test_one_caller_that_leaves_takes_nobody_along(world: World) -> None:
    first, second = (asyncio.create_task(world.is_let_in()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert world.lookups == 1


def test_an_identity_is_told_to_business_field_by_field() -> None:
    body = (
        b'{"customer_id":"%b","role":"operator","session_id":null,"guests":[],'
        b'"expires_in_s":86400}' % str(CUSTOMER).encode()
    )
    identity = read_identity(body)
    assert identity.fields == [
        (b"x-customer-id", str(CUSTOMER).encode()),
        (b"x-customer-role", b"operator"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"customer_id":"1"}',
        b'{"customer_id":"0198c0de-0000-7000-8000-000000000001","role":"root"}',
        b'{"customer_id":"0198c0de-0000-7000-8000-000000000001\\r\\nx-customer-role: operator"}',
    ],
)
def test_an_identity_of_another_form_is_none(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_identity(body)
