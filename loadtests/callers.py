"""Callers in this process: so many tasks, each asking again as soon as it has its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from loadtests.programs import BrokenRunError

Ask = Callable[[], Awaitable[object]]


class Called(NamedTuple):
    """Answers a second, CPU time of this process for each, and how long they took."""

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


async def call(ask: Ask, *, callers: int, seconds: float, warm_up_s: float) -> Called:
    """Measure for so long after a warm-up. An error of one ends it: it would be no measurement."""
    if warm_up_s:
        await _call(ask, callers, warm_up_s)
    return await _call(ask, callers, seconds)


async def _call(ask: Ask, callers: int, seconds: float) -> Called:
    took_s: list[float] = []
    began_at, began_cpu_s = time.perf_counter(), time.process_time()
    ends_at = began_at + seconds

    async def caller() -> None:
        at = time.perf_counter()
        while at < ends_at:
            await ask()
            now = time.perf_counter()
            took_s.append(now - at)
            at = now

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
    except* Exception as errors:
        raise BrokenRunError(f"a call failed: {errors.exceptions[0]!r}") from errors
    cpu_s, elapsed_s = time.process_time() - began_cpu_s, time.perf_counter() - began_at
    took_s.sort()
    return Called(
        len(took_s) / elapsed_s,
        cpu_s * 1e6 / len(took_s),
        took_s[len(took_s) // 2] * 1000,
        took_s[int(len(took_s) * 0.99)] * 1000,
    )
