"""Who counts as one of those that can make a line."""

from __future__ import annotations

import time

from services.access.askers import PERIOD_S, Askers
from tests.access.one_loop import OneLoop, Wire, one_loop

RESTING, ASKING = 7, 4


async def ask(access: OneLoop, times: int) -> Wire:
    wire = await access.connect()
    for _ in range(times):
        wire.received.clear()
        await wire.send([b"GET /carts/current HTTP/1.1\r\nHost: a\r\n\r\n"])
        assert await wire.until(lambda: wire.received.startswith(b"HTTP/1.1 200"))
    return wire


async def crowd(access: OneLoop) -> None:
    """Connections that rest, and those that ask, all open at the same time."""
    wires = [await access.connect() for _ in range(RESTING)]
    try:
        wires += [await ask(access, times=3) for _ in range(ASKING)]
        askers, open_ = access.edge.askers, access.edge.connections.open
        assert (askers.count, open_) == (ASKING, RESTING + ASKING)
    finally:
        for wire in wires:
            wire.transport.abort()


def test_connections_that_rest_are_none_and_one_that_asks_often_is_one() -> None:
    with one_loop() as access:
        access.do(crowd(access))
        for now in (10 * PERIOD_S, 20 * PERIOD_S):
            access.edge.askers.look(time.monotonic() + now)
        assert access.edge.askers.count == 0


def test_who_asks_in_every_period_is_counted_in_each_and_who_has_stopped_is_forgotten() -> None:
    askers, own = Askers(), -1
    for number in range(5):
        askers.look(number * PERIOD_S)
        askers.look(number * PERIOD_S + 0.1)  # the same period
        if own != askers.period:
            own = askers.asked()
        if number == 0:
            askers.asked()
        assert askers.count == (2 if number < 2 else 1)
