"""What business and its workers tell Prometheus: which series there are, and what they mean.

A new one is a row: name, what it means, where its number is read from the shop, and its labels.
"""

from __future__ import annotations

from typing import Final

from services.business import readings
from services.business.shop import Shop
from services.child import Child
from services.families import Family, counter, gauge, histogram, one
from services.reports import Report
from services.watchdog import LOOP

Table = tuple[Family[Shop], ...]

# What a shop tells whoever has opened it: business and each worker.
SHOP: Final[Table] = (
    gauge(
        "breaker_state",
        "0: closed; 1: half open, being probed; 2: open, calls are refused",
        readings.breaker_states,
        "upstream",
    ),
    gauge(
        "pool_connections",
        "Connections to each database server",
        readings.connections,
        "source",
        "state",
    ),
    gauge(
        "pool_limit_connections",
        "The most of them that may be busy",
        readings.connection_limits,
        "source",
    ),
    counter(
        "handed_over",
        "Tasks that were to go on whatever becomes of their request",
        one(lambda shop: shop.counts.handed_over_total),
    ),
    gauge("handed_over_running", "Of these, those that run", one(lambda shop: shop.handed_over)),
    *LOOP,
)

BUSINESS: Final[Table] = (
    counter(
        "requests",
        "Requests, by route and status; held: from memory; left: access did not wait",
        readings.requests,
        "route",
        "outcome",
    ),
    histogram(
        "request_seconds",
        "Seconds from a request's head to the end of its answer",
        readings.request_seconds,
        "route",
    ),
    counter(
        "parts_degraded",
        "Parts that a product page was sent without",
        readings.parts_degraded,
        "part",
    ),
    *SHOP,
)

WORKER: Final[Table] = (
    histogram(
        "round_seconds",
        "Seconds that each round took; their count is the number of rounds",
        readings.round_seconds,
        "name",
    ),
    counter(
        "items",
        "What the rounds found to do, and did: rows published, payments checked, orders expired",
        readings.of_rounds("items_total"),
        "name",
    ),
    counter(
        "errors",
        "Rounds, or items of one, that could not be done and are tried again",
        readings.of_rounds("errors_total"),
        "name",
    ),
    gauge(
        "last_round_age_seconds",
        "Seconds since the end of the last round that could be done",
        readings.of_rounds("age_s"),
        "name",
    ),
    *SHOP,
)


def report_of(shop: Shop, child: Child | None) -> Report[Shop]:
    """What a process of business says about itself."""
    return Report("business", shop, BUSINESS, child)


def report_of_worker(shop: Shop) -> Report[Shop]:
    """What a worker says about itself."""
    return Report("worker", shop, WORKER, None)
