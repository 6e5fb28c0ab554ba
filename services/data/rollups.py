"""What is counted of events: SQL that adds to windows, and that tells what was counted before.

All of a round is one transaction. Tables are written in one order, and rows of a table in the order
of their key, so that workers wait for each other and never in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from services.data.log_reader import LogEntry
from services.data.sources import Reader, Transaction


class WindowKey(NamedTuple):
    """A window of events of one type; type is one of services.events.TYPES."""

    width_s: int
    starts_at: datetime
    type: str


class Added(NamedTuple):
    """What is added to a window."""

    events: int
    late_events: int
    future_events: int


class RevenueKey(NamedTuple):
    width_s: int
    starts_at: datetime
    currency: str


class Revenue(NamedTuple):
    """Of sales and of refunds: how many, and how much in minor units."""

    sales: int
    sales_minor: int
    refunds: int
    refunds_minor: int


class Totals(NamedTuple):
    """What became of the events that arrived on a day: taken is the sum of all but the last."""

    taken: int
    counted: int
    late: int
    future: int
    duplicates: int
    unreadable: int
    transfers: int
    unknown_products: int


# Waits for another worker that has the same entry in an open transaction, and then leaves it out.
INSERT_ENTRIES = """
    insert into rolled_up_entries (entry_ms, entry_seq, events)
    select * from unnest($1::bigint[], $2::bigint[], $3::integer[]) order by 1, 2
    on conflict do nothing returning entry_ms, entry_seq
"""

INSERT_SEEN = """
    insert into seen_events (day, event_id)
    select * from unnest($1::date[], $2::uuid[]) order by 1, 2
    on conflict do nothing returning event_id
"""

INSERT_TRANSFERS = """
    insert into counted_transfers (cause_id, cause)
    select * from unnest($1::uuid[], $2::text[]) order by 1, 2
    on conflict do nothing returning cause_id, cause
"""

INSERT_UNREADABLE = """
    insert into unreadable_entries (entry_ms, entry_seq, reason, body)
    select * from unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[]) order by 1, 2
    on conflict do nothing
