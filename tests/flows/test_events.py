"""Behaviour events from a browser to the merchant's numbers, through the whole stack."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from redis.asyncio import Redis

from services.business.payments import pay
from services.business.shop import Shop, open_shop
from services.data.log_proofs import prove_log
from services.event_log import LOG
from tests.access.live_client import Listener, listen
from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.waiting import until
from tests.flows.chromium import chromium
from tests.running_stack import RunningStack, running_stack
from tests.shopping import Books, business_settings, http_client, open_books, place

WITHIN_S = 15.0
BEACON = """
    navigator.sendBeacon('/events', JSON.stringify({events: [
        {id: crypto.randomUUID(), type: 'view', at: new Date().toISOString(), product: 'SLUG'},
        {id: crypto.randomUUID(), type: 'search', at: new Date().toISOString(),
         query: 'QUERY', results: 0}]}))
"""
SEARCHED = "select coalesce(sum(searches), 0)::int from search_hours where query = $1"
VIEWED = """
    select coalesce(sum(views), 0)::int from product_hours join products using (product_id)
    where slug = $1
"""
SEEN = "select count(*) from seen_events where event_id = any($1::uuid[])"
UNCOUNTED = """
    select count(*) from ledger_transfers left join counted_transfers c using (cause_id, cause)
    where c.cause_id is null
"""


def operator_of(stack: RunningStack) -> dict[str, str]:
    return {"authorization": f"Bearer {stack.secret('operator_token')}"}


def event(kind: str, **fields: object) -> dict[str, object]:
    return {"id": str(uuid4()), "type": kind, "at": datetime.now(UTC).isoformat()} | fields


async def test_what_a_browser_sends_as_it_leaves_is_counted(
    stack: RunningStack, books: Books, tmp_path: Path
) -> None:
    goods = await books.goods()
    query = f"lamp {uuid4().hex}"
    script = BEACON.replace("SLUG", goods.slug).replace("QUERY", query)
    async with chromium(tmp_path / "profile") as browser:
        await browser.open(f"{stack.url}/products/{goods.slug}")
        assert await browser.run(script) is True
        await browser.open("about:blank")

        async def counted() -> bool:
            return bool(await books.value(SEARCHED, query) == 1)

        await until(counted, within_s=WITHIN_S, what="the search is counted")
        assert await books.value(VIEWED, goods.slug) == 1


async def test_an_event_is_in_the_merchants_numbers_and_told_to_who_listens(
    stack: RunningStack, http: httpx.AsyncClient
) -> None:
    operator = operator_of(stack)
    port = urlsplit(stack.url).port or 80
    query = f"chair {uuid4().hex}"
    listening = await listen(port, "analytics=all", f"authorization: {operator['authorization']}")
    assert listening.status == 200
    body = {"events": [event("search", query=query, results=0)]}
    assert (await http.post("/events", json=body)).status_code == 202

    async def shown() -> bool:
        params = {"show": "without-results", "limit": "100"}
        answer = await http.get("/analytics/searches", params=params, headers=operator)
        return query in [item["query"] for item in answer.json()["items"]]

    await until(shown, within_s=WITHIN_S, what="the search is in the numbers")
    await until(lambda: _tells_of_searches(listening), within_s=WITHIN_S, what="it is told")
    await listening.close()


def _tells_of_searches(listening: Listener) -> bool:
    told = [orjson.loads(data) for kind, data in listening.events if kind == "analytics"]
    return any("search" in item["types"] for state in told for item in state["items"])


@pytest.mark.faults
async def test_killing_the_log_and_the_worker_loses_no_event_and_no_revenue(tmp_path: Path) -> None:
    """E60, through the whole stack: SIGKILL under load, then the books are compared."""
    with running_stack(tmp_path / "data", "--products", "50") as stack:
        dsn = stack.dsn("tercet_owner")
        settings = business_settings(stack)
        async with (
            open_books(dsn, stack.dsn("tercet_read", "standby")) as books,
            open_shop(settings) as shop,
            http_client(stack.url) as http,
        ):
            acknowledged, took_s = await _under_kills(stack, books, shop, http)
            assert await books.value(SEEN, acknowledged) == len(acknowledged)
            assert await books.value(UNCOUNTED) == 0
            assert await books.broken_rules() == []
            async with Redis.from_url(stack.events_url, protocol=3) as log:
                assert (await prove_log(shop.database.primary, log)).broken == []
                assert await log.xlen(LOG) == 0
    record(60, "log and rollups worker killed under load", True, events=len(acknowledged),
           seconds_until_counted=round(took_s, 2))  # fmt: skip
    assert took_s < 5.0


async def _under_kills(
    stack: RunningStack, books: Books, shop: Shop, http: httpx.AsyncClient
) -> tuple[list[UUID], float]:
    """Ids that were acknowledged, and how long after the last one all were counted, with the
    revenue of what was sold meanwhile."""
    parts, acknowledged, ended = Parts(stack.data_dir), list[UUID](), asyncio.Event()
    goods = await books.goods(available=1000)

    async def send() -> None:
        while not ended.is_set():
            ids = [uuid4() for _ in range(20)]
            body = {"events": [event("view", id=str(each)) for each in ids]}
            answer = await http.post("/events", json=body)
            if answer.status_code == 202:
                acknowledged.extend(ids)
            else:
                assert answer.status_code == 503
                await asyncio.sleep(0.05)

    async def buy() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            key = await place(shop, {goods.variant: 1})
            await pay(shop, key, "tok_approve", f"key {number}", b"body")
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(send()) for _ in range(6)] + [asyncio.create_task(buy())]
    for name in ("events", "worker-rollups", "worker-outbox", "events", "worker-rollups"):
        await asyncio.sleep(1.5)
        pid = parts.kill(name)
        await parts.wait_until_healthy(name, after_pid=pid)
    ended.set()
    await asyncio.gather(*tasks)
    began_at = asyncio.get_running_loop().time()

    async def all_counted() -> bool:
        seen = await books.value(SEEN, acknowledged)
        return bool(seen == len(acknowledged) and await books.value(UNCOUNTED) == 0)

    await until(all_counted, within_s=60, what="all are counted")
    return acknowledged, asyncio.get_running_loop().time() - began_at
