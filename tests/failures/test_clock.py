"""Experiment 54: the clock of one process of access jumps by an hour, forth and back.

Limits of time are by the monotonic clock, so none comes early or late; what is dated by the wall
clock, the token of what a customer has seen, holds by its exact rule. libfaketime (Debian's
package faketime) moves the clock of that process and of no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from infra.local.addresses import get
from services.consistency import LIFETIME_S, Seal, Seen
from tests.access.conftest import COOKIE_SECRET, Answer, Client, request
from tests.access.live_client import close_all, listen
from tests.access.test_identity import CUSTOMER, Business
from tests.access.test_metrics import value
from tests.access.upstream import Seen as Request
from tests.access.upstream import Upstream, answer
from tests.failures.access_process import access, free_port
from tests.faults.figures import record
from tests.faults.waiting import until
from tests.own_valkey import own_valkey

LIBRARIES: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
HOUR_S: Final = 3600
SHORT: Final = (HOUR_S, -HOUR_S)
LONG: Final = (HOUR_S, -HOUR_S, 0, -HOUR_S, HOUR_S, -5, 0, 5, HOUR_S, 0)
DEADLINE_MS: Final = 800
KEEP_ALIVE_S: Final = 1
ANSWER_S: Final = 0.3  # what business takes
SLACK_S: Final = 2.0  # of a busy machine; a clock that counted would be an hour early or late
# Of two classes of traffic: who never answers is asked less, and the other is not.
SLOW: Final = "/orders"
NEVER: Final = "/orders/never"
SEAL: Final = Seal(COOKIE_SECRET)
TOKEN_SEEN: Final = Seen(3, 4711)
FIELD: Final = b"x-internal-consistency"

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the package faketime is not installed")


class Shop(Business):
    """Answers late, or never; remembers who was said to have seen something."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[bytes, bytes | None] = {}

    async def __call__(self, seen: Request) -> bytes:
        if seen.target.startswith(b"/internal/identities/"):
            return await super().__call__(seen)
        if seen.target == NEVER.encode():
            await asyncio.sleep(60)
        if seen.target == SLOW.encode():
            await asyncio.sleep(ANSWER_S)
        self.told[seen.target] = seen.header(FIELD)
        return answer()


@dataclass
class Clock:
    """The wall clock of a process: real time and an offset."""

    file: Path
    offset_s: float = 0.0

    def step(self, offset_s: float) -> None:
        self.offset_s = offset_s
        self.file.write_text(f"{offset_s:+.1f}\n")

    @property
    def now(self) -> float:
        return time.time() + self.offset_s


@dataclass
class Seen54:
    """What came of it. took: seconds of each request by its target."""

    took: dict[str, list[float]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@asynccontextmanager
async def jumping(
    folder: Path, shop: Shop, **settings: str
) -> AsyncIterator[tuple[int, int, Clock]]:
    """access with a clock of its own: its port, that of its metrics, and the clock."""
    clock, internal = Clock(folder / "clock"), free_port()
    clock.step(0)
    environment = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock.file),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "TERCET_ACCESS_TIMEOUT_MS": str(DEADLINE_MS),
        "TERCET_KEEP_ALIVE_S": str(KEEP_ALIVE_S),
        "TERCET_ACCESS_INTERNAL_PORT": str(internal),
        **settings,
    }
    async with Upstream(shop) as upstream, access(upstream, folder, **environment) as (_, port):
        yield port, internal, clock


async def asked(port: int, target: str, seen: Seen54, *lines: str, method: str = "GET") -> Answer:
    """One request on a connection of its own, timed by a clock that does not jump."""
    began_at = time.monotonic()
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        found = await client.send(request(target, *lines, method=method))
    finally:
        await client.close()
    seen.took.setdefault(target, []).append(time.monotonic() - began_at)
    seen.ids.append(found.headers["x-request-id"])
    return found


