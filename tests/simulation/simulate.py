"""One simulated world from its seed, and what does not hold when it is at rest."""

from __future__ import annotations

import random

from structlog.testing import capture_logs

from services.problems import Problem
from tests.simulation import loop
from tests.simulation.invariants import violations
from tests.simulation.world import World


def simulate(seed: int, *, faulty: bool = True) -> tuple[World, list[str]]:
    """The world, and sentences of what does not hold. faulty=False: nothing goes wrong in it."""
    simulated = loop.SimulatedLoop(random.Random(seed))
    world = World(seed, simulated, faulty=faulty)
    before = random.getstate()
    random.seed(seed)  # the jitter of the code itself
    try:
        with capture_logs() as lines:
            loop.run(simulated, world.run())
    finally:
        random.setstate(before)
    logged = [
        line["event"]
        for line in lines
        if line.get("exc_info") or line["event"] == "final state contradicted"
    ]
    unheard = [repr(one) for one in simulated.unheard if not isinstance(one, Problem)]
    return world, [*violations(world), *logged, *unheard]
