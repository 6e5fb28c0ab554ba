"""Experiment 35: near its memory limit access gives up in steps, and is not ended by the kernel."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import cast

import psutil
import pytest

from infra.local.addresses import get
from services.access.protocol import AccessProtocol
from tests.access.conftest import request, running
from tests.access.test_metrics import value
from tests.access.upstream import Seen, Upstream, answer
from tests.failures.access_process import access, children, free_port
from tests.failures.swarm import asked_once
from tests.faults.figures import record
from tests.faults.waiting import until

MB = 1_000_000
PAGES = b'{"pages":[{"path":"/products/{slug}","query":[]}]}'


async def large_pages(_: Seen) -> bytes:
    """Pages of 200 KB that no encoding makes smaller, all different."""
    return answer(
        os.urandom(200_000),
        cache_control="public, s-maxage=600, stale-while-revalidate=600",
        content_type="image/png",
    )


async def test_at_its_limit_access_answers_what_is_local_and_takes_no_more_work() -> None:
    # Less than any Python process takes: the last step from the first look on.
    async with Upstream() as upstream, running(upstream, access_memory_limit_bytes=MB) as one:
        cast(type[AccessProtocol], one.server.config.http).edge.look_at_memory()
        refused = await one.get("/products/a")
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert int(refused.headers["retry-after"]) > 0
        live = await one.get("/live")
        assert (live.status, live.headers["connection"]) == (200, "close")
        assert upstream.requests == []


@pytest.mark.faults
@pytest.mark.timeout(180)
async def test_a_leak_is_held_below_the_limit_for_a_minute(tmp_path: Path) -> None:
    """Held pages that may take more than there is stand for the leak."""
    internal = free_port()
    settings = {
        "TERCET_ACCESS_INTERNAL_PORT": str(internal),
        "TERCET_PAGE_MEMORY_BYTES": str(2_000 * MB),
        "TERCET_ACCESS_MEMORY_LIMIT_BYTES": str(300 * MB),
    }
    peak_bytes = asked = closed = refused = errors = 0
    steps: set[int] = set()
    upstream = Upstream(large_pages)
    upstream.pages = PAGES
    async with upstream, access(upstream, tmp_path, **settings) as (process, port):
        (child,) = children(process.pid)
        serving = psutil.Process(child)

        async def scraped(name: str) -> float:
            return value((await get("127.0.0.1", internal, "/metrics"))[1], name)

        async def ask(number: int) -> None:
            nonlocal closed, refused, errors, asked
            client, said = await asked_once(port, request(f"/products/p{number}"))
            await client.close()
            asked += 1
            closed += said.headers.get("connection") == "close"
            refused += said.status == 503
            errors += said.status not in (200, 503)

        async def is_learned() -> bool:
            await ask(0)
            return bool(await scraped("tercet_access_pages"))

        await until(is_learned, within_s=10, what="pages are held")
        ends_at, looked_at = time.monotonic() + 60, 0.0
        while time.monotonic() < ends_at:
            await asyncio.gather(*(ask(asked + number) for number in range(8)))
            peak_bytes = max(peak_bytes, serving.memory_info().rss)
            if time.monotonic() - looked_at > 1:
                looked_at = time.monotonic()
                steps.add(int(await scraped("tercet_access_memory_pressure")))
        is_same = children(process.pid) == {child}
    passed = is_same and peak_bytes <= 300 * MB and not errors and bool(closed) and 1 in steps
    record(
        35,
        "a leak of held pages against a limit of 300 MB, for a minute",
        passed,
        asked=asked,
        closed=closed,
        refused=refused,
        errors=errors,
        steps=sorted(steps),
        peak_mb=round(peak_bytes / MB, 1),
        same_process=is_same,
    )
    assert passed, (asked, closed, refused, errors, steps, peak_bytes, is_same)
