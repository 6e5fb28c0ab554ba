"""Experiment 53 and what else happens to live streams: slow readers, killed workers, restarts."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil
import pytest
import pytest_asyncio

from tests.access.conftest import request
from tests.access.live_client import Listener, close_all, listen
from tests.access.upstream import Upstream
from tests.failures.access_process import access, children, rolled
from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.own_valkey import OwnValkey, own_valkey
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer

STREAMS = 200
TOLD_AGAIN_S = 30.0  # the supervisor starts the worker anew, and the lease of the dead one ends
CUT_AT_BYTES = 65_536
STOP_WITHIN_S = 3.5  # as without streams, and the parent's own time
STATE = b'{"filler":"%b","n":%d}'


@pytest_asyncio.fixture(autouse=True)
async def all_closed() -> AsyncIterator[None]:
    yield
    await close_all()


def stock(listener: Listener) -> list[int]:
    return [orjson.loads(data)["variants"][0]["available"] for data in listener.data]


async def test_a_killed_worker_is_followed_by_another_that_tells_what_it_has_not(
    broken_stack: RunningStack, books: Books, parts: Parts, customer: Customer
) -> None:
    goods = await books.goods(available=9)
    listener = await listen(urlsplit(broken_stack.url).port or 80, f"products={goods.slug}")
    await until(lambda: 9 in stock(listener), within_s=TOLD_AGAIN_S, what="it is told")
    parts.kill("worker-live")
    await customer.placed({goods.variant: 4})
    took_s = await until(lambda: 5 in stock(listener), within_s=TOLD_AGAIN_S, what="it goes on")
    record(53, "the worker of live states is killed", True, told_again_s=round(took_s, 2))
    assert listener.resets == 0


@pytest.mark.faults
async def test_a_valkey_that_is_killed_costs_a_reset_and_then_all_is_told_again(
    broken_stack: RunningStack, books: Books, parts: Parts, customer: Customer
) -> None:
    goods = await books.goods(available=9)
    listener = await listen(urlsplit(broken_stack.url).port or 80, f"products={goods.slug}")
    await until(lambda: 9 in stock(listener), within_s=TOLD_AGAIN_S, what="it is told")
    parts.kill("valkey")
    await customer.placed({goods.variant: 4})
    await until(lambda: 5 in stock(listener), within_s=TOLD_AGAIN_S, what="it goes on")
    assert listener.resets == 1
    assert not listener.ended


@pytest.mark.faults
async def test_a_rolling_restart_ends_streams_spread_out_and_their_clients_miss_nothing(
    tmp_path: Path,
) -> None:
    async with (
        own_valkey() as valkey,
        Upstream() as upstream,
        access(upstream, tmp_path, TERCET_VALKEY_URL=valkey.url) as (process, port),
    ):
        listeners = [await listen(port, "products=a") for _ in range(STREAMS)]
        for each in listeners:
            await each.begun()
        ended_at: list[float] = []

        async def until_ended(one: Listener) -> None:
            await until(lambda: one.ended, within_s=TOLD_AGAIN_S, what="it ends")
            ended_at.append(time.monotonic())

        watching = asyncio.gather(*map(until_ended, listeners))
        await rolled(process.pid)
        await watching
        missed = await valkey.tell("product:a")
        back = [
            await listen(port, "products=a", f"Last-Event-ID: {one.last_id}") for one in listeners
        ]
        for each in back:
            await each.told(missed)
        assert sum(each.resets for each in back) == 0
        assert all(each.data == [missed] for each in back)
        retries = sorted(each.retry_ms for each in listeners)
        spread_s = max(ended_at) - min(ended_at)
        record(
            53,
            "streams of a process that is replaced",
            spread_s > 0.3,
            streams=STREAMS,
            ended_within_s=round(spread_s, 2),
            retry_ms=[retries[0], retries[STREAMS // 2], retries[-1]],
        )
        assert 0.3 < spread_s < 3
        assert retries[0] < 3000
        assert retries[-1] > 9000
        assert 5000 < retries[STREAMS // 2] < 7000


@pytest.mark.faults
async def test_a_stop_with_streams_open_takes_no_longer_and_ends_each_of_them(
    tmp_path: Path,
) -> None:
    async with (
        own_valkey() as valkey,
        Upstream() as upstream,
        access(upstream, tmp_path, TERCET_VALKEY_URL=valkey.url) as (process, port),
    ):
        listeners = [await listen(port, "products=a") for _ in range(STREAMS)]
        for each in listeners:
            await each.begun()
        stopped_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        took_s = time.monotonic() - stopped_at
        for each in listeners:
            await each.gone()
        record(53, "a stop with streams open", took_s < STOP_WITHIN_S, took_s=round(took_s, 2))
        assert took_s < STOP_WITHIN_S


async def slow_readers(count: int, port: int, streams: ExitStack) -> list[socket.socket]:
    """Clients that ask for a stream and never read it."""
    sockets = []
    for _ in range(count):
        one = streams.enter_context(socket.socket())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", port))
        one.sendall(request("/live?products=a"))
        sockets.append(one)
    return sockets


async def held_up(valkey: OwnValkey, number: int) -> float:
    """Tell a state of 2 KB; how long its teller was kept by that."""
    began_at = time.monotonic()
    await valkey.tell("product:a", STATE % (b"x" * 2000, number))
    return time.monotonic() - began_at


@pytest.mark.faults
async def test_slow_readers_are_cut_off_at_their_bound_and_keep_nobody(tmp_path: Path) -> None:
    slow_count, quick_count, states = 200, 50, 600
    async with (
        own_valkey() as valkey,
        Upstream() as upstream,
        access(upstream, tmp_path, TERCET_VALKEY_URL=valkey.url) as (process, port),
    ):
        (child,) = children(process.pid)
        quick = [await listen(port, "products=a") for _ in range(quick_count)]
        for each in quick:
            await each.begun()
        kept = [await held_up(valkey, -number) for number in range(1, 101)]
        with ExitStack() as streams:
            await slow_readers(slow_count, port, streams)
            before_bytes = psutil.Process(child).memory_info().rss
            took: list[float] = []
            most_bytes = 0
            for number in range(states):
                took.append(await held_up(valkey, number))
                await asyncio.sleep(0.005)
                grown = psutil.Process(child).memory_info().rss - before_bytes
                most_bytes = max(most_bytes, grown)
            last = b'"n":%d}' % (states - 1)

            def has_last(one: Listener) -> bool:
                return any(data.endswith(last) for data in one.data[-5:])

            await until(
                lambda: all(map(has_last, quick)), within_s=20, what="the quick have the last"
            )
            lasting = [psutil.Process(child).net_connections("tcp")]
            open_now = sum(one.status == psutil.CONN_ESTABLISHED for one in lasting[0])
        took.sort()
        kept.sort()
        p99_ms, before_ms = took[int(0.99 * states)] * 1000, kept[98] * 1000
        bound_bytes = slow_count * (CUT_AT_BYTES + 16_384)
        passed = most_bytes <= bound_bytes and open_now < quick_count + 20
        figures: dict[str, Any] = {
            "slow": slow_count,
            "quick": quick_count,
            "states": states,
            "grown_bytes_most": most_bytes,
            "bound_bytes": bound_bytes,
            "teller_p99_ms": round(p99_ms, 2),
            "teller_p99_ms_without": round(before_ms, 2),
            "open_at_end": open_now,
        }
        record(53, "slow readers of live streams", passed, **figures)
        assert passed, figures
        assert not any(one.ended for one in quick)
        assert p99_ms < max(50.0, 5 * before_ms)
