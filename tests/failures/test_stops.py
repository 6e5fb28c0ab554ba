"""Experiments 36, 37 and 38: stops and rolling restarts under load lose no request."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.access.conftest import Client, request
from tests.access.upstream import Seen, Upstream, answer
from tests.failures.access_process import access, children, free_port, rolled
from tests.failures.swarm import Swarm, asked_once, close_all
from tests.faults.figures import record
from tests.faults.waiting import until
from tests.running_stack import RunningStack, running_stack
from tests.shopping import Books, open_books

HANDLER_S = 0.02  # as in the measurement of other servers that lose 3 to 100 (B12)
STOP_WITHIN_S = 3.0
PAGE = request("/products/a")
LIVE = request("/live")


async def slow(_: Seen) -> bytes:
    await asyncio.sleep(HANDLER_S)
    return answer(cache_control="no-store")


@dataclass(frozen=True)
class Run:
    """What came of a stop."""

    answered: int
    lost: int
    took_s: float


async def stop_under(
    process: asyncio.subprocess.Process, port: int, requests: Sequence[bytes], *, clients: int
) -> Run:
    """SIGTERM while clients ask without a pause, some for each of the requests."""
    swarms = [Swarm(port, data, clients // len(requests)) for data in requests]
    async with AsyncExitStack() as stack:
        for swarm in swarms:
            await stack.enter_async_context(swarm)
        await until(lambda: swarms[0].answered > clients, within_s=20, what="busy")
        process.send_signal(signal.SIGTERM)
        stopped_at = time.monotonic()
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        took_s = time.monotonic() - stopped_at
    wrong = [status for swarm in swarms for status in swarm.statuses if status >= 500]
    lost = sum(len(swarm.lost) for swarm in swarms) + len(wrong)
    return Run(sum(swarm.answered for swarm in swarms), lost, took_s)


async def stopped(folder: Path, *, clients: int) -> Run:
    """One run of experiment 36. Half of the clients wait for business, half are never idle."""
    async with Upstream(slow) as upstream, access(upstream, folder) as (process, port):
        return await stop_under(process, port, (PAGE, LIVE), clients=clients)


async def test_a_stop_under_busy_keep_alive_clients_loses_nothing(tmp_path: Path) -> None:
    run = await stopped(tmp_path, clients=50)
    assert run.lost == 0
    assert run.answered > 100
    assert run.took_s < STOP_WITHIN_S


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


# The long forms


def refilled(parent_pid: int, killed: int) -> Callable[[], bool]:
    return lambda: len(children(parent_pid) - {killed}) == 2


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_killed_process_of_access_costs_its_own_connections_only(tmp_path: Path) -> None:
    """Experiment 32, ten times: one of two processes, under 40 busy clients."""
    lost, waits_s = [], []
    two = {"TERCET_ACCESS_WORKERS": "2"}
    async with Upstream(slow) as upstream, access(upstream, tmp_path, **two) as (process, port):
        for _ in range(10):
            before = children(process.pid)
            victim = min(before)
            async with Swarm(port, PAGE, 40) as swarm:
                await until(lambda: swarm.answered > 80, within_s=20, what="busy")
                open_before = len(psutil.Process(victim).net_connections("tcp"))
                os.kill(victim, signal.SIGKILL)
                killed_at = time.monotonic()
                client, answered = await asked_once(port, LIVE)
                waits_s.append(time.monotonic() - killed_at)
                await client.close()
                assert answered.status == 200
                await until(refilled(process.pid, victim), within_s=5, what="two again")
            lost.append((len(swarm.lost), open_before))
            await asyncio.sleep(11)  # the next death is not the second in a row
    passed = all(count <= open_before for count, open_before in lost) and max(waits_s) < 1
    record(
        32,
        "kill -9 of one of two processes of access, ten times",
        passed,
        lost_and_open=lost,
        longest_wait_of_a_new_connection_s=round(max(waits_s), 3),
    )
    assert passed, (lost, waits_s)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_twenty_stops_of_access_lose_nothing(tmp_path: Path) -> None:
    runs = [await stopped(tmp_path, clients=50) for _ in range(20)]
    runs += [await stopped(tmp_path, clients=500) for _ in range(3)]
    lost = sum(run.lost for run in runs)
    record(
        36,
        "SIGTERM of access under 50 busy keep-alive clients, 20 times, and under 500, 3 times",
        not lost and all(run.took_s < STOP_WITHIN_S for run in runs),
        answered=sum(run.answered for run in runs),
        lost=lost,
        lost_per_run=[run.lost for run in runs],
        longest_s=round(max(run.took_s for run in runs), 2),
    )
    assert lost == 0
    assert max(run.took_s for run in runs) < STOP_WITHIN_S


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_twenty_stops_of_business_lose_nothing(
    broken_stack: RunningStack, books: Books, tmp_path: Path
) -> None:
    """Spoken to as access does: requests that may not be sent twice among them."""
    secret = f"x-internal-secret: {broken_stack.secret('internal_secret')}"
    page = request(f"/products/{(await books.goods()).slug}", secret)
    order = request("/orders", secret, "content-type: application/json", method="POST", body=b"{}")
    runs = []
    for _ in range(20):
        async with business(broken_stack, tmp_path) as (process, port):
            runs.append(await stop_under(process, port, (page, order), clients=50))
    lost = sum(run.lost for run in runs)
    record(
        36,
        "SIGTERM of business under 50 busy keep-alive clients, 20 times",
        not lost and all(run.took_s < STOP_WITHIN_S for run in runs),
        answered=sum(run.answered for run in runs),
        lost=lost,
        lost_per_run=[run.lost for run in runs],
        longest_s=round(max(run.took_s for run in runs), 2),
    )
    assert lost == 0
    assert max(run.took_s for run in runs) < STOP_WITHIN_S


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_ten_rolling_restarts_lose_nothing_of_a_hundred_thousand(tmp_path: Path) -> None:
    """Two processes of each tier, all replaced ten times while every kind of request goes on."""
    two = {"TERCET_ACCESS_WORKERS": "2", "TERCET_BUSINESS_WORKERS": "2"}
    with running_stack(tmp_path / "data", "--products", "20", environment=two) as stack:
        port = int(stack.url.rpartition(":")[2])
        async with open_books(stack.dsn("tercet_owner")) as books:
            slug = await books.value("select slug from products limit 1")
        requests = (
            request(f"/products/{slug}"),
            request(f"/products/{slug}/stock"),
            request("/orders", "content-type: application/json", method="POST", body=b"{}"),
        )
        swarms = [Swarm(port, data, 4) for data in requests]
        pids = [stack.part(name)["pid"] for name in ("access", "business")]
        fewest = 2
        async with AsyncExitStack() as clients:
            for swarm in swarms:
                await clients.enter_async_context(swarm)
            await until(lambda: swarms[2].answered > 500, within_s=30, what="busy")
            quiet = [swarm.latencies_s for swarm in swarms]
            for swarm in swarms:
                swarm.latencies_s = []
            rounds = 0
            while rounds < 10 or sum(swarm.answered for swarm in swarms) < 100_000:
                for pid in pids:
                    rolling = asyncio.create_task(rolled(pid, within_s=60))
                    while not rolling.done():
                        fewest = min(fewest, len(children(pid)))
                        await asyncio.sleep(0.05)
                    await rolling
                rounds += 1
        lost = [loss for swarm in swarms for loss in swarm.lost]
        wrong = set().union(*(swarm.statuses for swarm in swarms)) - {200, 400}
        ratios = [
            round(p99(swarm.latencies_s) / p99(before), 2)
            for swarm, before in zip(swarms, quiet, strict=True)
        ]
        passed = not lost and not wrong and fewest == 2
        record(
            37,
            f"{rounds} rolling restarts of access and business, two processes each",
            passed,
            answered=sum(swarm.answered for swarm in swarms),
            lost=len(lost),
            refused_connections=sum(swarm.refused for swarm in swarms),
            shed=sum(swarm.shed for swarm in swarms),
            wrong_statuses=sorted(wrong),
            fewest_processes=fewest,
            p99_ratio_held_forwarded_posted=ratios,
        )
        assert passed, (lost, wrong, fewest)


def p99(latencies_s: list[float]) -> float:
    return statistics.quantiles(latencies_s, n=100)[98]


@asynccontextmanager
async def business(
    stack: RunningStack, folder: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Another process of business on the stack's servers."""
    port = free_port()
    (folder / "ready").unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.process", "business"),
        env=os.environ
        | stack.environment
        | {"TERCET_BUSINESS_PORT": str(port), "TERCET_READY_FILE": str(folder / "ready")},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until((folder / "ready").exists, within_s=20, what="business is ready")
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
