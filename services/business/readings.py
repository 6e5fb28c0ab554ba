"""Where each number of business and its workers is read when it is asked for."""

from __future__ import annotations

from typing import Final

from aiobreaker.state import CircuitBreakerState

from services import families
from services.business.shop import Shop
from services.families import Read

Reading = families.Reading[Shop]

BREAKER_STATES: Final = {
    CircuitBreakerState.CLOSED: 0,
    CircuitBreakerState.HALF_OPEN: 1,
    CircuitBreakerState.OPEN: 2,
}


def requests(shop: Shop) -> Read:
    yield ("page", "held"), shop.held.answered_total
    for route, tally in shop.counts.routes.items():
        for hundreds in range(2, 6):
            yield (route, f"{hundreds}xx"), tally.answered[hundreds]
        yield (route, "left"), tally.answered[0]


def request_seconds(shop: Shop) -> Read:
    for route, tally in shop.counts.routes.items():
        yield (route,), tally.took.numbers()


def parts_degraded(shop: Shop) -> Read:
    for part, times in shop.counts.degraded.items():
        yield (part,), times


def own_reads(shop: Shop) -> Read:
    yield ("standby",), shop.database.own.at_standby
    yield ("primary",), shop.database.own.at_primary


def calls(shop: Shop) -> Read:
    for upstream in shop.upstreams:
        for outcome, times in upstream.tally.counts.items():
            yield (upstream.name, outcome), times


def calls_refused(shop: Shop) -> Read:
    for upstream in shop.upstreams:
        for reason, times in upstream.tally.refused.items():
            yield (upstream.name, reason), times


def call_seconds(shop: Shop) -> Read:
    for upstream in shop.upstreams:
        yield (upstream.name,), upstream.tally.took.numbers()


def of_upstreams(attribute: str) -> Reading:
    def reading(shop: Shop) -> Read:
        for upstream in shop.upstreams:
            yield (upstream.name,), getattr(upstream, attribute)

    return reading


def breaker_states(shop: Shop) -> Read:
    for upstream in shop.upstreams:
        yield (upstream.name,), BREAKER_STATES[upstream.breaker.current_state]


def of_rounds(attribute: str) -> Reading:
    def reading(shop: Shop) -> Read:
        for name, rounds in shop.rounds.items():
            yield (name,), getattr(rounds, attribute)

    return reading


def round_seconds(shop: Shop) -> Read:
    for name, rounds in shop.rounds.items():
        yield (name,), rounds.took.numbers()


def cache_gets(shop: Shop) -> Read:
    """By where the value came from. stale: from memory, past its time."""
    for cache in (shop.pages, shop.lists):
        counts = cache.counts
        yield (cache.name, "memory"), counts.memory - counts.stale
        yield (cache.name, "stale"), counts.stale
        yield (cache.name, "valkey"), counts.valkey
        yield (cache.name, "database"), counts.loads


def of_caches(attribute: str) -> Reading:
    def reading(shop: Shop) -> Read:
        for cache in (shop.pages, shop.lists):
            yield (cache.name,), getattr(cache.counts, attribute)

    return reading


def cache_bytes(shop: Shop) -> Read:
    for cache in (shop.pages, shop.lists):
        yield (cache.name,), cache.memory.size_bytes


def outbox_waiting(shop: Shop) -> Read:
    if shop.counts.outbox_lag is not None:
        yield (), shop.counts.outbox_lag.rows


def events_waiting(shop: Shop) -> Read:
    if shop.counts.events_lag is not None:
        yield (), shop.counts.events_lag.entries


def events_age(shop: Shop) -> Read:
    if shop.counts.events_lag is not None:
        yield (), shop.counts.events_lag.oldest_s


def live_watched(shop: Shop) -> Read:
    if shop.counts.live_watched is not None:
        yield (), shop.counts.live_watched


def outbox_age(shop: Shop) -> Read:
    if shop.counts.outbox_lag is not None:
        yield (), shop.counts.outbox_lag.oldest_s


def mails(shop: Shop) -> Read:
    kept = shop.counts.mails_waiting
    if kept is not None:
        yield ("waiting",), kept.waiting
        yield ("dead",), kept.dead


def batch_rows(shop: Shop) -> Read:
    for batcher in shop.batchers:
        yield (batcher.name,), batcher.counts.sizes.numbers()


def batch_waits(shop: Shop) -> Read:
    for batcher in shop.batchers:
        yield (batcher.name,), batcher.counts.waits.numbers()


def of_batches(attribute: str) -> Reading:
    def reading(shop: Shop) -> Read:
        for batcher in shop.batchers:
            yield (batcher.name,), getattr(batcher.counts, attribute)

    return reading
