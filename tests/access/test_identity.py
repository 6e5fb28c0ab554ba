"""Who a request comes from, as business sees it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets

import pytest

from services.access import identity
from services.access.identity import Claim, Identities
from services.deadline import Deadline
from services.problems import Unauthenticated
from tests.access.conftest import SECRET, Access
from tests.access.upstream import Seen, answer

CUSTOMER = "0198c0de-0000-7000-8000-000000000001"


def new_token() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


class Business:
    """Knows one token."""

    def __init__(self) -> None:
        self.token = new_token()
        self.lookups = 0

    async def __call__(self, seen: Seen) -> bytes:
        if not seen.target.startswith(b"/internal/identities/"):
            return answer()
        assert seen.header(b"x-internal-secret") == SECRET.encode()
        self.lookups += 1
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        if seen.target == f"/internal/identities/{digest}".encode():
            return answer(f'{{"customer_id":"{CUSTOMER}"}}'.encode())
        return answer(b"{}", 404)


@pytest.fixture
def business(access: Access) -> Business:
    access.upstream.script = business = Business()
    return business


def last(access: Access) -> Seen:
    return access.upstream.requests[-1]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_bearer_token_becomes_its_customer(
    access: Access, business: Business, scheme: str
) -> None:
    response = await access.get("/orders/1", f"authorization: {scheme} {business.token}")
    assert response.status == 200
    assert last(access).header(b"x-customer-id") == CUSTOMER.encode()
    assert last(access).header(b"authorization") is None


async def test_a_cookie_becomes_its_customer(access: Access, business: Business) -> None:
    await access.get("/orders/1", f"cookie: a=b; tercet_customer={business.token}; c=d")
    assert last(access).header(b"x-customer-id") == CUSTOMER.encode()


async def test_an_unknown_bearer_token_is_401_and_not_passed_on(
    access: Access, business: Business
) -> None:
    response = await access.get("/orders/1", f"authorization: Bearer {new_token()}")
    assert response.status == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert last(access).target.startswith(b"/internal/")


@pytest.mark.parametrize("value", ["Bearer", "Bearer x", "Bearer " + "é" * 43, "Basic YTpi", "x"])
async def test_what_can_not_be_a_token_is_401_without_a_lookup(
    access: Access, business: Business, value: str
) -> None:
    assert (await access.get("/orders/1", f"authorization: {value}")).status == 401
    assert business.lookups == 0


async def test_two_authorizations_are_400(access: Access, business: Business) -> None:
    lines = [f"authorization: Bearer {business.token}"] * 2
    assert (await access.get("/orders/1", *lines)).status == 400


async def test_an_unknown_cookie_is_nobody(access: Access, business: Business) -> None:
    response = await access.get("/orders/1", f"cookie: tercet_customer={new_token()}")
    assert response.status == 200
    assert last(access).header(b"x-customer-id") is None


async def test_a_page_is_fetched_for_nobody(access: Access, business: Business) -> None:
    await access.get(
        "/products/a", f"authorization: Bearer {business.token}", f"cookie: x={business.token}"
    )
    seen = last(access)
    assert {b"authorization", b"cookie", b"x-customer-id"}.isdisjoint(seen.names())
    assert business.lookups == 0


async def test_an_operators_token_is_for_business_to_judge(
    access: Access, business: Business
) -> None:
    await access.get("/operator/stock", "authorization: Bearer operator-token", method="POST")
    assert last(access).header(b"authorization") == b"Bearer operator-token"
    assert last(access).header(b"x-customer-id") is None
    assert business.lookups == 0


async def test_a_client_can_not_name_its_own_customer(access: Access, business: Business) -> None:
    await access.get("/orders/1", f"x-customer-id: {CUSTOMER}", f"X_Customer_Id: {CUSTOMER}")
    assert {b"x-customer-id", b"x_customer_id"}.isdisjoint(last(access).names())


async def test_a_token_is_looked_up_once_for_many_requests(
    access: Access, business: Business
) -> None:
    calls = [access.get("/orders/1", f"authorization: Bearer {business.token}") for _ in range(10)]
    assert {response.status for response in await asyncio.gather(*calls)} == {200}
    assert business.lookups == 1


async def test_an_unknown_token_is_looked_up_once_for_many_requests(
    access: Access, business: Business
) -> None:
    line = f"authorization: Bearer {new_token()}"
    assert {(await access.get("/orders/1", line)).status for _ in range(5)} == {401}
    assert business.lookups == 1


async def test_business_away_is_503_and_not_401(access: Access) -> None:
    async def broken(_: Seen) -> bytes:
        return answer(b"", 500)

    access.upstream.script = broken
    line = f"authorization: Bearer {new_token()}"
    response = await access.get("/orders/1", line)
    assert response.status == 503
    assert response.headers["retry-after"] == "1"


# The held identities themselves


class Lookup:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known = True

    async def __call__(self, digest: str, _: Deadline) -> str | None:
        self.asked.append(digest)
        await asyncio.sleep(0)
        return CUSTOMER if self.known else None


def bearer(token: str) -> Claim:
    return Claim(token.encode(), bearer=True)


async def test_invented_tokens_push_no_known_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "UNKNOWN_LIMIT", 10)
    lookup = Lookup()
    identities = Identities(lookup)
    token = new_token()
    await identities.customer_of(bearer(token), Deadline.after(5))
    lookup.known = False
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            await identities.customer_of(bearer(new_token()), Deadline.after(5))
    assert len(identities._unknown) == 10
    assert await identities.customer_of(bearer(token), Deadline.after(5)) == CUSTOMER
    assert len(lookup.asked) == 51


async def test_known_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "KNOWN_LIMIT", 10)
    identities = Identities(Lookup())
    for _ in range(50):
        await identities.customer_of(bearer(new_token()), Deadline.after(5))
    assert len(identities._known) == 10


async def test_a_held_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "KNOWN_S", 0.0)
    lookup = Lookup()
    identities = Identities(lookup)
    token = new_token()
    assert await identities.customer_of(bearer(token), Deadline.after(5)) == CUSTOMER
    lookup.known = False  # the customer was closed
    with pytest.raises(Unauthenticated):
        await identities.customer_of(bearer(token), Deadline.after(5))
    assert len(lookup.asked) == 2


async def test_the_token_itself_is_not_held() -> None:
    identities = Identities(Lookup())
    token = new_token()
    await identities.customer_of(bearer(token), Deadline.after(5))
    assert token not in str(vars(identities))


async def test_one_caller_that_leaves_takes_nobody_along() -> None:
    lookup = Lookup()
    identities = Identities(lookup)
    token = new_token()
    first = asyncio.create_task(identities.customer_of(bearer(token), Deadline.after(5)))
    second = asyncio.create_task(identities.customer_of(bearer(token), Deadline.after(5)))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == CUSTOMER
    assert len(lookup.asked) == 1
