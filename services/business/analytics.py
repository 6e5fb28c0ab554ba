"""Analytics for the merchant: what visitors do, by window, and what they buy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services import hyperloglog
from services.business.analytics_schemas import (
    FunnelDocument,
    FunnelStep,
    IntervalQuery,
    RevenueSum,
    SearchesDocument,
    SearchesQuery,
    SearchItem,
    SeriesDocument,
    SeriesQuery,
    SeriesWindow,
    TopProductItem,
    TopProductsDocument,
    TopProductsQuery,
    TypeCounts,
)
from services.business.answers import document, render
from services.business.requests import read_query
from services.business.roles import check_merchant
from services.business.shop import Shop
from services.business.trending import score_at
from services.business.windows import ms_of
from services.data import analytics
from services.data.analytics import RevenueWindow, TopProduct, Window
from services.events import TYPES
from services.problems import FieldError, InvalidRequest

WIDTHS: Final = {"second": 1, "minute": 60, "hour": 3600}
WINDOWS_LIMIT: Final = 1500  # of one answer: a day of minutes
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
LIVE_MINUTES: Final = 2  # this one, and the one that may just have ended
INTERVAL_LIMIT: Final = timedelta(days=400)


async def show_series(shop: Shop, request: Request) -> Response:
    """GET /analytics/series: events by type, visitors and revenue, window by window."""
    check_merchant(request)
    query = read_query(request, SeriesQuery)
    width_s = WIDTHS[query.window]
    since, until = _interval(query, timedelta(seconds=width_s))
    if (until - since).total_seconds() > width_s * WINDOWS_LIMIT:
        raise _wrong("since", f"is more than {WINDOWS_LIMIT} windows before until")
    reads = shop.database.reads
    windows = await analytics.select_windows(reads, width_s, since, until)
    revenue = await analytics.select_revenue(reads, width_s, since, until)
    return document(
        SeriesDocument(
            window=query.window, since=since, until=until, items=_series(windows, revenue)
        )
    )


async def show_top_products(shop: Shop, request: Request) -> Response:
    """GET /analytics/top-products: the most wanted products, by trend, views or carts."""
    check_merchant(request)
    query = read_query(request, TopProductsQuery)
    since, until = _interval(query, HOUR)
    reads = shop.database.reads
    if query.by == "trend":
        found = await analytics.select_trending(reads, since, until, query.limit)
    else:
        found = await analytics.select_top(reads, since, until, query.by, query.limit)
    now_ms = ms_of(datetime.now(UTC))
    items = [_top(product, now_ms) for product in found]
    return document(TopProductsDocument(by=query.by, since=since, until=until, items=items))


async def show_funnel(shop: Shop, request: Request) -> Response:
    """GET /analytics/funnel: how many visitors looked, searched, filled carts and bought.

    A visitor has a name for a day: over several days each day counts him once.
    """
    check_merchant(request)
    query = read_query(request, IntervalQuery)
    since, until = _interval(query, HOUR)
    events: dict[str, int] = defaultdict(int)
    sketches: dict[str, list[bytes]] = defaultdict(list)
    for kind, count, sketch in await analytics.select_sketches(shop.database.reads, since, until):
        events[kind] += count
        sketches[kind].append(sketch)
    steps = [
        FunnelStep(
            type=kind,
            events=events[kind],
            visitors=hyperloglog.estimate(hyperloglog.united(sketches[kind])),
        )
        for kind in TYPES
    ]
    everybody = hyperloglog.united(sketch for some in sketches.values() for sketch in some)
    visitors = hyperloglog.estimate(everybody)
    return document(FunnelDocument(since=since, until=until, visitors=visitors, steps=steps))


async def show_searches(shop: Shop, request: Request) -> Response:
    """GET /analytics/searches: what is searched for, and what of it is not found."""
    check_merchant(request)
    query = read_query(request, SearchesQuery)
    since, until = _interval(query, HOUR)
    found = await analytics.select_searches(
        shop.database.reads, since, until, query.show, query.limit
    )
    items = [SearchItem.model_validate(each._asdict()) for each in found]
    return document(SearchesDocument(show=query.show, since=since, until=until, items=items))


async def tell_now(shop: Shop) -> bool:
    """Tell merchants who listen how the last minutes are; whether it could be told."""
    until = datetime.now(UTC).replace(second=0, microsecond=0) + MINUTE
    since = until - LIVE_MINUTES * MINUTE
    primary = shop.database.primary  # the worker has just written it
    windows = await analytics.select_windows(primary, 60, since, until)
    revenue = await analytics.select_revenue(primary, 60, since, until)
    items = _series(windows, revenue)
    told = SeriesDocument(window="minute", since=since, until=until, items=items)
    return await analytics.tell_live(shop.store.valkey, render(told))


def _interval(query: IntervalQuery, step: timedelta) -> tuple[datetime, datetime]:
    """The interval asked for, widened to whole windows; without one the last 60 windows."""
    step_s = int(step.total_seconds())
    until = query.until or datetime.now(UTC) + step
    since = query.since or until - 60 * step
    since, until = (
        datetime.fromtimestamp(int(moment.timestamp()) // step_s * step_s, UTC)
        for moment in (since, until)
    )
    if since >= until:
        raise _wrong("since", f"must be at least {step_s} s before until")
    if until - since > INTERVAL_LIMIT:
        raise _wrong("since", f"is more than {INTERVAL_LIMIT.days} days before until")
    return since, until


def _wrong(field: str, detail: str) -> InvalidRequest:
    errors: list[FieldError] = [{"field": field, "detail": detail}]
    return InvalidRequest(errors=errors)


def _series(windows: Sequence[Window], revenue: Sequence[RevenueWindow]) -> list[SeriesWindow]:
    """Windows in which something happened, in their order."""
    items: dict[datetime, SeriesWindow] = {}
    moments = {one.starts_at for one in windows} | {one.starts_at for one in revenue}
    for moment in sorted(moments):
        items[moment] = SeriesWindow(starts_at=moment, types={}, revenue=[])
    for window in windows:
        counts = TypeCounts.model_validate(window._asdict())
        items[window.starts_at].types[window.type] = counts
    for sums in revenue:
        items[sums.starts_at].revenue.append(RevenueSum.model_validate(sums._asdict()))
    return list(items.values())


def _top(product: TopProduct, now_ms: int) -> TopProductItem:
    score = None if product.log_score is None else round(score_at(product.log_score, now_ms), 3)
    return TopProductItem(
        product_id=product.product_id,
        slug=product.slug,
        title=product.title,
        views=product.views,
        add_to_carts=product.add_to_carts,
        trend=score,
    )