async def silence(port: int) -> float:
    """How long a connection is kept on which nothing is asked any more."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    await client.send(request("/live"))
    began_at = time.monotonic()
    assert await client.ended() == b""
    await client.close()
    return time.monotonic() - began_at


@pytest.mark.parametrize("steps", [SHORT, pytest.param(LONG, marks=pytest.mark.faults)])
async def test_a_clock_that_jumps_by_an_hour_moves_no_limit_and_doubles_no_id(
    tmp_path: Path, steps: Sequence[int]
) -> None:
    shop, seen = Shop(), Seen54()
    idle_s: list[float] = []
    async with (
        own_valkey() as valkey,
        jumping(tmp_path, shop, TERCET_VALKEY_URL=valkey.url) as (port, internal, clock),
    ):
        listener = await listen(port, "products=a")
        await listener.begun()
        date = (await asked(port, "/orders/quick", seen)).headers.get("date", "")
        for step_s in steps:
            under_way = asyncio.gather(
                asked(port, SLOW, seen, method="POST"),
                asked(port, NEVER, seen),
                asked(port, SLOW, seen, method="POST"),
            )
            silent = asyncio.create_task(silence(port))
            await asyncio.sleep(ANSWER_S / 3)  # they are with business
            clock.step(step_s)
            first, never, second = await under_way
            idle_s.append(await silent)
            if [first.status, never.status, second.status] != [200, 504, 200]:
                seen.wrong.append(f"{step_s}: {first.status} {never.status} {second.status}")
            for age_s in (LIFETIME_S - 1, LIFETIME_S + 1, 1 - LIFETIME_S, -1 - LIFETIME_S):
                token = SEAL.token(TOKEN_SEEN, CUSTOMER, clock.now - age_s).decode()
                target = f"/orders/{step_s}-{age_s}"
                credential = f"authorization: Bearer {shop.token}"
                await asked(port, target, seen, credential, f"consistency-token: {token}")
                believed = shop.told[target.encode()] == TOKEN_SEEN.text.encode()
                if believed != (abs(age_s) <= LIFETIME_S):
                    seen.wrong.append(f"{step_s}: a token of {age_s} s, believed: {believed}")
            state = await valkey.tell("product:a")
            await listener.told(state)
        moved = (await asked(port, "/orders/quick", seen)).headers.get("date", "")
        _, metrics = await get("127.0.0.1", internal, "/metrics", 5.0)
        total_s = value(metrics, "tercet_access_forward_seconds_sum")
        await close_all()
    early = [
        *(took for took in seen.took[SLOW] if took < ANSWER_S),
        *(took for took in seen.took[NEVER] if took < DEADLINE_MS / 1000),
        *(took for took in idle_s if took < KEEP_ALIVE_S * 0.9),
    ]
    late = [
        *(took for took in seen.took[SLOW] if took > ANSWER_S + SLACK_S),
        *(took for took in seen.took[NEVER] if took > DEADLINE_MS / 1000 + SLACK_S),
        *(took for took in idle_s if took > KEEP_ALIVE_S + SLACK_S),
    ]
    doubled = len(seen.ids) - len(set(seen.ids))
    passed = not (early or late or doubled or seen.wrong) and not listener.ended
    record(
        54,
        "the clock of access jumps by an hour",
        passed,
        steps_s=list(steps),
        requests=len(seen.ids),
        early=len(early),
        late=len(late),
        ids_doubled=doubled,
        wrong=seen.wrong,
    )
    assert (early, late, doubled, seen.wrong) == ([], [], 0, [])
    assert not listener.ended
    assert 0 < total_s < len(seen.ids) * (DEADLINE_MS / 1000 + SLACK_S)  # no span is negative
    assert date
    assert moved


async def test_the_clock_of_the_test_before_does_jump(tmp_path: Path) -> None:
    """Without that it would show nothing: Date follows the wall clock."""
    async with jumping(tmp_path, Shop()) as (port, _, clock):
        seen = Seen54()
        clock.step(-HOUR_S)

        async def is_an_hour_ago() -> bool:
            date = (await asked(port, "/orders/quick", seen)).headers["date"]
            told = time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")
            then = time.gmtime(time.time() - HOUR_S)
            return (told.tm_mday, told.tm_hour) == (then.tm_mday, then.tm_hour)

        await until(is_an_hour_ago, within_s=10, what="its clock is an hour ago")
