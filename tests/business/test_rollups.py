"""The rollups worker: each event counts once, whatever is killed, repeated or mixed up."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from services.business import outbox as relay
from services.business import rollups
from services.business.payments import pay
from services.business.rollups import Worker, catch_up, count_entries
from services.business.shop import Shop, open_shop
from services.data import log_reader
from services.data.log_proofs import prove_log
from services.data.log_reader import GROUP, LogAway, ValkeyLogReader
from services.data.publisher import ValkeyPublisher
from services.event_log import APPENDED, LOG, Entry
from services.events import AddToCart, Booked, Search, View, write_events
from tests.business.counting import (
    TABLES,
    count_all,
    entry,
    holds,
    now_ms,
    send,
    totals,
    view,
    worker_of,
)
from tests.business.test_windows import arrivals
from tests.shopping import Books, place
from tests.test_hyperloglog import named


async def test_events_are_counted_by_window_and_type(
    counting: Shop, counted: Books, log: Redis
) -> None:
    goods = await counted.goods()
    slug_of = "select slug from products where product_id = $1"
    slug = await counted.value(slug_of, goods.product_id)
    at = datetime.now(UTC)
    await send(
        log,
        entry(view(slug), view("no-such-product"), view()),
        entry(view(slug), AddToCart(uuid4(), at, slug), visitor=named(2)),
        entry(Search(uuid4(), at, "Lamp", 0), Search(uuid4(), at, " lamp", 3), visitor=b""),
    )
    await count_all(worker_of(counting, log))
    found = await totals(counted)
    assert (found["taken"], found["counted"], found["unknown_products"]) == (7, 7, 1)
    for width_s in (1, 60, 3600):
        rows = await counted.rows(
            "select type, sum(events)::int as events, max(visitors) as visitors"
            " from event_windows where width_s = $1 group by type",
            width_s,
        )
        assert {row["type"]: row["events"] for row in rows} == {
            "view": 4, "add_to_cart": 1, "search": 2
        }  # fmt: skip
    hours = "select visitors from event_windows where width_s = 3600 and type = $1"
    assert sum([row[0] for row in await counted.rows(hours, "view")]) >= 2
    (product,) = await counted.rows("select product_id, views, add_to_carts from product_hours")
    assert tuple(product) == (goods.product_id, 2, 1)
    (search,) = await counted.rows("select query, searches, without_results from search_hours")
    assert tuple(search) == ("lamp", 2, 1)
    assert await counted.value("select count(*) from trending_products") == 1
    assert await counted.value("select count(*) from viewed_products") == 2
    assert await log.xlen(LOG) == 0
    assert await holds(counting, counted, log)


async def test_late_and_future_events_are_counted_apart(
    counting: Shop, counted: Books, log: Redis
) -> None:
    await send(log, entry(view(), view(age_s=3600), view(age_s=-3600), view(age_s=10**9)))
    await count_all(worker_of(counting, log))
    found = await totals(counted)
    assert (found["counted"], found["late"], found["future"]) == (1, 2, 1)
    rows = await counted.rows(
        "select late_events, future_events from event_windows where events < 2"
    )
    assert sum(row["late_events"] for row in rows) == 2 * 3  # in each width
    assert sum(row["future_events"] for row in rows) == 3
    assert await holds(counting, counted, log)


async def test_an_event_that_comes_again_counts_once(
    counting: Shop, counted: Books, log: Redis
) -> None:
    one, two = view(), view()
    await send(log, entry(one, two, one), entry(two))
    await count_all(worker_of(counting, log))
    await send(log, entry(one))
    await count_all(worker_of(counting, log))
    found = await totals(counted)
    assert (found["taken"], found["counted"], found["duplicates"]) == (5, 2, 3)
    assert await holds(counting, counted, log)


class Dies(Exception):
    """Stands for the end of the process."""


class DyingReader(ValkeyLogReader):
    """Of a worker that is gone after its commit, before the log has heard of it."""

    async def drop(self, entries: Any) -> None:
        raise Dies


@pytest.mark.parametrize("again", ["the same worker", "another one"])
async def test_an_entry_that_was_counted_and_not_dropped_is_not_counted_again(
    counting: Shop, counted: Books, log: Redis, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    monkeypatch.setattr(log_reader, "STUCK_MS", 50)
    await send(log, entry(view(), view()), entry(view()))
    with pytest.raises(Dies):
        await Worker(counting, DyingReader(log, "one")).run_once()
    assert (await totals(counted))["counted"] == 3
    assert await log.xlen(LOG) == 2
    assert await holds(counting, counted, log)  # they are in the log, and known to be counted
    await asyncio.sleep(0.06)
    await count_all(worker_of(counting, log, "one" if again == "the same worker" else "two"))
    assert await log.xlen(LOG) == 0
    found = await totals(counted)
    assert (found["taken"], found["counted"], found["duplicates"]) == (3, 3, 0)
    assert await holds(counting, counted, log)


async def test_what_a_dead_worker_had_read_is_counted_by_another(
    counting: Shop, counted: Books, log: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "STUCK_MS", 50)
    dead, other = ValkeyLogReader(log, "dead"), worker_of(counting, log)
    await dead.open()
    await send(log, *[entry(view()) for _ in range(5)])
    assert len(await dead.read(3, 100)) == 3
    assert await other.run_once() in (2, 5)  # not those, or all if it was slow to come
    await asyncio.sleep(0.06)
    other._claimed_at = 0.0
    await count_all(other)
    assert (await totals(counted))["counted"] == 5
    assert await log.xlen(LOG) == 0
    assert await holds(counting, counted, log)


async def test_a_worker_that_is_merely_slow_and_who_took_over_count_once(
    counting: Shop, counted: Books, log: Redis
) -> None:
    """Both have the same entries at the same time, in other company each."""
    reader = ValkeyLogReader(log, "slow")
    log_id = await reader.open()
    await send(log, *[entry(view()) for _ in range(40)])
    entries = await reader.read(100, 100)
    await Worker(counting, reader)._make_partitions(entries)
    dice = random.Random(1)
    mixed = [dice.sample(entries, 25) for _ in range(8)]
    await asyncio.gather(*(count_entries(counting, log_id, part) for part in mixed))
    await count_entries(counting, log_id, entries)
    found = await totals(counted)
    assert (found["taken"], found["counted"]) == (40, 40)
    await reader.drop(entries)
    assert await holds(counting, counted, log)


async def test_several_workers_share_the_log(
    counting: Shop, counted: Books, log: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "ENTRIES", 5)
    monkeypatch.setattr(rollups, "WAIT_MS", 10)
    await send(log, *[entry(*[view() for _ in range(7)]) for _ in range(60)])
    workers = [worker_of(counting, log) for _ in range(4)]
    await asyncio.gather(*(count_all(worker) for worker in workers))
    assert (await totals(counted))["counted"] == 420
    assert await holds(counting, counted, log)


async def test_what_can_not_be_read_is_kept_and_holds_nobody_up(
    counting: Shop, counted: Books, log: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = Search(uuid4(), datetime.now(UTC), "\0", 0)
    await send(log, Entry(now_ms(), b"", 4, b"\xc1"), entry(view()), entry(zero))
    await send(log, entry(view())._replace(arrived_ms=10**18))  # no day that there is
    transfer = Booked("made_up", uuid4(), "sales", "refunds", 2**63, "USD", datetime.now(UTC))
    await send(log, entry(transfer))  # more than a row can hold
    with capture_logs() as logged:  # to write it down with all its variables takes seconds
        await count_all(worker_of(counting, log))
    assert [each["event"] for each in logged if each["log_level"] == "error"] == ["bug"]
    found = await totals(counted)
    assert (found["taken"], found["counted"], found["unreadable"]) == (8, 3, 5)
    assert await counted.value("select count(*) from unreadable_entries") == 2
    assert await holds(counting, counted, log)


async def test_revenue_is_that_of_the_ledger_however_often_it_is_told(
    counting: Shop, counted: Books, log: Redis
) -> None:
    """E60: the events of the relay twice and in another order, and a consumer killed."""
    await counted.rows("update outbox set published_at = now()")
    goods = await counted.goods()
    for number in range(6):
        key = await place(counting, {goods.variant: number + 1})
        await pay(counting, key, "tok_approve", f"key-{number}", b"body")
    publisher = ValkeyPublisher(counting.store.valkey, uuid4().hex, log)
    await relay.run_once(counting, publisher)
    await counted.rows("update outbox set published_at = null, claimed_until = null")
    await relay.run_once(counting, publisher)
    with pytest.raises(Dies):
        await Worker(counting, DyingReader(log, "one")).run_once()
    await count_all(worker_of(counting, log, "one"))
    sold = await counted.value(
        "select sum(sales_minor)::bigint from revenue_windows where width_s = 3600"
    )
    booked = await counted.value(
        "select sum(amount_minor)::bigint from ledger_transfers join counted_transfers"
        " using (cause_id, cause)"
    )
    assert sold == booked >= 21 * 1000
    assert await holds(counting, counted, log)


async def test_a_log_that_was_lost_costs_no_revenue(
    counting: Shop, counted: Books, log: Redis
) -> None:
    goods = await counted.goods()
    key = await place(counting, {goods.variant: 2})
    await pay(counting, key, "tok_approve", "a-key", b"body")
    await send(log, entry(view()))
    worker = worker_of(counting, log)
    await count_all(worker)
    await log.flushall()
    with pytest.raises(LogAway):
        await worker.run_once()
    await send(log, entry(view()))
    await count_all(worker)
    assert (await totals(counted))["counted"] == 2
    assert await catch_up(counting, timedelta()) >= 1
    assert await catch_up(counting, timedelta()) == 0
    assert await counted.value(
        "select not exists (select from ledger_transfers left join counted_transfers c"
        " using (cause_id, cause) where c.cause_id is null)"
    )
    assert await holds(counting, counted, log)


async def test_days_that_are_not_kept_are_dropped_and_their_sums_are_not(
    counting: Shop, counted: Books, log: Redis
) -> None:
    old_ms = now_ms() - 100 * 86_400_000
    old = View(uuid4(), datetime.fromtimestamp(old_ms / 1000, UTC))
    await send(log, entry(old, arrived_ms=old_ms), entry(view()))
    worker = worker_of(counting, log)
    await count_all(worker)
    chores = rollups.Chores(counting)
    await chores.do(worker, ValkeyLogReader(log))
    rows = await counted.rows("select width_s, events from dropped_windows order by 1")
    assert [tuple(row) for row in rows] == [(1, 1), (60, 1), (3600, 1)]
    assert await counted.value("select sum(events)::int from event_windows where width_s = 60") == 1
    assert (await totals(counted))["counted"] == 2
    assert await holds(counting, counted, log)
    await send(log, entry(view()))
    await count_all(worker)
    assert await holds(counting, counted, log)


async def test_an_entry_that_may_come_again_stays_known(
    counting: Shop, counted: Books, log: Redis
) -> None:
    """However long ago it was counted: as long as it is in the log."""
    hours_ago = now_ms() - 5 * 3_600_000
    fields: Any = {"t": now_ms(), "v": b"", "n": 1, "e": write_events([view()])}
    await log.xadd(LOG, fields, id=f"{hours_ago}-1")
    await log.incrby(APPENDED, 1)
    worker = Worker(counting, DyingReader(log, "one"))
    with pytest.raises(Dies):
        await worker.run_once()
    await rollups.Chores(counting).do(worker, ValkeyLogReader(log))
    assert await counted.value("select count(*) from rolled_up_entries") == 1
    await count_all(worker_of(counting, log, "one"))
    await rollups.Chores(counting).do(worker, ValkeyLogReader(log))
    assert await counted.value("select count(*) from rolled_up_entries") == 0
    assert (await totals(counted))["counted"] == 1


async def test_what_takes_too_long_at_once_is_counted_in_parts(
    counting: Shop, counted: Books, log: Redis
) -> None:
    """A lock that is held for as long as a statement may take, and for a little more."""
    await send(log, *[entry(view()) for _ in range(4)])
    hurried = counting.settings.model_copy(update={"statement_timeout_ms": 300})
    async with open_shop(hurried) as other:
        async with counting.database.primary.transaction() as tx:
            await tx.execute("lock table event_totals in share mode")
            counting_all = asyncio.create_task(count_all(worker_of(other, log)))
            await asyncio.sleep(0.4)
        await counting_all
    assert (await totals(counted))["counted"] == 4
    assert await holds(counting, counted, log)


async def test_queries_that_anybody_can_make_up_are_bounded(
    counting: Shop, counted: Books, log: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "QUERIES_AN_HOUR", 3)
    at = datetime.now(UTC)
    await send(log, entry(*[Search(uuid4(), at, f"q{number}", 0) for number in range(5)]))
    await send(log, entry(Search(uuid4(), at, "q0", 0), Search(uuid4(), at, "new", 0)))
    monkeypatch.setattr(rollups, "ENTRIES", 1)
    await count_all(worker_of(counting, log))
    rows = await counted.rows("select query, searches from search_hours order by searches, query")
    assert len(rows) == 4
    assert (rows[-1]["query"], rows[-1]["searches"]) == ("", 3)
    assert sum(row["searches"] for row in rows) == 7


async def test_a_log_with_an_entry_taken_out_of_it_is_found_out(
    counting: Shop, counted: Books, log: Redis
) -> None:
    await send(log, entry(view()), entry(view(), view()))
    await count_all(worker_of(counting, log))
    await send(log, entry(view()))
    assert await holds(counting, counted, log)
    await log.xtrim(LOG, maxlen=0)
    found = await prove_log(counting.database.primary, log)
    assert found.broken == ["taken 4, counted 3, still in the log 0"]


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
async def test_any_order_of_deliveries_and_copies_counts_the_same(
    counting: Shop, counted: Books, log: Redis, data: st.DataObject
) -> None:
    """Batches are cut anywhere, sent again, read by workers that die after their commit."""
    await counted.rows(f"truncate {TABLES}")
    await log.flushall()
    events = [one.event for one in data.draw(st.lists(arrivals(), min_size=1, max_size=12))]
    copies = data.draw(st.lists(st.sampled_from(events), max_size=8))
    sent = data.draw(st.permutations([*events, *copies]))
    cut = data.draw(st.integers(1, len(sent)))
    batches = [sent[at : at + cut] for at in range(0, len(sent), cut)]
    await send(log, *[entry(*batch, arrived_ms=1_795_000_000_000) for batch in batches])
    if data.draw(st.booleans()):
        with pytest.raises(Dies):
            await Worker(counting, DyingReader(log, "one")).run_once()
    await count_all(worker_of(counting, log, "one"))
    found = await totals(counted)
    distinct = len({event.id for event in events})  # type: ignore[union-attr]  # none is a transfer
    assert found["taken"] == len(sent)
    assert found["counted"] + found["late"] + found["future"] == distinct
    assert found["duplicates"] == len(sent) - distinct
    assert await holds(counting, counted, log)


async def test_the_group_forgets_workers_that_are_gone(
    counting: Shop, counted: Books, log: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "FORGOTTEN_MS", -1)
    await count_all(worker_of(counting, log, "gone"))
    await ValkeyLogReader(log, "here").forget_workers()
    assert await log.xinfo_consumers(LOG, GROUP) == []
