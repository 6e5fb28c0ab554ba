"""/metrics: every series is there and moves, and is the sum over all processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from infra.local.addresses import get
from services.access.edge import Edge
from services.access.metrics import FAMILIES, report_of
from services.child import Child
from services.reports import Report
from services.slots import Slots
from tests.access.conftest import request, settings_for
from tests.access.upstream import Upstream, answer
from tests.failures.access_process import access, children, free_port
from tests.failures.swarm import asked_once
from tests.faults.waiting import until

REQUESTS = "tercet_access_requests_total"


def samples(text: bytes) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text.decode()):
        yield from family.samples


def value(text: bytes, name: str, /, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(
        sample.value
        for sample in samples(text)
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@asynccontextmanager
async def an_edge() -> AsyncIterator[Edge]:
    edge = Edge(settings_for("http://127.0.0.1:1"))
    try:
        yield edge
    finally:
        await edge.aclose()


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with an_edge() as made:
        yield made


def move(edge: Edge) -> None:
    """Let every number grow by one, as if something of each kind had happened."""
    counts, pages = edge.counts, edge.pages
    for tally in counts.tallies().values():
        tally.forwarded(200, 0.003)
    for name in ("hits", "stale", "misses", "coalesced", "revalidated", "purged"):
        setattr(pages, f"{name}_total", getattr(pages, f"{name}_total") + 1)
    pages.hits_total += 1  # one of the two was fresh
    pages._flights.begun_total += 1
    pages._shelf.room.evicted_total += 1
    counts.refuse(431)
    counts.out_of_memory_total += 1
    for pool in {*edge.forwarder.pools.values(), edge.forwarder.control}:
        pool.retried_total += 1
        pool.budget.refused_total += 1
        for part in pool.parts:
            part.opened_total += 1
            part.reused_total += 1
    for gate in set(edge.admission.gates.values()):
        gate.entered_total += 1
        gate.waited_total += 1
        gate.shed["full"] += 1
    for member in edge.forwarder.addresses.members.all:
        member.failed_total += 1
        member.ejected_total += 1
    edge.allowances.refused_total += 1
    edge.allowances.lost_total += 1
    beacons = edge.beacons
    beacons.accepted_total += 1
    beacons.batches_total += 1
    beacons.appends_total += 1
    beacons.took.add(0.003)
    edge.connections.open += 1
    edge.connections.refused_total += 1
    live = edge.live
    live.opened_total += 1
    live.resumed_total += 1
    live.reset_total += 1
    live.slow_total += 1
    live.clients.refused_total += 1
    live.fan_out.writes_total += 1
    live.fan_out.replaced_total += 1
    live.follower.gaps_total += 1
    edge.log.written_total += 1
    edge.log.dropped_total += 1
    edge.watchdog.lag.add(0.003)
    edge.watchdog.blocked_total += 1


async def test_every_series_is_there_and_every_counter_moves(edge: Edge) -> None:
    report = report_of(edge, None)
    move(edge)
    before = report.text()
    move(edge)
    after = report.text()
    for family in FAMILIES:
        assert family.text
        name = f"tercet_access_{family.name}"
        if family.kind == "counter":
            assert value(after, f"{name}_total") > value(before, f"{name}_total"), name
        elif family.kind == "histogram":
            for suffix in ("_bucket", "_count", "_sum"):
                assert value(after, name + suffix) > value(before, name + suffix), name
        else:
            assert any(sample.name == name for sample in samples(after)), name
    assert value(after, "tercet_access_connections", worker="0") == 2
    assert value(after, "tercet_access_page_limit_bytes") == edge.settings.page_memory_bytes
    assert value(after, "tercet_access_pool_limit_connections", pool="payment") == 4


async def test_names_are_what_prometheus_asks_for(edge: Edge) -> None:
    """Base units, a plural or total where one counts, and no label with an open end."""
    report = report_of(edge, None)
    move(edge)
    for sample in samples(report.text()):
        assert sample.name.startswith("tercet_access_")
        assert not sample.name.endswith(("_ms", "_seconds_total", "_total_total"))
        assert len(sample.labels) <= 3
    assert len(list(samples(report.text()))) < 400


async def test_counters_are_summed_and_outlive_their_process_and_gauges_do_not(
    edge: Edge,
) -> None:
    slots = Slots()
    line, _ = ends = socket.socketpair()

    def child(edge: Edge) -> Report[Edge]:
        return report_of(edge, Child(line, {}, slots, slots.take()))

    try:
        async with an_edge() as another, an_edge() as later:
            first, second = child(edge), child(another)
            move(edge)
            move(another)
            move(another)
            first.publish()
            text = second.text()
            assert value(text, REQUESTS, outcome="held") == 2 + 4
            assert value(text, "tercet_access_connections") == 3
            slots.free(0)  # the first process has ended
            text = second.text()
            assert value(text, REQUESTS, outcome="held") == 6
            assert value(text, "tercet_access_connections") == 2
            text = child(later).text()  # in its slot
            assert value(text, REQUESTS, outcome="held") == 6
            assert value(text, "tercet_access_forward_seconds_count", **{"class": "page"}) == 3
            assert value(text, "tercet_access_connections", worker="0") == 0
    finally:
        for end in ends:
            end.close()


async def test_a_scrape_sees_every_process_and_no_restart_of_one(tmp_path: Path) -> None:
    internal = free_port()

    async def scraped() -> bytes:
        status, body = await get("127.0.0.1", internal, "/metrics")
        assert status == 200
        return body

    async def page(_: object) -> bytes:
        return answer(cache_control="no-store")

    settings = {
        "TERCET_ACCESS_WORKERS": "2",
        "TERCET_ACCESS_INTERNAL_PORT": str(internal),
    }
    asked = 0
    async with Upstream(page) as upstream, access(upstream, tmp_path, **settings) as running:
        process, port = running

        async def ask(times: int) -> None:
            nonlocal asked
            for _ in range(times):
                client, _ = await asked_once(port, request("/products/a"))
                await client.close()
            asked += times

        async def counted() -> bool:
            return value(await scraped(), REQUESTS, **{"class": "page"}) == asked

        await ask(20)
        await until(counted, within_s=5, what="all are counted, whoever answered them")
        assert value(await scraped(), "tercet_access_pool_opened_total", pool="page") >= 1
        client, refusal = await asked_once(port, b"GET / HTTP/1.1\r\n\r\n")  # without Host
        assert refusal.status == 400
        await client.close()
        client, unknown = await asked_once(port, request("/internal/pages"))
        assert unknown.status == 404
        await client.close()

        async def told() -> bool:
            text = await scraped()
            refused = value(text, "tercet_access_refusals_total", status="400")
            return refused == 1 == value(text, REQUESTS, **{"class": "none"}, outcome="4xx")

        await until(told, within_s=5, what="what was refused is counted")
        os.kill(min(children(process.pid)), signal.SIGKILL)
        await until(lambda: len(children(process.pid)) == 2, within_s=5, what="replaced")
        assert value(await scraped(), REQUESTS, **{"class": "page"}) == asked
        assert (await get("127.0.0.1", port, "/metrics"))[0] == 404
        assert (await get("127.0.0.1", internal, "/live"))[0] == 404
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
