"""What business and each worker tell about the database: pools, standbys, reads refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from services.business.shop import Shop
from services.data.pool import Pool
from services.data.sources import Replica, Source
from services.data.statement_times import STATEMENTS_S, in_all
from services.families import Family, Number, Read, Reading, counter, gauge, histogram, one


def _sources(shop: Shop) -> Iterator[Source]:
    yield shop.database.primary
    yield from shop.database.replicas


def _of_pools(read: Callable[[Pool], Number]) -> Reading[Shop]:
    def reading(shop: Shop) -> Read:
        for source in _sources(shop):
            yield (source.name,), read(source.pool)

    return reading


def _of_standbys(read: Callable[[Replica], Number | None]) -> Reading[Shop]:
    def reading(shop: Shop) -> Read:
        for replica in shop.database.replicas:
            number = read(replica)
            if number is not None:
                yield (replica.name,), number

    return reading


def _connections(shop: Shop) -> Read:
    for source in _sources(shop):
        yield (source.name, "idle"), source.pool.idle
        yield (source.name, "busy"), source.pool.busy


def _changes(shop: Shop) -> Read:
    for source in _sources(shop):
        counts = source.pool.counts
        yield (source.name, "opened"), counts.opened
        yield (source.name, "lost"), counts.lost
        yield (source.name, "retired"), counts.retired


def _statement_seconds(shop: Shop) -> Read:
    for name, numbers in in_all([source.pool.times for source in _sources(shop)]).items():
        yield (name,), numbers


def _lag_s(replica: Replica) -> float | None:
    return None if replica.lag_ms is None else replica.lag_ms / 1000


DATABASE: Final[tuple[Family[Shop], ...]] = (
    histogram(
        "statement_seconds",
        "Seconds from handing a statement to its connection to its rows; reads by key are joined",
        _statement_seconds,
        "statement",
        bounds=STATEMENTS_S,
    ),
    gauge(
        "pool_connections", "Connections to each database server", _connections, "source", "state"
    ),
    gauge(
        "pool_limit_connections",
        "The most of them that may be busy",
        _of_pools(lambda pool: pool.size),
        "source",
    ),
    counter(
        "pool_connection_changes",
        "Connections opened, lost (found broken), retired for their age",
        _changes,
        "source",
        "change",
    ),
    counter(
        "pool_takes",
        "Times that a connection was taken",
        _of_pools(lambda pool: pool.counts.takes),
        "source",
    ),
    counter(
        "pool_wait_seconds",
        "Seconds from asking for one until it was there, of all takes together",
        _of_pools(lambda pool: pool.counts.waited_s),
        "source",
    ),
    gauge(
        "standby_read_from",
        "1: reads go to it; 0: it is ejected, for it does not answer or is late",
        _of_standbys(lambda replica: float(replica.standing.stands)),
        "source",
    ),
    gauge(
        "standby_lag_seconds",
        "How long ago the primary stood where it stands; absent while it does not answer",
        _of_standbys(_lag_s),
        "source",
    ),
    gauge(
        "standby_lag_bytes",
        "How much WAL the primary had written past that",
        _of_standbys(lambda replica: float(replica.lag_bytes)),
        "source",
    ),
    counter(
        "standby_ejections",
        "Times that it was not read from any more",
        _of_standbys(lambda replica: replica.standing.ejections_total),
        "source",
    ),
    counter(
        "primary_reads_shed",
        "Reads refused because standbys were away and the primary had its share",
        one(lambda shop: shop.database.primary.reads_shed),
    ),
)
