"""Experiment 48: more connections than there is room for cost those who are there nothing."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

import psutil
import pytest

from tests.access.conftest import Client, request, running
from tests.access.upstream import Seen, Upstream, answer
from tests.failures.access_process import access, children
from tests.failures.swarm import Swarm, close_all
from tests.faults.figures import record
from tests.faults.waiting import until

MB = 1_000_000
AT_ONCE = 50  # of the flood: the queue of the listening socket is not what is tried


async def business(_: Seen) -> bytes:
    return answer(cache_control="no-store")


async def flooded(port: int, pid: int, limit: int) -> dict[str, int]:
    """Twice as many connections as the limit while some clients go on: what it cost them."""
    async with Swarm(port, request("/products/a"), 10) as swarm:
        await until(lambda: swarm.answered > 100, within_s=10, what="clients are there")
        serving = psutil.Process(pid)
        before_bytes = serving.memory_info().rss
        flood: list[Client] = []
        grown_bytes = 0
        for _ in range(0, 2 * limit, AT_ONCE):
            ways = (asyncio.open_connection("127.0.0.1", port) for _ in range(AT_ONCE))
            flood += [Client(*way) for way in await asyncio.gather(*ways)]
            grown_bytes = max(grown_bytes, serving.memory_info().rss - before_bytes)
        turned_away = [client for client in flood if await is_turned_away(client)]
        answered = swarm.answered
        await until(lambda: swarm.answered > answered + 100, within_s=10, what="they go on")
        await close_all(flood)
    return {
        "connections": len(flood),
        "turned_away": len(turned_away),
        "answered": swarm.answered,
        "lost": len(swarm.lost),
        "refused": swarm.refused,
        "not_200": len(swarm.statuses - {200}),
        "grown_mb": round(grown_bytes / MB),
    }


async def is_turned_away(client: Client) -> bool:
    """Whether there was no room for it; one that is let in hears nothing until it asks.

    After 10 s without a request it is closed.
    """
    try:
        async with asyncio.timeout(0.001):
            return b" 503 " in await client.reader.readuntil(b"\r\n\r\n")
    except (TimeoutError, asyncio.IncompleteReadError):
        return False


def passes(limit: int, figures: dict[str, int]) -> bool:
    return (
        figures["turned_away"] >= figures["connections"] - limit
        and figures["lost"] == figures["refused"] == figures["not_200"] == 0
        and figures["grown_mb"] <= 64
    )


async def test_a_flood_of_connections_is_turned_away_and_nobody_else() -> None:
    async with Upstream(business) as upstream, running(upstream, connection_limit=100) as access:
        figures = await flooded(access.port, os.getpid(), 100)
    assert passes(100, figures), figures


@pytest.mark.faults
async def test_a_flood_of_twice_the_most_connections(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = min(4_000, (hard - 500) // 2 // AT_ONCE * AT_ONCE)  # the flood is files here, too
    settings = {"TERCET_CONNECTION_LIMIT": str(limit)}
    async with (
        Upstream(business) as upstream,
        access(upstream, tmp_path, **settings) as (process, port),
    ):
        (child,) = children(process.pid)
        figures = await flooded(port, child, limit)
    passed = passes(limit, figures)
    record(48, f"{2 * limit} connections at a limit of {limit}", passed, limit=limit, **figures)
    assert passed, figures
