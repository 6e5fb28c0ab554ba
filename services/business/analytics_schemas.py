"""What analytics are asked and answer."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.business.schemas import Document, Integer, Moment, Timestamp

Width = Literal["second", "minute", "hour"]
Kind = Literal["view", "search", "add_to_cart", "checkout", "purchase"]


class IntervalQuery(BaseModel):
    """An interval; parameters not named here change nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: Moment | None = Field(
        None, description="begin, rounded down to a window; default: 60 windows before until"
    )
    until: Moment | None = Field(
        None, description="end, rounded down to a window, not included; default: with this window"
    )


class SeriesQuery(IntervalQuery):
    """At most 1,500 windows. Seconds are kept for a day, minutes for a week, hours for longer."""

    window: Width = Field("minute", description="how long each window is")


class TopProductsQuery(IntervalQuery):
    """Hours; the trend is that of now, whatever the interval."""

    by: Literal["trend", "views", "add_to_carts"] = Field(
        "trend", description="trend: a score of views and carts that halves every six hours"
    )
    limit: Integer = Field(20, ge=1, le=100, description="products at most")


class SearchesQuery(IntervalQuery):
    """Hours."""

    show: Literal["all", "without-results"] = Field(
        "all", description="without-results: only what was not found at least once"
    )
    limit: Integer = Field(20, ge=1, le=100, description="queries at most")


class TypeCounts(Document):
    """Events of one type in a window."""

    events: int
    late_events: int = Field(description="arrived in this window, of one that was closed by then")
    future_events: int = Field(description="arrived in this window, from a clock that is ahead")
    visitors: int = Field(description="different ones, to 1.6 %")


class RevenueSum(Document):
    """What the ledger has of a window, in minor units."""

    currency: str
    sales: int
    sales_minor: int
    refunds: int
    refunds_minor: int


class SeriesWindow(Document):
    """A window in which something happened."""

    starts_at: Timestamp
    types: dict[str, TypeCounts]
    revenue: list[RevenueSum]


class SeriesDocument(Document):
    """Windows in their order; one without an item had no events."""

    window: Width
    since: Timestamp
    until: Timestamp
    items: list[SeriesWindow]


class TopProductItem(Document):
    """A product, with what was done with it in the interval."""

    product_id: UUID
    slug: str
    title: str
    views: int
    add_to_carts: int
    trend: float | None = Field(description="as it is now: one view right now is 1")


class TopProductsDocument(Document):
    """The most wanted first."""

    by: Literal["trend", "views", "add_to_carts"]
    since: Timestamp
    until: Timestamp
    items: list[TopProductItem]


class FunnelStep(Document):
    """How many visitors came as far as this."""

    type: Kind
    events: int
    visitors: int


class FunnelDocument(Document):
    """From looking to buying."""

    since: Timestamp
    until: Timestamp
    visitors: int = Field(description="different ones in all, each once a day")
    steps: list[FunnelStep]


class SearchItem(Document):
    """What was searched for, in small letters."""

    query: str
    searches: int
    without_results: int


class SearchesDocument(Document):
    """The most frequent first."""

    show: Literal["all", "without-results"]
    since: Timestamp
    until: Timestamp
    items: list[SearchItem]
