"""What access hears about pages, and that it neither waits nor fails where nobody tells it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from services.access import tag_stream as tag_stream_module
from services.access.tag_stream import SETTLED_S, TagStream
from services.access.targets import PageRule
from services.business.endpoints import page_rules
from services.data.tags import TagPublisher
from services.keepalive import Pool
from services.settings import ValkeySettings
from tests.access.conftest import SECRET
from tests.access.upstream import Upstream, always, answer
from tests.faults.proxy import Accept, FaultProxy
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import settings_of

NOWHERE = ValkeySettings(valkey_url="redis://127.0.0.1:1/0")
HEARD_WITHIN_S = 5.0
RULES = {"pages": [{"path": "/things/{id}", "query": ["size"]}]}


class Held:
    """Holds nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.purged: dict[str, int] = {}
        self.learned: list[list[PageRule]] = []

    def purge(self, tags: list[str], position: int) -> None:
        self.purged |= dict.fromkeys(tags, position)

    def learn(self, rules: Sequence[PageRule]) -> None:
        self.learned.append(list(rules))


@pytest.fixture
def valkey_settings(stack: RunningStack) -> ValkeySettings:
    return settings_of(stack, ValkeySettings)


def saying(document: object) -> bytes:
    return answer(json.dumps(document).encode())


@asynccontextmanager
async def listening(
    url: str, held: Held, settings: ValkeySettings = NOWHERE
) -> AsyncIterator[TagStream]:
    stream, pool = TagStream(settings), Pool.to(url, size=1)
    stream.start(held, pool, SECRET.encode())
    try:
        yield stream
    finally:
        await stream.aclose()
        await pool.aclose()


def shown(logs: Sequence[Any], level: str) -> list[str]:
    return [str(line["event"]) for line in logs if line["log_level"] == level]


async def test_the_pages_are_learned_from_business(stack: RunningStack) -> None:
    held, stream = Held(), TagStream(NOWHERE)
    pool = Pool.to(stack.environment["TERCET_BUSINESS_URL"], size=1)
    stream.start(held, pool, stack.secret("internal_secret").encode())
    try:
        await until(lambda: bool(held.learned), within_s=HEARD_WITHIN_S, what="pages are known")
    finally:
        await stream.aclose()
        await pool.aclose()
    assert held.learned == [[PageRule(**rule) for rule in page_rules()]]


@pytest.mark.parametrize(
    "first", [None, b"no HTTP", saying([]), saying({"pages": [{}]}), answer(b"", 503)]
)
async def test_business_is_asked_until_it_says_which_pages_there_are(
    first: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_stream_module, "ASK_AGAIN_S", 0.01)
    held = Held()
    with capture_logs() as logs:
        async with Upstream(always(first), pages=None) as business, listening(business.url, held):
            asked = business.requests
            await until(lambda: len(asked) > 5, within_s=HEARD_WITHIN_S, what="it asks again")
            business.script = always(saying(RULES))
            await until(lambda: bool(held.learned), within_s=HEARD_WITHIN_S, what="pages are known")
            assert {(seen.target, seen.header(b"x-internal-secret")) for seen in asked} == {
                (b"/internal/pages", SECRET.encode())
            }
    assert held.learned == [[PageRule("/things/{id}", ["size"])]]
    assert shown(logs, "warning").count("business does not say what is a page") == 1


async def test_pages_are_told_when_they_change_and_kept_while_business_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ASK_AGAIN_S", "ASK_EVERY_S"):
        monkeypatch.setattr(tag_stream_module, name, 0.01)
    held = Held()

    async def asked_again() -> None:
        before = len(business.requests)
        await until(
            lambda: len(business.requests) > before + 3, within_s=HEARD_WITHIN_S, what="it asks"
        )

    async with (
        Upstream(always(saying(RULES)), pages=None) as business,
        listening(business.url, held),
    ):
        await asked_again()
        assert len(held.learned) == 1  # the same again is nothing new
        business.script = always(None)
        await asked_again()
        assert len(held.learned) == 1
        business.script = always(saying({"pages": []}))
        await until(lambda: held.learned[1:] == [[]], within_s=HEARD_WITHIN_S, what="none are left")


async def test_without_valkey_it_starts_and_stops_at_once() -> None:
    started_at = time.monotonic()
    async with Upstream() as business, listening(business.url, Held()) as stream:
        assert stream.verified_since() is None
    assert time.monotonic() - started_at < 0.5


async def test_purges_arrive_and_are_certain_once_business_must_know_them_too(
    stack: RunningStack, valkey_settings: ValkeySettings, valkey_url: str
) -> None:
    held, valkey, tag = Held(), Redis.from_url(valkey_url), uuid4().hex
    publisher = TagPublisher(valkey, uuid4().hex)
    async with Upstream() as business, listening(business.url, held, valkey_settings) as stream:
        assert stream.verified_since() is None

        async def is_purged() -> bool:
            await publisher.publish([tag], 17)
            return tag in held.purged

        await until(is_purged, within_s=HEARD_WITHIN_S, what="the purge arrives")
        assert held.purged[tag] == 17
        since = stream.verified_since()
        assert since is not None
        # What is fetched right now may have come from a process that has not heard of a purge.
        assert SETTLED_S - 1 < since - time.monotonic() <= SETTLED_S
    await valkey.aclose()


async def test_a_connection_to_valkey_that_is_lost_makes_all_uncertain_until_it_is_back(
    stack: RunningStack, valkey_settings: ValkeySettings
) -> None:
    host, _, port = stack.part("valkey")["address"].rpartition(":")
    async with FaultProxy(host, int(port)) as proxy, Upstream() as business:
        settings = valkey_settings.model_copy(
            update={"valkey_url": f"redis://{proxy.host}:{proxy.port}/0"}
        )
        with capture_logs() as logs:
            async with listening(business.url, Held(), settings) as stream:

                def is_certain() -> bool:  # by the heartbeats of the stack's own relay
                    return stream.verified_since() is not None

                await until(is_certain, within_s=HEARD_WITHIN_S, what="a relay is heard")
                before = stream.verified_since()
                await proxy.accept(Accept.RESET)
                proxy.reset_all()
                tried = proxy.counts().connections_total + 3
                await until(
                    lambda: proxy.counts().connections_total >= tried,
                    within_s=HEARD_WITHIN_S,
                    what="it has tried several times",
                )
                assert stream.verified_since() is None
                await proxy.accept(Accept.FORWARD)
                await until(is_certain, within_s=HEARD_WITHIN_S, what="the relay is heard again")
                after = stream.verified_since()
                assert before is not None
                assert after is not None
                assert after > before
        assert shown(logs, "warning").count("tag stream lost") == 1
        assert shown(logs, "info").count("tag stream heard again") == 1
