"""What access tells Prometheus: which series there are, and where each number is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from services.access.counts import LATENCY_BOUNDS_S

if TYPE_CHECKING:
    from services.access.edge import Edge
    from services.access.gate import Gate

# A histogram is the list of its slots, the sum of its values at the end.
Number = float | list[float]
Read = Iterator[tuple[tuple[str, ...], Number]]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. A gauge also has the label `worker`: it is told of each process."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    read: Callable[[Edge], Read]
    labels: tuple[str, ...] = ()


def one(read: Callable[[Edge], float]) -> Callable[[Edge], Read]:
    """A family without labels."""

    def reading(edge: Edge) -> Read:
        yield (), read(edge)

    return reading


def _requests(edge: Edge) -> Read:
    yield ("page", "held"), edge.pages.hits_total
    for name, tally in edge.counts.tallies().items():
        for hundreds in range(1, 6):
            yield (name, f"{hundreds}xx"), tally.answered[hundreds]


def _forward_seconds(edge: Edge) -> Read:
    for name, tally in edge.counts.tallies().items():
        if sum(tally.slots):
            yield (name,), [*map(float, tally.slots), tally.sum_s]


def _refusals(edge: Edge) -> Read:
    for status in (400, 408, 413, 414, 421, 431, 501, 503, 505):
        yield (str(status),), edge.counts.refused.get(status, 0)
    for status, count in edge.counts.refused.items():
        yield (str(status),), count


def _lookups(edge: Edge) -> Read:
    pages = edge.pages
    yield ("fresh",), pages.hits_total - pages.stale_total
    yield ("stale",), pages.stale_total
    yield ("miss",), pages.misses_total
    yield ("coalesced",), pages.coalesced_total


def _pools(edge: Edge) -> dict[str, Any]:
    """Connections to business by name; operators share those of "other"."""
    named: dict[str, Any] = {"control": edge.forwarder.control}
    for route, pool in edge.forwarder.pools.items():
        if not any(pool is known for known in named.values()):
            named[route.value] = pool
    return named


def _of_pools(attribute: str) -> Callable[[Edge], Read]:
    def reading(edge: Edge) -> Read:
        for name, pool in _pools(edge).items():
            yield (name,), getattr(pool, attribute)

    return reading


def _connections_by_state(edge: Edge) -> Read:
    for name, pool in _pools(edge).items():
        yield (name, "idle"), pool.idle
        yield (name, "busy"), pool.in_flight


def _of_gates(attribute: str) -> Callable[[Edge], Read]:
    def reading(edge: Edge) -> Read:
        for name, gate in _gates(edge).items():
            yield (name,), getattr(gate, attribute)

    return reading


def _gates(edge: Edge) -> dict[str, Gate]:
    named: dict[str, Gate] = {}
    for kind, gate in edge.admission.gates.items():
        if not any(gate is known for known in named.values()):  # operators share that of "other"
            named[kind.value] = gate
    return named


def _shed(edge: Edge) -> Read:
    for name, gate in _gates(edge).items():
        for reason, count in gate.shed.items():
            yield (name, reason), count
    yield ("all", "memory"), edge.counts.out_of_memory_total


def _refused_connections(edge: Edge) -> Read:
    yield ("full",), edge.connections.refused_total
    yield ("address",), edge.connections.refused_by_address_total


FAMILIES: Final = (
    Family(
        "tercet_access_requests",
        "counter",
        "Requests answered, by class and outcome; held: from memory",
        _requests,
        ("class", "outcome"),
    ),
    Family(
        "tercet_access_forward_seconds",
        "histogram",
        "Seconds from a request's last byte to the answer of business",
        _forward_seconds,
        ("class",),
    ),
    Family(
        "tercet_access_refusals",
        "counter",
        "What was refused before it was a request, by status",
        _refusals,
        ("status",),
    ),
    Family(
        "tercet_access_page_lookups",
        "counter",
        "Requests for pages that may be held, by what was found",
        _lookups,
        ("result",),
    ),
    Family(
        "tercet_access_page_fetches",
        "counter",
        "Fetches of pages from business",
        one(lambda edge: edge.pages.fetches_total),
    ),
    Family(
        "tercet_access_page_revalidations",
        "counter",
        "Fetches that found the held page unchanged (304)",
        one(lambda edge: edge.pages.revalidated_total),
    ),
    Family(
        "tercet_access_page_purges",
        "counter",
        "Held pages that a change made old",
        one(lambda edge: edge.pages.purged_total),
    ),
    Family(
        "tercet_access_page_evictions",
        "counter",
        "Held pages that went for want of memory",
        one(lambda edge: edge.pages.evicted_total),
    ),
    Family(
        "tercet_access_pages",
        "gauge",
        "Held pages",
        one(lambda edge: edge.pages.entries),
    ),
    Family(
        "tercet_access_page_bytes",
        "gauge",
        "Bytes of held pages with all that goes with them",
        one(lambda edge: edge.pages.bytes_held),
    ),
    Family(
        "tercet_access_page_limit_bytes",
        "gauge",
        "The most that these may be",
        one(lambda edge: edge.pages.memory_bytes),
    ),
    Family(
        "tercet_access_pool_connections",
        "gauge",
        "Connections to business",
        _connections_by_state,
        ("pool", "state"),
    ),
    Family(
        "tercet_access_pool_limit_connections",
        "gauge",
        "The most connections of a pool",
        _of_pools("size"),
        ("pool",),
    ),
    Family(
        "tercet_access_pool_waiting",
        "gauge",
        "Requests that wait for a connection",
        _of_pools("waiting"),
        ("pool",),
    ),
    Family(
        "tercet_access_pool_opened",
        "counter",
        "Connections made to business",
        _of_pools("opened_total"),
        ("pool",),
    ),
    Family(
        "tercet_access_pool_reused",
        "counter",
        "Requests on a connection that was there",
        _of_pools("reused_total"),
        ("pool",),
    ),
    Family(
        "tercet_access_pool_retried",
        "counter",
        "Requests sent again, because the connection or the address was gone",
        _of_pools("retried_total"),
        ("pool",),
    ),
    Family(
        "tercet_access_admission_limit",
        "gauge",
        "Requests that may be with business at once, by class",
        _of_gates("limit"),
        ("class",),
    ),
    Family(
        "tercet_access_admission_in_flight",
        "gauge",
        "Requests that are with business",
        _of_gates("in_flight"),
        ("class",),
    ),
    Family(
        "tercet_access_admission_waiting",
        "gauge",
        "Requests that wait to be let through",
        _of_gates("waiting"),
        ("class",),
    ),
    Family(
        "tercet_access_admitted",
        "counter",
        "Requests let through to business",
        _of_gates("entered_total"),
        ("class",),
    ),
    Family(
        "tercet_access_admission_waits",
        "counter",
        "Requests that waited to be let through, in vain or not",
        _of_gates("waited_total"),
        ("class",),
    ),
    Family(
        "tercet_access_shed",
        "counter",
        "Requests refused with 503, by class and reason",
        _shed,
        ("class", "reason"),
    ),
    Family(
        "tercet_access_connections",
        "gauge",
        "Open connections of clients",
        one(lambda edge: edge.connections.open),
    ),
    Family(
        "tercet_access_connections_refused",
        "counter",
        "Connections closed for want of room: in all, or of their address",
        _refused_connections,
        ("reason",),
    ),
    Family(
        "tercet_access_log_lines",
        "counter",
        "Requests written to the access log",
        one(lambda edge: edge.log.written_total),
    ),
    Family(
        "tercet_access_log_lines_dropped",
        "counter",
        "Requests that should have been, and what takes the log did not keep up",
        one(lambda edge: edge.log.dropped_total),
    ),
    Family(
        "tercet_access_resident_bytes",
        "gauge",
        "Memory of the process",
        one(lambda edge: edge.memory.resident_bytes),
    ),
    Family(
        "tercet_access_memory_limit_bytes",
        "gauge",
        "The most that it is to be; 0: no limit was set",
        one(lambda edge: edge.memory.limit_bytes),
    ),
    Family(
        "tercet_access_memory_pressure",
        "gauge",
        "0: none; 1: no keep-alive, half the pages; 2: nothing more is passed on",
        one(lambda edge: edge.memory.pressure),
    ),
)

Snapshot = Mapping[str, dict[tuple[str, ...], Number]]


def read(edge: Edge) -> dict[str, dict[tuple[str, ...], Number]]:
    """Every number as it is now."""
    return {family.name: dict(family.read(edge)) for family in FAMILIES}


def bounds() -> tuple[str, ...]:
    """The labels `le` of the histograms' slots."""
    return (*map(str, LATENCY_BOUNDS_S), "+Inf")
