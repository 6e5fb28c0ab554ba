"""What business and its workers say of themselves: each series is there, moves, and is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from infra.local.addresses import get
from services.business.claims import CLAIM_PAYMENTS
from services.business.metrics import BUSINESS, WORKER, report_of, report_of_worker
from services.business.shop import Shop, open_shop
from services.data.counts import Counts
from services.data.log_reader import LogLag
from services.data.mails import MailsWaiting
from services.data.outbox import Lag
from services.data.products import CATEGORY_EXISTS, SELECT_PRODUCT
from services.data.statement_times import TEXTS_KEPT
from tests.access.test_metrics import samples, value
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer

REQUESTS = "tercet_business_requests_total"
SECONDS = "tercet_business_request_seconds_count"


async def scraped(stack: RunningStack, part: str) -> bytes:
    host, _, port = stack.part(part)["internal_address"].rpartition(":")
    status, body = await get(host, int(port), "/metrics")
    assert status == 200
    return body


@pytest.fixture
async def quiet_shop(laboratory: OwnDatabase) -> AsyncIterator[Shop]:
    """One that nobody else counts in."""
    async with open_shop(laboratory.settings()) as opened:
        yield opened


def move(shop: Shop) -> None:
    """Let every number grow, as if something of each kind had happened."""
    counts = shop.counts
    for status in (0, 200, 304, 404, 503):
        counts.answered("/products/{slug}", status, 0.003)
    counts.left_out("rating")
    counts.handed_over_total += 1
    counts.orphans_found_total += 1
    counts.events_counted_total += 1
    counts.events_lag = LogLag(2, 0.5)
    counts.orphans_returned_total += 1
    counts.escalated_total += 1
    counts.logins_total += 1
    counts.logins_refused_total += 1
    counts.logins_throttled_total += 1
    counts.mails_sent_total += 1
    counts.live_watched = 2
    counts.mails_waiting = MailsWaiting(2, 1)
    shop.passwords.hashes_total += 1
    shop.passwords.refused_total += 1
    shop.passwords.hashers.lost_total += 1
    shop.rounds_of("expiry").worked(2, 0.0)
    shop.rounds_of("expiry").errors_total += 1
    for cache in (shop.pages, shop.lists):
        for name in Counts.__slots__:
            setattr(cache.counts, name, getattr(cache.counts, name) + 2)
        cache.counts.stale -= 1  # of what is counted as from memory
    for counted, names in (
        (shop.store.loads, ("refused",)),
        (shop.store.cached, ("reads", "batches")),
        (shop.store.wake_ups, ("asked", "sent")),
        (shop.database.own, ("at_standby", "at_primary", "misses", "waits", "waits_in_vain")),
    ):
        for name in names:
            setattr(counted, name, getattr(counted, name) + 1)
    counts.outbox_lag = Lag(3, 1.5)
    batches = shop.batcher(CLAIM_PAYMENTS).counts
    batches.sizes.add(3)
    batches.waits.add(0.003)
    batches.again += 1
    batches.left_out += 1
    batches.taken_apart += 1
    for source in (shop.database.primary, *shop.database.replicas):
        pool = source.pool.counts
        pool.opened += 1
        pool.takes += 1
        pool.waited_s += 0.003
        source.pool.times.add(CATEGORY_EXISTS, 0.003)
    for replica in shop.database.replicas:
        replica.standing.ejections_total += 1
    shop.database.primary.reads_shed += 1
    for upstream in shop.upstreams:
        upstream.tally.end("ok", 0.003)
        upstream.tally.refuse("full")
    shop.watchdog.lag.add(0.003)
    shop.watchdog.blocked_total += 1


@pytest.mark.parametrize("tier", ["business", "worker"])
async def test_every_series_is_there_and_every_counter_moves(quiet_shop: Shop, tier: str) -> None:
    report = report_of(quiet_shop, None) if tier == "business" else report_of_worker(quiet_shop)
    replicas = quiet_shop.database.replicas
    lags_are_known = lambda: all(replica.lag_ms is not None for replica in replicas)  # noqa: E731
    await until(lags_are_known, within_s=10, what="each standby was asked")
    move(quiet_shop)
    before = report.text()
    move(quiet_shop)
    after = report.text()
    for family in BUSINESS if tier == "business" else WORKER:
        assert family.text
        name = f"tercet_{tier}_{family.name}"
        if family.kind == "counter":
            assert value(after, f"{name}_total") > value(before, f"{name}_total"), name
        elif family.kind == "histogram":
            for suffix in ("_bucket", "_count", "_sum"):
                assert value(after, name + suffix) > value(before, name + suffix), name
        else:
            assert any(sample.name == name for sample in samples(after)), name
    for sample in samples(after):
        assert sample.name.startswith(f"tercet_{tier}_")
        assert not sample.name.endswith(("_ms", "_total_total"))
        assert len(sample.labels) <= 3


async def test_statements_are_timed_by_the_names_of_their_constants(quiet_shop: Shop) -> None:
    """Read, joined, in a transaction, and failed; what no constant holds is taken together."""
    database, slug = quiet_shop.database, "no-such-thing"
    await asyncio.gather(*(database.reads.find(SELECT_PRODUCT, slug) for _ in range(20)))
    await database.reads.fetchval(CATEGORY_EXISTS, slug)
    async with database.primary.transaction() as transaction:
        await transaction.fetchval(CATEGORY_EXISTS, slug)
    with pytest.raises(asyncpg.DataError):
        await database.primary.fetchval(CATEGORY_EXISTS, 1)
    for number in range(2 * TEXTS_KEPT):
        database.primary.pool.times.add(f"select {number}", 0.003)
    text = report_of(quiet_shop, None).text()

    def count(statement: str) -> float:
        return value(text, "tercet_business_statement_seconds_count", statement=statement)

    assert 1 <= count("products.SELECT_PRODUCT") < 20
    assert count("products.CATEGORY_EXISTS") == 3
    assert count("other") == 2 * TEXTS_KEPT
    assert len(database.primary.pool.times._by_text) <= TEXTS_KEPT + 1


async def test_requests_are_counted_by_their_route_and_status(
    stack: RunningStack, business: httpx.AsyncClient, books: Books
) -> None:
    """The numbers only others than this test could raise are not looked at."""
    goods = await books.goods()
    before = await scraped(stack, "business")
    stock = f"/products/{goods.slug}/stock"
    for path in (stock, stock, "/products/no-such-thing/stock"):
        await business.get(path)
    await business.post(stock)
    after = await scraped(stack, "business")

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    route = "/products/{slug}/stock"
    assert grown(REQUESTS, route=route, outcome="2xx") >= 2
    assert grown(REQUESTS, route=route, outcome="4xx") >= 1
    assert grown(SECONDS, route=route) >= 3
    assert grown(REQUESTS, route="other", outcome="4xx") >= 1  # 405: no route
    assert not any(goods.slug in str(sample.labels) for sample in samples(after))


async def test_pools_and_breakers_are_told_by_their_names(stack: RunningStack) -> None:
    text = await scraped(stack, "business")
    for source in ("primary", "standby-1"):
        assert value(text, "tercet_business_pool_connections", source=source) >= 1
        assert value(text, "tercet_business_pool_limit_connections", source=source) == 8
    for upstream in ("primary", "standby-1", "valkey", "provider"):
        assert value(text, "tercet_business_upstream_limit", upstream=upstream) >= 1
    for upstream in ("primary", "standby-1", "valkey"):
        assert value(text, "tercet_business_upstream_calls_total", upstream=upstream) >= 1
        assert value(text, "tercet_business_upstream_seconds_count", upstream=upstream) >= 1


async def test_a_worker_says_what_it_has_done(
    stack: RunningStack, customer: Customer, books: Books
) -> None:
    async def published() -> float:
        return value(await scraped(stack, "worker-outbox"), "tercet_worker_items_total")

    before = await published()
    await customer.order({(await books.goods()).variant: 1})

    async def told() -> bool:
        return await published() > before

    await until(told, within_s=10, what="the outbox counts what it has published")
    text = await scraped(stack, "worker-outbox")
    assert value(text, "tercet_worker_round_seconds_count", name="outbox") >= 1
    assert value(text, "tercet_worker_last_round_age_seconds", name="outbox") < 30
