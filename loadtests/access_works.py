"""The works of `make bench-access`: what is measured of access, against whom, with which aims."""

from __future__ import annotations

from typing import Final

from loadtests import peers
from loadtests.comparison import AT_MOST_THEIRS
from loadtests.idle_work import idle
from loadtests.measure import Load
from loadtests.result import Aim, Row
from loadtests.sides import Bench, Sides
from loadtests.targets import HELD_TARGET, STOCK_TARGET
from loadtests.whole_stack import end_to_end

FORWARD_CONNECTIONS: Final = 64  # as in the measurements that the aims come from
# As many to the upstream as nginx keeps here; Go keeps 256. The default of 4 a core is for a
# business that computes: before a fixed answer it would measure the line in front of it.
FORWARD_SETTINGS: Final = {"TERCET_PAGE_POOL_SIZE": str(FORWARD_CONNECTIONS)}

KEPT_AIMS: Final = {
    "node": Aim("at least", 1.4),
    "go": Aim("at least", 1.1),
    "gin": Aim("at least", 1.1),
}
SHORT_AIMS: Final = {"node": Aim("at least", 1.5), "go": Aim("at least", 0.65)}
FORWARD_AIMS: Final = {
    "go-proxy": Aim("at least", 1.3),
    # docs/decisions/0020-plain-messages.md
    "bare-proxy": Aim("at least", 0.35),
    "nginx": Aim("at least", 0.2),
}


async def held(bench: Bench) -> list[Row]:
    """A product page from memory on kept connections, before everybody's hello."""
    load = Load(HELD_TARGET, bench.connections)
    work = f"held page, keep-alive, c={bench.connections}"
    async with Sides(bench, KEPT_AIMS) as sides:
        await sides.access_before_stand_in(load)
        rows = await sides.rows(work, p99=AT_MOST_THEIRS)
        return rows + await sides.cross_check(work)


async def short(bench: Bench) -> list[Row]:
    """The same with a new connection for each request."""
    load = Load(HELD_TARGET, bench.connections, close=True)
    async with Sides(bench, SHORT_AIMS) as sides:
        await sides.access_before_stand_in(load)
        return await sides.rows(f"held page, short connections, c={bench.connections}", p99=None)


async def forward(bench: Bench) -> list[Row]:
    """Requests that are passed on, before a fixed answer on the generator's core."""
    load = Load(STOCK_TARGET, FORWARD_CONNECTIONS)
    async with Sides(bench, FORWARD_AIMS) as sides:
        name, behind = await peers.fixed_upstream(sides.folder)
        await sides.access(behind, load, held=False, settings=FORWARD_SETTINGS)
        work = f"forwarding to a fixed answer ({name}), c={load.connections}"
        return await sides.rows(work, p99=None, upstream=peers.address_of(behind), load=load)


WORKS: Final = {
    "held": held,
    "short": short,
    "forward": forward,
    "idle": idle,
    "end-to-end": end_to_end,
}
