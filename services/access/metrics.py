"""What access tells Prometheus: which series there are, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from services.access import readings
from services.access.counts import LATENCY_BOUNDS_S
from services.access.readings import Number, Reading

if TYPE_CHECKING:
    from services.access.edge import Edge

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. A gauge also has the label `worker`: it is told of each process."""

    name: str
    kind: Kind
    text: str
    read: Reading
    labels: tuple[str, ...]


def _family(kind: Kind, name: str, text: str, read: Reading, *labels: str) -> Family:
    return Family(f"tercet_access_{name}", kind, text, read, labels)


FAMILIES: Final = (
    _family(
        "counter",
        "requests",
        "Requests answered, by class and outcome; held: from memory",
        readings.requests,
        "class",
        "outcome",
    ),
    _family(
        "histogram",
        "forward_seconds",
        "Seconds from a request's last byte to the answer of business",
        readings.forward_seconds,
        "class",
    ),
    _family(
        "counter",
        "refusals",
        "What was refused before it was a request, by status",
        readings.refusals,
        "status",
    ),
    _family(
        "counter",
        "page_lookups",
        "Requests for pages that may be held, by what was found",
        readings.lookups,
        "result",
    ),
    _family(
        "counter",
        "page_fetches",
        "Fetches of pages from business",
        readings.one(lambda edge: edge.pages.fetches_total),
    ),
    _family(
        "counter",
        "page_revalidations",
        "Fetches that found the held page unchanged (304)",
        readings.one(lambda edge: edge.pages.revalidated_total),
    ),
    _family(
        "counter",
        "page_purges",
        "Held pages that a change made old",
        readings.one(lambda edge: edge.pages.purged_total),
    ),
    _family(
        "counter",
        "page_evictions",
        "Held pages that went for want of memory",
        readings.one(lambda edge: edge.pages.evicted_total),
    ),
    _family(
        "gauge",
        "pages_verified",
        "1: no purge can have been missed; 0: pages are asked for again each second",
        readings.one(lambda edge: edge.tag_stream.verified_since() is not None),
    ),
    _family("gauge", "pages", "Held pages", readings.one(lambda edge: edge.pages.entries)),
    _family(
        "gauge",
        "page_bytes",
        "Bytes of held pages with all that goes with them",
        readings.one(lambda edge: edge.pages.bytes_held),
    ),
    _family(
        "gauge",
        "page_limit_bytes",
        "The most that these may be",
        readings.one(lambda edge: edge.pages.memory_bytes),
    ),
    _family(
        "gauge",
        "pool_connections",
        "Connections to business",
        readings.connections_by_state,
        "pool",
        "state",
    ),
    _family(
        "gauge",
        "pool_limit_connections",
        "The most connections of a pool",
        readings.of_pools("size"),
        "pool",
    ),
    _family(
        "gauge",
        "pool_waiting",
        "Requests that wait for a connection",
        readings.of_pools("waiting"),
        "pool",
    ),
    _family(
        "counter",
        "pool_opened",
        "Connections made to business",
        readings.of_pools("opened_total"),
        "pool",
    ),
    _family(
        "counter",
        "pool_reused",
        "Requests on a connection that was there",
        readings.of_pools("reused_total"),
        "pool",
    ),
    _family(
        "counter",
        "pool_retried",
        "Requests sent again, because the connection or the address was gone",
        readings.of_pools("retried_total"),
        "pool",
    ),
    _family(
        "counter",
        "pool_retries_refused",
        "Retries that the retry budget did not allow",
        readings.retries_refused,
        "pool",
    ),
    _family(
        "gauge",
        "address_ejected",
        "1: this address of business is left out for a while",
        readings.of_addresses("ejected"),
        "address",
    ),
    _family(
        "counter",
        "address_failures",
        "Requests that this address did not answer, or as one that is sick",
        readings.of_addresses("failed_total"),
        "address",
    ),
    _family(
        "counter",
        "address_ejections",
        "Times that this address was left out",
        readings.of_addresses("ejected_total"),
        "address",
    ),
    _family(
        "gauge",
        "admission_limit",
        "Requests that may be with business at once, by class",
        readings.of_gates("limit"),
        "class",
    ),
    _family(
        "gauge",
        "admission_in_flight",
        "Requests that are with business",
        readings.of_gates("in_flight"),
        "class",
    ),
    _family(
        "gauge",
        "admission_waiting",
        "Requests that wait to be let through",
        readings.of_gates("waiting"),
        "class",
    ),
    _family(
        "counter",
        "admitted",
        "Requests let through to business",
        readings.of_gates("entered_total"),
        "class",
    ),
    _family(
        "counter",
        "admission_waits",
        "Requests that waited to be let through, in vain or not",
        readings.of_gates("waited_total"),
        "class",
    ),
    _family(
        "counter",
        "shed",
        "Requests refused with 503, by class and reason",
        readings.shed,
        "class",
        "reason",
    ),
    _family(
        "counter",
        "rate_limited",
        "Requests refused with 429",
        readings.one(lambda edge: edge.allowances.refused_total),
    ),
    _family(
        "counter",
        "allowance_failures",
        "Draws of shared allowances that failed: limits are estimated meanwhile",
        readings.one(lambda edge: edge.allowances.lost_total),
    ),
    _family(
        "gauge",
        "connections",
        "Open connections of clients",
        readings.one(lambda edge: edge.connections.open),
    ),
    _family(
        "counter",
        "connections_refused",
        "Connections closed for want of room: in all, or of their address",
        readings.refused_connections,
        "reason",
    ),
    _family(
        "counter",
        "log_lines",
        "Requests written to the access log",
        readings.one(lambda edge: edge.log.written_total),
    ),
    _family(
        "counter",
        "log_lines_dropped",
        "Requests that should have been, and what takes the log did not keep up",
        readings.one(lambda edge: edge.log.dropped_total),
    ),
    _family(
        "gauge",
        "resident_bytes",
        "Memory of the process",
        readings.one(lambda edge: edge.memory.resident_bytes),
    ),
    _family(
        "gauge",
        "memory_limit_bytes",
        "The most that it is to be; 0: no limit was set",
        readings.one(lambda edge: edge.memory.limit_bytes),
    ),
    _family(
        "gauge",
        "memory_pressure",
        "0: none; 1: no keep-alive, fewer pages; 2: nothing more is passed on",
        readings.one(lambda edge: edge.memory.pressure),
    ),
)

Snapshot = Mapping[str, dict[tuple[str, ...], Number]]


def read(edge: Edge) -> dict[str, dict[tuple[str, ...], Number]]:
    """Every number as it is now."""
    return {family.name: dict(family.read(edge)) for family in FAMILIES}


def bounds() -> tuple[str, ...]:
    """The labels `le` of the histograms' slots."""
    return (*map(str, LATENCY_BOUNDS_S), "+Inf")
