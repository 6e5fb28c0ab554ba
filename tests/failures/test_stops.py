"""Experiments 36, 37 and 38: stops and rolling restarts under load lose no request."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.access.conftest import Client, request
from tests.access.upstream import Seen, Upstream, answer
from tests.failures.access_process import access, children, rolled
from tests.failures.swarm import Swarm, asked_once, close_all
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books

HANDLER_S = 0.02  # as in the measurement of other servers that lose 3 to 100 (B12)
STOP_WITHIN_S = 3.0
PAGE = request("/products/a")
LIVE = request("/live")


async def slow(_: Seen) -> bytes:
    await asyncio.sleep(HANDLER_S)
    return answer(cache_control="no-store")


@asynccontextmanager
async def busy(port: int, clients: int) -> AsyncIterator[tuple[Swarm, Swarm]]:
    """Half of the clients wait for business, and half ask again before they could be idle."""
    async with Swarm(port, PAGE, clients // 2) as slowly, Swarm(port, LIVE, clients // 2) as fast:
        await until(lambda: slowly.answered > clients, within_s=10, what="busy")
        yield slowly, fast


async def stop(folder: Path, *, clients: int) -> int:
    """One run of experiment 36: busy clients, idle ones; returns the number of answers."""
    async with Upstream(slow) as upstream, access(upstream, folder) as (process, port):
        idle = [(await asked_once(port, LIVE))[0] for _ in range(5)]
        async with busy(port, clients) as swarms:
            process.send_signal(signal.SIGTERM)
            stopped_at = time.monotonic()
            for client in idle:
                assert (await client.send(LIVE)).status == 200
            async with asyncio.timeout(10):
                assert await process.wait() == 0
            assert time.monotonic() - stopped_at < STOP_WITHIN_S
        await close_all(idle)
    assert [swarm.lost for swarm in swarms] == [[], []]
    assert [swarm.statuses for swarm in swarms] == [{200}, {200}]
    return sum(swarm.answered for swarm in swarms)


async def test_a_stop_under_busy_keep_alive_clients_loses_nothing(tmp_path: Path) -> None:
    assert await stop(tmp_path, clients=50) > 100


async def test_what_the_kernel_has_taken_is_answered_though_the_stop_came_first(
    tmp_path: Path,
) -> None:
    async with Upstream(slow) as upstream, access(upstream, tmp_path) as (process, port):
        kept = [(await asked_once(port, LIVE))[0] for _ in range(10)]
        (child,) = children(process.pid)
        os.kill(child, signal.SIGSTOP)
        # Connections that nobody has accepted, and requests that nobody has read.
        fresh = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(10)]
        for client in [*fresh, *kept]:
            client.writer.write(LIVE)
        process.send_signal(signal.SIGTERM)
        os.kill(child, signal.SIGCONT)
        for client in [*fresh, *kept]:
            assert (await client.answer()).status == 200
        await close_all([*fresh, *kept])
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_a_rolling_restart_loses_nothing_and_refuses_nobody(
    broken_stack: RunningStack, books: Books
) -> None:
    """Of access and of business at once, while pages are read and orders refused.

    The orders have no Idempotency-Key: nobody may send them twice, and business says so.
    """
    page = request(f"/products/{(await books.goods()).slug}/stock")
    order = request("/orders", "content-type: application/json", method="POST", body=b"{}")
    pids = [broken_stack.part(name)["pid"] for name in ("access", "business")]
    port = int(broken_stack.url.rpartition(":")[2])
    async with Swarm(port, page, 4) as readers, Swarm(port, order, 4) as buyers:
        await asyncio.gather(*map(rolled, pids))
        answered = buyers.answered
        await until(lambda: buyers.answered > answered + 50, within_s=10, what="busy again")
    assert [swarm.lost for swarm in (readers, buyers)] == [[], []]
    assert [swarm.refused for swarm in (readers, buyers)] == [0, 0]
    assert [swarm.statuses for swarm in (readers, buyers)] == [{200}, {400}]
