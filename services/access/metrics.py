"""What access tells Prometheus: which series there are, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.access import readings
from services.child import Child
from services.families import Family, counter, gauge, histogram, one
from services.reports import Report
from services.watchdog import LOOP

if TYPE_CHECKING:
    from services.access.edge import Edge

FAMILIES: Final[tuple[Family[Edge], ...]] = (
    counter(
        "requests",
        "Requests answered, by class and outcome; held: from memory",
        readings.requests,
        "class",
        "outcome",
    ),
    histogram(
        "forward_seconds",
        "Seconds from a request's last byte to the answer of business",
        readings.forward_seconds,
        "class",
    ),
    counter(
        "refusals",
        "What was refused before it was a request, by status",
        readings.refusals,
        "status",
    ),
    counter(
        "page_lookups",
        "Requests for pages that may be held, by what was found",
        readings.lookups,
        "result",
    ),
    counter(
        "page_fetches",
        "Fetches of pages from business",
        one(lambda edge: edge.pages.fetches_total),
    ),
    counter(
        "page_revalidations",
        "Fetches that found the held page unchanged (304)",
        one(lambda edge: edge.pages.revalidated_total),
    ),
    counter(
        "page_purges",
        "Held pages that a change made old",
        one(lambda edge: edge.pages.purged_total),
    ),
    counter(
        "page_evictions",
        "Held pages that went for want of memory",
        one(lambda edge: edge.pages.evicted_total),
    ),
    gauge(
        "pages_verified",
        "1: no purge can have been missed; 0: pages are asked for again each second",
        one(lambda edge: edge.tag_stream.verified_since() is not None),
    ),
    gauge("pages", "Held pages", one(lambda edge: edge.pages.entries)),
    gauge(
        "page_bytes",
        "Bytes of held pages with all that goes with them",
        one(lambda edge: edge.pages.bytes_held),
    ),
    gauge(
        "page_limit_bytes",
        "The most that these may be",
        one(lambda edge: edge.pages.memory_bytes),
    ),
    gauge(
        "pool_connections",
        "Connections to business",
        readings.connections_by_state,
        "pool",
        "state",
    ),
    gauge(
        "pool_limit_connections",
        "The most connections of a pool",
        readings.of_pools("size"),
        "pool",
    ),
    gauge(
        "pool_waiting",
        "Requests that wait for a connection",
        readings.of_pools("waiting"),
        "pool",
    ),
    counter(
        "pool_opened",
        "Connections made to business",
        readings.of_pools("opened_total"),
        "pool",
    ),
    counter(
        "pool_reused",
        "Requests on a connection that was there",
        readings.of_pools("reused_total"),
        "pool",
    ),
    counter(
        "pool_retried",
        "Requests sent again, because the connection or the address was gone",
        readings.of_pools("retried_total"),
        "pool",
    ),
    counter(
        "pool_retries_refused",
        "Retries that the retry budget did not allow",
        readings.retries_refused,
        "pool",
    ),
    gauge(
        "address_ejected",
        "1: this address of business is left out for a while",
        readings.of_addresses("ejected"),
        "address",
    ),
    counter(
        "address_failures",
        "Requests that this address did not answer, or as one that is sick",
        readings.of_addresses("failed_total"),
        "address",
    ),
    counter(
        "address_ejections",
        "Times that this address was left out",
        readings.of_addresses("ejected_total"),
        "address",
    ),
    gauge(
        "admission_limit",
        "Requests that may be with business at once, by class",
        readings.of_gates("limit"),
        "class",
    ),
    gauge(
        "admission_in_flight",
        "Requests that are with business",
        readings.of_gates("in_flight"),
        "class",
    ),
    gauge(
        "admission_waiting",
        "Requests that wait to be let through",
        readings.of_gates("waiting"),
        "class",
    ),
    counter(
        "admitted",
        "Requests let through to business",
        readings.of_gates("entered_total"),
        "class",
    ),
    counter(
        "admission_waits",
        "Requests that waited to be let through, in vain or not",
        readings.of_gates("waited_total"),
        "class",
    ),
    counter(
        "shed",
        "Requests refused with 503, by class and reason",
        readings.shed,
        "class",
        "reason",
    ),
    counter(
        "rate_limited",
        "Requests refused with 429",
        one(lambda edge: edge.allowances.refused_total),
    ),
    counter(
        "allowance_failures",
        "Draws of shared allowances that failed: limits are estimated meanwhile",
        one(lambda edge: edge.allowances.lost_total),
    ),
    counter(
        "events",
        "Behaviour events that are in the log and acknowledged",
        one(lambda edge: edge.beacons.accepted_total),
    ),
    counter(
        "event_batches",
        "Requests in which they came, by what became of them; private: Sec-GPC or DNT",
        readings.event_batches,
        "outcome",
    ),
    counter(
        "event_appends",
        "Writes to the log, each of the batches that had gathered",
        one(lambda edge: edge.beacons.appends_total),
    ),
    histogram(
        "event_append_seconds",
        "Seconds of such a write, its fsync included",
        readings.event_append_seconds,
    ),
    gauge(
        "event_buffer_bytes",
        "Behaviour events on their way to the log",
        one(lambda edge: edge.beacons.buffered_bytes),
    ),
    gauge(
        "connections",
        "Open connections of clients",
        one(lambda edge: edge.connections.open),
    ),
    counter(
        "connections_refused",
        "Connections closed for want of room: in all, or of their address",
        readings.refused_connections,
        "reason",
    ),
    gauge("live_streams", "Open live streams", one(lambda edge: edge.live.clients.open)),
    gauge("live_topics", "What they listen to", one(lambda edge: len(edge.live.topics))),
    gauge(
        "live_following",
        "1: the stream of states is read; 0: Valkey is away, and streams are silent",
        one(lambda edge: edge.live.follower.following),
    ),
    gauge(
        "live_waiting",
        "States that wait to be written to their streams",
        one(lambda edge: edge.live.fan_out.behind),
    ),
    counter(
        "live_opened",
        "Live streams that were opened",
        one(lambda edge: edge.live.opened_total),
    ),
    counter(
        "live_resumed",
        "Those that were told what they had missed, by Last-Event-ID",
        one(lambda edge: edge.live.resumed_total),
    ),
    counter(
        "live_resets",
        "Those that had missed what is not known here",
        one(lambda edge: edge.live.reset_total),
    ),
    counter(
        "live_refused",
        "Live streams refused for want of room: in all, or of their address",
        readings.refused_streams,
        "reason",
    ),
    counter(
        "live_ended",
        "Live streams ended from here: read too slowly, for want of memory, or of no customer now",
        readings.ended_streams,
        "reason",
    ),
    counter(
        "live_writes",
        "States written to a stream each",
        one(lambda edge: edge.live.fan_out.writes_total),
    ),
    counter(
        "live_replaced",
        "States that a newer one replaced before anybody had them",
        one(lambda edge: edge.live.fan_out.replaced_total),
    ),
    counter(
        "live_gaps",
        "Times that the stream of states was cut off before it was read",
        one(lambda edge: edge.live.follower.gaps_total),
    ),
    counter(
        "log_lines",
        "Requests written to the access log",
        one(lambda edge: edge.log.written_total),
    ),
    counter(
        "log_lines_dropped",
        "Requests that should have been, and what takes the log did not keep up",
        one(lambda edge: edge.log.dropped_total),
    ),
    gauge(
        "resident_bytes",
        "Memory of the process",
        one(lambda edge: edge.memory.resident_bytes),
    ),
    gauge(
        "memory_limit_bytes",
        "The most that it is to be; 0: no limit was set",
        one(lambda edge: edge.memory.limit_bytes),
    ),
    gauge(
        "memory_pressure",
        "0: none; 1: no keep-alive, fewer pages; 2: nothing more is passed on",
        one(lambda edge: edge.memory.pressure),
    ),
    *LOOP,
)


def report_of(edge: Edge, child: Child | None) -> Report[Edge]:
    """What a process of access says about itself."""
    return Report("access", edge, FAMILIES, child)
