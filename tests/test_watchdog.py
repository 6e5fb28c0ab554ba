"""The watchdog: a loop that does not turn is seen while it does not, with what holds it up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.testing import capture_logs

from services.watchdog import BEAT_S, LATE_S, Watchdog
from tests.faults.waiting import until

Logs = list[Any]
BLOCKED = "event loop is blocked"
AGAIN = "event loop turns again"


@asynccontextmanager
async def watching(**options: float) -> AsyncIterator[tuple[Watchdog, Logs]]:
    watchdog = Watchdog(**options)
    with capture_logs() as logs:
        watchdog.start()
        await asyncio.sleep(3 * BEAT_S)
        try:
            yield watchdog, logs
        finally:
            watchdog.stop()


def of(event: str, logs: Logs) -> Logs:
    return [line for line in logs if line["event"] == event]


def a_call_that_waits(seconds: float) -> None:
    time.sleep(seconds)


def a_call_that_computes(seconds: float) -> None:
    until_cpu_s = time.thread_time() + seconds
    while time.thread_time() < until_cpu_s:
        sum(range(1000))


async def test_what_blocks_the_loop_is_named_while_it_does() -> None:
    async with watching() as (watchdog, logs):
        seen_within: Logs = []

        def block() -> None:
            for _ in range(20):  # while nothing else runs on the loop, it looks at the log itself
                a_call_that_waits(0.02)
                seen_within[:] = of(BLOCKED, logs)

        asyncio.get_running_loop().call_soon(block)
        await until(lambda: bool(of(AGAIN, logs)), within_s=10, what="it turns again")
        assert len(seen_within) == 1
        line = seen_within[0]
        assert "a_call_that_waits" in line["stack"]
        assert line["late_ms"] >= LATE_S * 1000
        assert of(AGAIN, logs)[0]["blocked_ms"] >= line["late_ms"]
        assert watchdog.blocked_total >= 1
        assert sum(watchdog.lag.slots[-6:]) >= 1  # above 0.1 s


async def test_its_lines_name_the_process_as_all_do() -> None:
    with bound_contextvars(process="this one"), capture_logs([merge_contextvars]) as logs:
        watchdog = Watchdog()
        watchdog.start()
        await asyncio.sleep(3 * BEAT_S)
        a_call_that_waits(4 * LATE_S)
        await until(lambda: bool(of(AGAIN, logs)), within_s=10, what="it turns again")
        watchdog.stop()
    assert [line["process"] for line in of(BLOCKED, logs)] == ["this one"]


async def test_computing_is_told_from_waiting_by_the_cpu_that_it_took() -> None:
    async with watching() as (_, logs):
        asyncio.get_running_loop().call_soon(a_call_that_computes, 0.4)
        await until(lambda: bool(of(AGAIN, logs)), within_s=10, what="it turns again")
        (line, *_) = of(BLOCKED, logs)
        assert "a_call_that_computes" in line["stack"]
        assert line["cpu_ms"] > 20


async def test_a_loop_that_is_blocked_again_and_again_is_written_once() -> None:
    async with watching() as (watchdog, logs):
        blocked_before = watchdog.blocked_total
        for _ in range(3):
            a_call_that_waits(0.3)
            await asyncio.sleep(2 * BEAT_S)
        assert watchdog.blocked_total - blocked_before >= 3
        assert len(of(BLOCKED, logs)) == 1


async def test_how_many_were_not_written_is_told_with_the_next_that_is() -> None:
    async with watching(log_every_s=0.8) as (_, logs):
        for _ in range(3):
            a_call_that_waits(0.3)
            await asyncio.sleep(2 * BEAT_S)

        async def blocked_once_more() -> bool:
            a_call_that_waits(0.3)
            await asyncio.sleep(2 * BEAT_S)
            return len(of(BLOCKED, logs)) > 1

        await until(blocked_once_more, within_s=20, what="a second one is written")
        assert of(BLOCKED, logs)[1]["unlogged"] >= 1


async def test_a_loop_that_turns_is_not_reported_and_its_lag_is_small() -> None:
    """Only what the machine itself takes away may be seen as late."""
    async with watching() as (watchdog, logs):
        for _ in range(50):
            await asyncio.sleep(0.01)
        for line in of(BLOCKED, logs):
            assert line["cpu_ms"] < LATE_S * 1000
        assert watchdog.lag.count >= 3


async def test_a_watchdog_that_is_stopped_looks_no_more() -> None:
    async with watching() as (watchdog, logs):
        watchdog.stop()
        assert watchdog._thread is not None
        thread = watchdog._thread
        await until(lambda: not thread.is_alive(), within_s=5, what="its thread has ended")
        a_call_that_waits(0.3)
        await asyncio.sleep(2 * BEAT_S)
        assert of(BLOCKED, logs) == []