"""

ADD_REVENUE = """
    insert into revenue_windows as w
        (width_s, starts_at, currency, sales, sales_minor, refunds, refunds_minor)
    select * from unnest($1::integer[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[],
        $6::bigint[], $7::bigint[]) order by 1, 2, 3
    on conflict (width_s, starts_at, currency) do update set
        sales = w.sales + excluded.sales, sales_minor = w.sales_minor + excluded.sales_minor,
        refunds = w.refunds + excluded.refunds,
        refunds_minor = w.refunds_minor + excluded.refunds_minor
"""

ADD_EVENTS = """
    insert into event_windows as w
        (width_s, starts_at, type, events, late_events, future_events)
    select * from unnest($1::integer[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[],
        $6::bigint[]) order by 1, 2, 3
    on conflict (width_s, starts_at, type) do update set events = w.events + excluded.events,
        late_events = w.late_events + excluded.late_events,
        future_events = w.future_events + excluded.future_events
    returning width_s, starts_at, type, visitor_sketch
"""

# By insert, which goes to the right partition at once; the rows are there and locked.
SET_SKETCHES = """
    insert into event_windows as w (width_s, starts_at, type, visitors, visitor_sketch)
    select * from unnest($1::integer[], $2::timestamptz[], $3::text[], $4::integer[], $5::bytea[])
    on conflict (width_s, starts_at, type) do update set visitors = excluded.visitors,
        visitor_sketch = excluded.visitor_sketch
"""

ADD_PRODUCTS = """
    insert into product_hours as w (starts_at, product_id, views, add_to_carts)
    select * from unnest($1::timestamptz[], $2::uuid[], $3::bigint[], $4::bigint[]) order by 1, 2
    on conflict (starts_at, product_id) do update set views = w.views + excluded.views,
        add_to_carts = w.add_to_carts + excluded.add_to_carts
"""

ADD_SEARCHES = """
    insert into search_hours as w (starts_at, query, searches, without_results)
    select * from unnest($1::timestamptz[], $2::text[], $3::bigint[], $4::bigint[]) order by 1, 2
    on conflict (starts_at, query) do update set searches = w.searches + excluded.searches,
        without_results = w.without_results + excluded.without_results
"""

# log2(2^a + 2^b), without leaving the range of a double. The products were there a moment ago.
ADD_TRENDS = """
    insert into trending_products as t (product_id, log_score)
    select n.product_id, n.log_score from unnest($1::uuid[], $2::double precision[])
        as n (product_id, log_score) join products using (product_id) order by 1
    on conflict (product_id) do update set log_score = greatest(t.log_score, excluded.log_score)
        + ln(1 + exp(ln(2::double precision)
            * greatest(-60, -abs(t.log_score - excluded.log_score)))) / ln(2::double precision)
"""

INSERT_VIEWED = """
    insert into viewed_products (day, visitor, product_id)
    select * from unnest($1::date[], $2::bytea[], $3::uuid[]) order by 1, 2, 3
    on conflict do nothing
"""

ADD_TOTALS = """
    insert into event_totals as t (log_id, day, taken, counted, late, future, duplicates,
        unreadable, transfers, unknown_products)
    select $1, * from unnest($2::date[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[]) as n (day) order by day
    on conflict (log_id, day) do update set taken = t.taken + excluded.taken,
        counted = t.counted + excluded.counted, late = t.late + excluded.late,
        future = t.future + excluded.future, duplicates = t.duplicates + excluded.duplicates,
        unreadable = t.unreadable + excluded.unreadable,
        transfers = t.transfers + excluded.transfers,
        unknown_products = t.unknown_products + excluded.unknown_products
"""

SELECT_PRODUCT_IDS = "select slug, product_id from products where slug = any($1::text[])"

SELECT_QUERIES = """
    select starts_at, count(*) as queries, array_agg(query) filter (where query = any($2::text[]))
        as known
    from search_hours where starts_at = any($1::timestamptz[]) group by starts_at
"""

MAKE_PARTITIONS = "select make_event_partitions($1::date)"
MAKE_HOUR = "select make_entry_partition($1)"
DROP_PARTITIONS = "select drop_event_partitions($1, $2)"
DROP_TRENDS = "delete from trending_products where log_score < $1"

# By the ledger itself, for a log that was lost with all that was in it.
SELECT_UNCOUNTED = """
    select t.cause, t.cause_id, t.debit_account, t.credit_account, t.amount_minor, t.currency,
        t.created_at
    from ledger_transfers t
    where t.created_at < now() - $1::interval and not exists (
        select from counted_transfers c where (c.cause_id, c.cause) = (t.cause_id, t.cause)
    )
    order by t.transfer_id limit $2
"""


async def insert_entries(tx: Transaction, entries: Sequence[LogEntry]) -> set[tuple[int, int]]:
    """Write entries down as counted; returns the places of those that were not before."""
    rows = await tx.fetch(
        INSERT_ENTRIES,
        [entry.entry_ms for entry in entries],
        [entry.entry_seq for entry in entries],
        [entry.number for entry in entries],
    )
    return {(row[0], row[1]) for row in rows}


async def insert_seen(tx: Transaction, seen: Mapping[UUID, date]) -> set[UUID]:
    """Write ids of events down, each with its day; returns those that were not there before."""
    if not seen:
        return set()
    rows = await tx.fetch(INSERT_SEEN, list(seen.values()), list(seen))
    return {row[0] for row in rows}


async def insert_transfers(
    tx: Transaction, transfers: Iterable[tuple[UUID, str]]
) -> set[tuple[UUID, str]]:
    """Write transfers down as counted; returns those that were not before."""
    columns = _columns(transfers)
    if not columns:
        return set()
    return {(row[0], row[1]) for row in await tx.fetch(INSERT_TRANSFERS, *columns)}


async def insert_unreadable(tx: Transaction, entries: Mapping[LogEntry, str]) -> None:
    """Keep entries that can not be counted, each with the reason."""
    rows = [(one.entry_ms, one.entry_seq, why, one.events) for one, why in entries.items()]
    if rows:
        await tx.execute(INSERT_UNREADABLE, *_columns(rows))


async def add_revenue(tx: Transaction, revenue: Mapping[RevenueKey, Revenue]) -> None:
    if revenue:
        await tx.execute(ADD_REVENUE, *_columns((*key, *add) for key, add in revenue.items()))


async def add_events(tx: Transaction, windows: Mapping[WindowKey, Added]) -> dict[WindowKey, bytes]:
    """Add to windows, and lock them; returns the sketches of their visitors so far."""
    if not windows:
        return {}
    rows = await tx.fetch(ADD_EVENTS, *_columns((*key, *add) for key, add in windows.items()))
    return {WindowKey(*row[:3]): row[3] for row in rows}


async def set_sketches(tx: Transaction, sketches: Mapping[WindowKey, tuple[int, bytes]]) -> None:
    """Set the number of visitors and its sketch, of windows that the transaction has locked."""
    if sketches:
        await tx.execute(SET_SKETCHES, *_columns((*key, *new) for key, new in sketches.items()))


async def add_products(
    tx: Transaction, hours: Mapping[tuple[datetime, UUID], tuple[int, int]]
) -> None:
    """Add views and additions to carts to the hours of products."""
    if hours:
        await tx.execute(ADD_PRODUCTS, *_columns((*key, *add) for key, add in hours.items()))


async def add_searches(
    tx: Transaction, hours: Mapping[tuple[datetime, str], tuple[int, int]]
) -> None:
    """Add searches, and those of them without results, to the hours of queries."""
    if hours:
        await tx.execute(ADD_SEARCHES, *_columns((*key, *add) for key, add in hours.items()))


async def add_trends(tx: Transaction, log_scores: Mapping[UUID, float]) -> None:
    if log_scores:
        await tx.execute(ADD_TRENDS, list(log_scores), list(log_scores.values()))


async def insert_viewed(tx: Transaction, viewed: Iterable[tuple[date, bytes, UUID]]) -> None:
    """Note which products a visitor of a day has looked at."""
    columns = _columns(viewed)
    if columns:
        await tx.execute(INSERT_VIEWED, *columns)


async def add_totals(tx: Transaction, log_id: str, days: Mapping[date, Totals]) -> None:
    if days:
        await tx.execute(ADD_TOTALS, log_id, *_columns((day, *add) for day, add in days.items()))


async def select_product_ids(reader: Reader, slugs: Iterable[str]) -> dict[str, UUID]:
    rows = await reader.fetch(SELECT_PRODUCT_IDS, list(slugs))
    return {row[0]: row[1] for row in rows}


async def select_queries(
    reader: Reader, hours: Iterable[datetime], queries: Iterable[str]
) -> dict[datetime, tuple[int, set[str]]]:
    """By hour: how many queries it has, and which of these are among them."""
    rows = await reader.fetch(SELECT_QUERIES, list(hours), list(queries))
    return {row[0]: (row[1], set(row[2] or ())) for row in rows}


async def make_partitions(tx: Transaction, day: date) -> None:
    """Have the tables take what belongs to a day (UTC)."""
    await tx.execute(MAKE_PARTITIONS, day)


async def make_hour(tx: Transaction, entry_ms: int) -> None:
    """Have entries of that hour be written down."""
    await tx.execute(MAKE_HOUR, entry_ms)


async def drop_partitions(tx: Transaction, kept_days: int, oldest_entry_ms: int) -> int:
    """Drop what is too old; entries from oldest_entry_ms on may come again and stay known."""
    return int(await tx.fetchval(DROP_PARTITIONS, kept_days, oldest_entry_ms))


async def drop_trends(tx: Transaction, log_score: float) -> None:
    """Forget products whose score has decayed below this one."""
    await tx.execute(DROP_TRENDS, log_score)


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
