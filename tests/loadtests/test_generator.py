"""The open loop against servers that are well, stand still, or are too slow."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time

import pytest

from loadtests import schedule
from loadtests.generator import BEHIND_LIMIT_S, Start, open_loop
from loadtests.programs import output_of
from loadtests.recorder import Recorder
from loadtests.shop import Goods, ProductPages
from services.keepalive import Pool
from tests.faults.waiting import until
from tests.loadtests.conftest import StartShop

GOODS = Goods(["red-shirt", "blue-shirt"], [])


async def run(
    url: str,
    *,
    rate: float,
    seconds: float,
    connections: int = 64,
    timeout_s: float = 5.0,
    recorder: Recorder | None = None,
) -> Recorder:
    recorder = recorder or Recorder("product page")
    pool = Pool.to(url, size=connections)
    try:
        send = ProductPages(pool, GOODS, seed=1)
        arrivals = schedule.constant(rate, seconds)
        await open_loop(arrivals, send, recorder, timeout_s=timeout_s)
    finally:
        await pool.aclose()
    return recorder


async def test_every_arrival_is_sent_and_answered(start_shop: StartShop) -> None:
    async with start_shop() as shop:
        began_at = time.monotonic()
        recorder = await run(shop.url, rate=300, seconds=1)
        took_s = time.monotonic() - began_at
    assert (recorder.due, recorder.answered, recorder.unsent) == (300, 300, 0)
    assert not recorder.errors
    assert took_s > 0.99  # the schedule was kept, not rushed


async def test_a_stall_of_the_server_is_seen_by_all_that_were_due_in_it(
    start_shop: StartShop,
) -> None:
    """600 arrivals in 3 s, the server stopped for 0.5 s of it: 100 of them wait 0 to 500 ms.

    So a tenth of all waits over 200 ms. A generator that waits for its answers, or counts from
    the moment it gets to send, shows only the few that were under way.
    """
    async with start_shop() as shop:
        recorder = Recorder("product page")
        running = asyncio.create_task(run(shop.url, rate=200, seconds=3, recorder=recorder))
        await until(lambda: recorder.answered >= 200, within_s=10, what="a second has passed")
        shop.pause()
        paused_at = time.monotonic()
        await until(lambda: time.monotonic() >= paused_at + 0.5, within_s=2, what="the stall")
        shop.resume()
        stall_ms = (time.monotonic() - paused_at) * 1000
        await running
    assert (recorder.due, recorder.answered, recorder.unsent) == (600, 600, 0)
    assert recorder.percentile_ms(50) < 100
    assert recorder.percentile_ms(90) > 100
    assert 0.8 * stall_ms < recorder.percentile_ms(99) <= recorder.max_ms()
    assert 0.9 * stall_ms < recorder.max_ms() < stall_ms + 500


@pytest.mark.faults
async def test_a_stall_is_seen_through_a_single_connection_too(start_shop: StartShop) -> None:
    """Waiting for the only connection is part of the latency: it began when it was due."""
    async with start_shop("--work-ms", "20") as shop:
        recorder = await run(shop.url, rate=100, seconds=1, connections=1, timeout_s=30)
    # 100 requests of at least 20 ms, one after the other, all due within the first second.
    assert recorder.answered == 100
    assert recorder.max_ms() > 900
    assert recorder.percentile_ms(50) > 400


async def test_a_server_that_is_too_slow_leaves_arrivals_unsent_and_fails_the_run(
    start_shop: StartShop,
) -> None:
    async with start_shop("--work-ms", "50") as shop:  # 20 a second
        recorder = await run(shop.url, rate=200, seconds=1, connections=4, timeout_s=0.5)
    assert recorder.unsent > 100
    assert recorder.failed
    assert recorder.due == 200 == recorder.sent + recorder.unsent


async def test_answers_that_never_come_are_errors_and_latency(start_shop: StartShop) -> None:
    async with start_shop() as shop:
        await run(shop.url, rate=50, seconds=0.2)
        shop.pause()
        recorder = await run(shop.url, rate=50, seconds=0.2, timeout_s=0.3)
    assert recorder.errors == {"no answer in time": 10}
    assert recorder.max_ms() >= 299


async def test_a_server_that_is_away_is_an_error_of_every_arrival(start_shop: StartShop) -> None:
    async with start_shop() as shop:
        pass
    recorder = await run(shop.url, rate=100, seconds=0.2)
    assert recorder.errors == {"no connection": 20}


async def test_a_generator_that_falls_behind_says_so() -> None:
    """Work of the generator's own that blocks: what is due meanwhile is late, then unsent."""
    recorder = Recorder("blocked")
    calls = 0

    async def block_once(_: Start) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            time.sleep(BEHIND_LIMIT_S + 0.5)  # noqa: ASYNC251  # the fault under test

    await open_loop(schedule.constant(100, 2), block_once, recorder, timeout_s=5)
    assert recorder.late_us > BEHIND_LIMIT_S * 1e6
    assert 0 < recorder.unsent < 100
    assert recorder.sent + recorder.unsent == recorder.due == 200
    assert recorder.failed


async def test_a_loop_that_is_cancelled_takes_its_requests_along(start_shop: StartShop) -> None:
    async with start_shop() as shop:
        shop.pause()
        recorder = Recorder("product page")
        running = asyncio.create_task(run(shop.url, rate=100, seconds=60, recorder=recorder))
        await until(lambda: recorder.due > 10, within_s=5, what="some are under way")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert recorder.sent == 0


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
async def test_wrk_sees_a_stall_as_the_open_loop_does_and_a_closed_loop_does_not(
    start_shop: StartShop,
) -> None:
    """A quarter of the time the server stands still: a tenth of all waits are over 300 ms.

    wrk is a closed loop too, but adds to what it saw the waits of requests that it would have sent
    (stats_correct in its source). Without that, a stall is one answer of thousands.
    """
    async with start_shop() as shop:
        url = f"{shop.url}/products/red-shirt"
        closed = [sys.executable, "-m", "loadtests.closed", "--url", url]
        recorder = Recorder("product page")
        loads = asyncio.gather(
            output_of(["wrk", "-t1", "-c1", "-d2s", "--latency", url], None),
            output_of([*closed, "--connections=1", "--seconds=3"], None),
            run(shop.url, rate=20, seconds=2, recorder=recorder),
        )
        await until(lambda: recorder.answered >= 12, within_s=10, what="0.6 s have passed")
        shop.pause()
        await asyncio.sleep(0.5)
        shop.resume()
        by_wrk, by_closed, _ = await loads
    ours_ms = recorder.percentile_ms(90)
    assert 150 < ours_ms < 600
    assert 0.4 < wrk_percentiles_ms(by_wrk)["90"] / ours_ms < 2.5
    assert json.loads(by_closed)["p99_ms"] < 150


def wrk_percentiles_ms(said: str) -> dict[str, float]:
    """50, 75, 90 and 99 of what wrk prints with --latency."""
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    found = re.findall(r"^ +(\d+)% +([\d.]+)(us|ms|s) *$", said, re.MULTILINE)
    return {percent: float(value) * units[unit] for percent, value, unit in found}
