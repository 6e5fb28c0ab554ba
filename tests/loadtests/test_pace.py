"""Waiting for a moment."""

from __future__ import annotations

import statistics
import time

from loadtests.pace import Pace


async def test_a_wait_is_never_early_and_mostly_exact() -> None:
    pace = Pace()
    late_s = []
    try:
        for _ in range(100):
            moment = time.monotonic() + 0.0037
            assert await pace.until(moment)
            late_s.append(time.monotonic() - moment)
    finally:
        pace.close()
    assert min(late_s) >= -0.00005
    assert statistics.median(late_s) < 0.001  # what an event loop's own timer may be late


async def test_a_moment_that_has_passed_is_not_waited_for() -> None:
    pace = Pace()
    try:
        assert not await pace.until(time.monotonic() - 1)
    finally:
        pace.close()
