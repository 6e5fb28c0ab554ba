"""Where each number of access is read when it is asked for; nothing is counted for it twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services import families
from services.families import Read

if TYPE_CHECKING:
    from services.access.edge import Edge
    from services.access.gate import Gate
    from services.balance import Balance

Reading = families.Reading["Edge"]


def requests(edge: Edge) -> Read:
    yield ("page", "held"), edge.pages.hits_total
    for name, tally in edge.counts.tallies().items():
        for hundreds in range(2, 6):
            yield (name, f"{hundreds}xx"), tally.answered[hundreds]


def forward_seconds(edge: Edge) -> Read:
    for name, tally in edge.counts.tallies().items():
        if tally.took.count:
            yield (name,), tally.took.numbers()


def refusals(edge: Edge) -> Read:
    for status in (400, 408, 413, 414, 421, 431, 501, 503, 505):
        yield (str(status),), edge.counts.refused.get(status, 0)
    for status, count in edge.counts.refused.items():
        yield (str(status),), count


def lookups(edge: Edge) -> Read:
    pages = edge.pages
    yield ("fresh",), pages.hits_total - pages.stale_total
    yield ("stale",), pages.stale_total
    yield ("miss",), pages.misses_total
    yield ("coalesced",), pages.coalesced_total


def pools(edge: Edge) -> dict[str, Balance]:
    """Connections to business by name; operators share those of "other",
    webhooks those of "payment"."""
    named: dict[str, Balance] = {"control": edge.forwarder.control}
    for route, pool in edge.forwarder.pools.items():
        if not any(pool is known for known in named.values()):
            named[route.value] = pool
    return named


def of_pools(attribute: str) -> Reading:
    def reading(edge: Edge) -> Read:
        for name, pool in pools(edge).items():
            yield (name,), getattr(pool, attribute)

    return reading


def connections_by_state(edge: Edge) -> Read:
    for name, pool in pools(edge).items():
        yield (name, "idle"), pool.idle
        yield (name, "busy"), pool.in_flight


def of_gates(attribute: str) -> Reading:
    def reading(edge: Edge) -> Read:
        for name, gate in gates(edge).items():
            yield (name,), getattr(gate, attribute)

    return reading


def gates(edge: Edge) -> dict[str, Gate]:
    named: dict[str, Gate] = {}
    for kind, gate in edge.admission.gates.items():
        if not any(gate is known for known in named.values()):  # operators share that of "other"
            named[kind.value] = gate
    return named


def shed(edge: Edge) -> Read:
    for name, gate in gates(edge).items():
        for reason, count in gate.shed.items():
            yield (name, reason), count
    yield ("all", "memory"), edge.counts.out_of_memory_total


def of_addresses(attribute: str) -> Reading:
    def reading(edge: Edge) -> Read:
        for member in edge.forwarder.addresses.members.all:
            yield (member.name,), getattr(member, attribute)

    return reading


def retries_refused(edge: Edge) -> Read:
    for name, pool in pools(edge).items():
        yield (name,), pool.budget.refused_total


def refused_connections(edge: Edge) -> Read:
    yield ("full",), edge.connections.refused_total
    yield ("address",), edge.connections.refused_by_address_total


def event_batches(edge: Edge) -> Read:
    beacons = edge.beacons
    yield ("accepted",), beacons.batches_total
    yield ("private",), beacons.private_total
    for reason, count in beacons.refused.items():
        yield (reason,), count


def event_append_seconds(edge: Edge) -> Read:
    yield (), edge.beacons.took.numbers()


def refused_streams(edge: Edge) -> Read:
    yield ("full",), edge.live.clients.refused_total
    yield ("address",), edge.live.clients.refused_by_address_total


def ended_streams(edge: Edge) -> Read:
    yield ("slow",), edge.live.slow_total
    yield ("memory",), edge.live.shed_total
    yield ("owner",), edge.live.disowned_total
