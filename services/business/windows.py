"""Which windows an event counts in: decided by the event and its arrival, never by when it is read.

So an entry of the log that is read again, by another worker or an hour later, counts where it did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from uuid import UUID

from services.business.trending import log_score, log_sum
from services.data.ledger import REFUNDS, SALES
from services.data.rollups import Added, Revenue, RevenueKey, Totals, WindowKey
from services.events import TYPE_OF, AddToCart, Booked, ClientEvent, Event, Search, View

WIDTHS_S: Final = (1, 60, 3600)
DAY_MS: Final = 86_400_000
MOMENTS_KEPT: Final = 4096
# A browser sends what it has gathered when its page is left, or when it is back on the net.
LATENESS_MS: Final = 600_000
# Of a client's clock that is ahead of ours, with the way to us.
AHEAD_MS: Final = 60_000
QUERY_CHARACTERS: Final = 100
VIEW_WEIGHT: Final = 1.0
CART_WEIGHT: Final = 4.0  # who takes one along says more than who looks

Place = Literal["on time", "late", "future"]


def place_of(at_ms: int, arrived_ms: int) -> Place:
    """Whether an event counts at its own time, or only by its arrival."""
    if at_ms < arrived_ms - LATENESS_MS:
        return "late"
    return "future" if at_ms > arrived_ms + AHEAD_MS else "on time"


def start_of(at_ms: int, width_s: int) -> datetime:
    """Where the window of that width begins which a moment is in: windows do not overlap."""
    at_s = at_ms // 1000
    return _moment(at_s - at_s % width_s)


@lru_cache(MOMENTS_KEPT)
def _moment(at_s: int) -> datetime:
    """Made once: the events of a round are of a few seconds."""
    return datetime.fromtimestamp(at_s, UTC)


def day_of(at_ms: int) -> date:
    return _day(at_ms // DAY_MS)


@lru_cache(MOMENTS_KEPT)
def _day(number: int) -> date:
    return _moment(number * DAY_MS // 1000).date()


def seen_day(at_ms: int, arrived_ms: int) -> date:
    """The day under which an event's id is kept: its own, so that a copy that comes after midnight
    is found there, or that of its arrival where the two are more than a day apart."""
    return day_of(at_ms if abs(at_ms - arrived_ms) <= DAY_MS else arrived_ms)


def ms_of(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def plain_query(query: str) -> str:
    """What was searched for, so that the same is told the same."""
    words = query.replace("\0", " ").casefold().split()
    return " ".join(words)[:QUERY_CHARACTERS].rstrip()


class Arrived(NamedTuple):
    """An event as it was taken: when, and from which visitor."""

    arrived_ms: int
    visitor: bytes
    event: Event


@dataclass
class DayCounts:
    """As Totals, while they are counted; taken is their sum."""

    counted: int = 0
    late: int = 0
    future: int = 0
    duplicates: int = 0
    unreadable: int = 0
    transfers: int = 0
    unknown_products: int = 0

    def totals(self) -> Totals:
        known = (self.counted, self.late, self.future, self.duplicates, self.unreadable)
        taken = sum(known) + self.transfers
        return Totals(taken, *known, self.transfers, self.unknown_products)


@dataclass
class Tally:
    """What the events of a round add to each window, before anybody is asked what is there.

    Counted by the second, and added up to wider windows in the end: an event costs as little as
    can be.
    """

    # By second since 1970 and type: on time, late and ahead; and who they came from.
    seconds: dict[tuple[int, str], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0] * 3)
    )
    seen_by: dict[tuple[int, str], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    interest: dict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    views: dict[tuple[datetime, str], int] = field(default_factory=lambda: defaultdict(int))
    carts: dict[tuple[datetime, str], int] = field(default_factory=lambda: defaultdict(int))
    searches: dict[tuple[datetime, str], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )
    viewed: set[tuple[date, bytes, str]] = field(default_factory=set)
    revenue: dict[RevenueKey, list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0] * 4)
    )
    sales: set[UUID] = field(default_factory=set)  # causes of transfers to sales
    sold_at_ms: int = 0  # the latest of them
    days: dict[date, DayCounts] = field(default_factory=lambda: defaultdict(DayCounts))

    def add(self, arrived: Arrived) -> None:
        """Count an event that was not counted before."""
        arrived_ms, visitor, event = arrived
        day = self.days[day_of(arrived_ms)]
        if isinstance(event, Booked):
            day.transfers += 1
            self._book(event)
            return
        at_ms = ms_of(event.at)
        place = place_of(at_ms, arrived_ms)
        kind = TYPE_OF[type(event)]
        if place == "on time":
            day.counted += 1
            self._count(event, kind, at_ms, visitor)
            return
        late = place == "late"
        day.late += late
        day.future += not late
        self.seconds[arrived_ms // 1000, kind][2 - late] += 1

    def _count(self, event: ClientEvent, kind: str, at_ms: int, visitor: bytes) -> None:
        second = at_ms // 1000
        self.seconds[second, kind][0] += 1
        if visitor:
            self.seen_by[second, kind].add(visitor)
        hour = start_of(at_ms, 3600)
        if isinstance(event, View) and event.product is not None:
            self.views[hour, event.product] += 1
            self.interest[second, event.product] += VIEW_WEIGHT
            if visitor:
                self.viewed.add((day_of(at_ms), visitor, event.product))
        elif isinstance(event, AddToCart):
            self.carts[hour, event.product] += 1
            self.interest[second, event.product] += CART_WEIGHT
        elif isinstance(event, Search):
            counts = self.searches[hour, plain_query(event.query)]
            counts[0] += 1
            counts[1] += event.results == 0

    def _book(self, event: Booked) -> None:
        """Sales and refunds; what is owed to others is no revenue, wherever it goes."""
        accounts = (event.debit_account, event.credit_account)
        if SALES not in accounts and REFUNDS not in accounts:
            return
        at = 0 if SALES in accounts else 2
        if at == 0:
            self.sales.add(event.cause_id)
            self.sold_at_ms = max(self.sold_at_ms, ms_of(event.at))
        for width_s in WIDTHS_S:
            key = RevenueKey(width_s, start_of(ms_of(event.at), width_s), event.currency)
            self.revenue[key][at] += 1
            self.revenue[key][at + 1] += event.amount_minor

    def added(self) -> dict[WindowKey, Added]:
        """What is added to the windows of every width."""
        sums: dict[WindowKey, list[int]] = defaultdict(lambda: [0] * 3)
        for (second, kind), counts in self.seconds.items():
            for key in _windows(second, kind):
                for at, count in enumerate(counts):
                    sums[key][at] += count
        return {key: Added(*counts) for key, counts in sums.items()}

    def visitors(self) -> dict[WindowKey, set[bytes]]:
        """Who was there, by window."""
        found: dict[WindowKey, set[bytes]] = defaultdict(set)
        for (second, kind), visitors in self.seen_by.items():
            for key in _windows(second, kind):
                found[key] |= visitors
        return found

    def trends(self) -> dict[str, float]:
        """By slug the logarithm of what is added to its score."""
        found: dict[str, float] = {}
        for (second, slug), weight in self.interest.items():
            new = log_score(second * 1000, weight)
            found[slug] = log_sum(found[slug], new) if slug in found else new
        return found

    def booked(self) -> dict[RevenueKey, Revenue]:
        return {key: Revenue(*sums) for key, sums in self.revenue.items()}

    def slugs(self) -> set[str]:
        """Every product that was named."""
        return {slug for _, slug in (*self.views, *self.carts)}

    def product_hours(
        self, product_ids: dict[str, UUID]
    ) -> dict[tuple[datetime, UUID], tuple[int, int]]:
        """By hour and product: views and additions to carts. Others than these are no products."""
        keys = {*self.views, *self.carts}
        return {
            (hour, product_ids[slug]): (
                self.views.get((hour, slug), 0),
                self.carts.get((hour, slug), 0),
            )
            for hour, slug in keys
            if slug in product_ids
        }


def _windows(second: int, kind: str) -> list[WindowKey]:
    return [WindowKey(width_s, start_of(second * 1000, width_s), kind) for width_s in WIDTHS_S]


def unknown_among(arrived: Iterable[Arrived], product_ids: dict[str, UUID]) -> dict[date, int]:
    """By day of arrival: the events that name a product there is none of."""
    found: dict[date, int] = defaultdict(int)
    for one in arrived:
        event = one.event
        if isinstance(event, View | AddToCart) and event.product is not None:
            found[day_of(one.arrived_ms)] += event.product not in product_ids
    return found
