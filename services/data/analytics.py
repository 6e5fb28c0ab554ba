"""What analytics are asked for: series, tops and sums of the windows that rollups have counted."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from redis.asyncio import Redis

from services.data.sources import Reader
from services.live_stream import STREAM, STREAM_KEPT
from services.valkey import LOST

LIVE_TOPIC: Final = "analytics"  # of the stream of live states; its event is called the same


class Window(NamedTuple):
    """A window of events of one type; late and future ones arrived in it, and belong elsewhere."""

    starts_at: datetime
    type: str
    events: int
    late_events: int
    future_events: int
    visitors: int


class RevenueWindow(NamedTuple):
    """Amounts in minor units of currency."""

    starts_at: datetime
    currency: str
    sales: int
    sales_minor: int
    refunds: int
    refunds_minor: int


class TopProduct(NamedTuple):
    """log_score: the logarithm to 2 of its trend, if it has one (services/business/trending.py)."""

    product_id: UUID
    slug: str
    title: str
    views: int
    add_to_carts: int
    log_score: float | None


class Query(NamedTuple):
    """What was searched for."""

    query: str
    searches: int
    without_results: int


SELECT_WINDOWS = """
    select starts_at, type, events, late_events, future_events, visitors from event_windows
    where width_s = $1 and starts_at >= $2 and starts_at < $3 order by starts_at, type
"""

SELECT_REVENUE = """
    select starts_at, currency, sales, sales_minor, refunds, refunds_minor from revenue_windows
    where width_s = $1 and starts_at >= $2 and starts_at < $3 order by starts_at, currency
"""

SELECT_SKETCHES = """
    select type, events, visitor_sketch from event_windows
    where width_s = 3600 and starts_at >= $1 and starts_at < $2
"""

# The hours of an interval are added up per product before the best are looked for.
SELECT_TOP = """
    select h.product_id, p.slug, p.title, h.views::bigint, h.add_to_carts::bigint, t.log_score
    from (
        select product_id, sum(views) as views, sum(add_to_carts) as add_to_carts
        from product_hours where starts_at >= $1 and starts_at < $2 group by product_id
    ) h join products p using (product_id) left join trending_products t using (product_id)
    order by case $3 when 'views' then h.views else h.add_to_carts end desc, p.slug limit $4
"""

SELECT_TRENDING = """
    select p.product_id, p.slug, p.title, coalesce(h.views, 0)::bigint,
        coalesce(h.add_to_carts, 0)::bigint, t.log_score
    from (select * from trending_products order by log_score desc limit $3) t
    join products p using (product_id)
    left join lateral (
        select sum(views) as views, sum(add_to_carts) as add_to_carts from product_hours
        where product_id = t.product_id and starts_at >= $1 and starts_at < $2
    ) h on true
    order by t.log_score desc, p.slug
"""

SELECT_SEARCHES = """
    select query, sum(searches)::bigint as searches, sum(without_results)::bigint as without_results
    from search_hours where starts_at >= $1 and starts_at < $2 and query <> ''
    group by query having $3 = 'all' or sum(without_results) > 0
    order by case $3 when 'all' then sum(searches) else sum(without_results) end desc, query
    limit $4
"""


async def select_windows(
    reader: Reader, width_s: int, since: datetime, until: datetime
) -> list[Window]:
    """The windows that begin from since to before until, in their order."""
    return [Window(*row) for row in await reader.fetch(SELECT_WINDOWS, width_s, since, until)]


async def select_revenue(
    reader: Reader, width_s: int, since: datetime, until: datetime
) -> list[RevenueWindow]:
    rows = await reader.fetch(SELECT_REVENUE, width_s, since, until)
    return [RevenueWindow(*row) for row in rows]


async def select_sketches(
    reader: Reader, since: datetime, until: datetime
) -> list[tuple[str, int, bytes]]:
    """Of each hour and type: the type, how many events, and the sketch of their visitors."""
    rows = await reader.fetch(SELECT_SKETCHES, since, until)
    return [(row[0], row[1], row[2]) for row in rows]


async def select_top(
    reader: Reader, since: datetime, until: datetime, by: str, limit: int
) -> list[TopProduct]:
    """by: views or add_to_carts."""
    rows = await reader.fetch(SELECT_TOP, since, until, by, limit)
    return [TopProduct(*row) for row in rows]


async def select_trending(
    reader: Reader, since: datetime, until: datetime, limit: int
) -> list[TopProduct]:
    rows = await reader.fetch(SELECT_TRENDING, since, until, limit)
    return [TopProduct(*row) for row in rows]


async def select_searches(
    reader: Reader, since: datetime, until: datetime, show: str, limit: int
) -> list[Query]:
    """show: all, or only those that found nothing at least once."""
    rows = await reader.fetch(SELECT_SEARCHES, since, until, show, limit)
    return [Query(*row) for row in rows]


async def tell_live(valkey: Redis, data: bytes) -> bool:
    """Tell whoever listens, by the stream of live states; whether it could be told.

    data: one line of JSON, a state that replaces the one before.
    """
    fields = {"topic": LIVE_TOPIC, "key": LIVE_TOPIC, "event": LIVE_TOPIC, "data": data}
    try:
        await valkey.xadd(STREAM, fields, maxlen=STREAM_KEPT, approximate=True)  # type: ignore[arg-type]  # redis-py's field types are invariant
    except LOST:
        return False
    return True
