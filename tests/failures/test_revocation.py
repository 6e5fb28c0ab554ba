"""S16 at length: sessions that end while what tells of it is killed, frozen or late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.failures.access_process import free_port
from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.security.processes import environment_of, process
from tests.security.revocation import Crowd, begin, end
from tests.shopping import Books

ROUNDS: Final = 6
SESSIONS: Final = 10
WITHIN_S: Final = 1.0
HEALED_WITHIN_S: Final = 60.0

Fault = Callable[[Parts], AbstractAsyncContextManager[Any]]
FAULTS: Final[dict[str, tuple[str, Fault | None]]] = {
    "nothing fails": ("", None),
    "Valkey is killed": ("valkey", lambda parts: parts.held_down("valkey")),
    "Valkey is frozen": ("valkey", lambda parts: parts.paused("valkey")),
    "the relay is frozen": ("worker-outbox", lambda parts: parts.paused("worker-outbox")),
    "the relay is killed": ("worker-outbox", lambda parts: parts.held_down("worker-outbox")),
    "a standby lags": ("standby", lambda parts: parts.paused("standby", child="walreceiver")),
}


@pytest_asyncio.fixture
async def urls(broken_stack: RunningStack, tmp_path: Path) -> AsyncIterator[list[str]]:
    """The stack's own access, and another process of it."""
    port, ready = free_port(), tmp_path / "ready"
    environment = environment_of(
        broken_stack,
        TERCET_ACCESS_PORT=str(port),
        TERCET_ACCESS_INTERNAL_PORT="0",
        TERCET_READY_FILE=str(ready),
    )
    with process("access", environment=environment, log=tmp_path / "access.log"):
        await until(ready.exists, within_s=30, what="access is ready")
        yield [broken_stack.url, f"http://127.0.0.1:{port}"]


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
async def test_no_session_is_let_in_a_second_after_its_end(
    fault: str, parts: Parts, books: Books, urls: list[str]
) -> None:
    part, happens = FAULTS[fault]
    dice, longest_s, others = random.Random(16), list[float](), list[int]()
    for _ in range(ROUNDS):
        sessions = [await begin(books) for _ in range(SESSIONS)]
        async with Crowd(urls, sessions) as crowd, AsyncExitStack() as faults:
            await until(crowd.all_were_let_in, within_s=10, what="all are let in")
            await asyncio.sleep(1.0 + dice.random())  # believed by the stream's word from now on
            await faults.enter_async_context(nullcontext() if happens is None else happens(parts))
            await asyncio.sleep(dice.choice((0.0, 0.5, 2.0)))
            ended_at = await end(books, sessions)
            await until(crowd.all_are_refused, within_s=10, what="all are refused")
            await faults.aclose()  # what comes late, comes now
            await asyncio.sleep(1.0)
            longest_s.append(crowd.longest_s(ended_at))
            others += crowd.others
        if part:
            await parts.wait_until_healthy(part, within_s=HEALED_WITHIN_S)
    stale = sum(seconds >= WITHIN_S for seconds in longest_s)
    passed = stale == 0 and not others
    record(
        7,
        f"sessions that end while {fault}" if part else "sessions that end",
        passed,
        sessions=ROUNDS * SESSIONS * len(urls),
        let_in_after_a_second=stale,
        longest_let_in_ms=round(1000 * max(longest_s)),
        median_ms=round(1000 * sorted(longest_s)[ROUNDS // 2]),
        other_answers=len(others),
    )
    assert passed, (longest_s, others)
