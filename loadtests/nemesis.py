"""A random mix of faults from a seed: the same seed breaks the same things at the same moments."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from loadtests.scenario import Fault, Scenario, Targets, Traffic

FIRST_AT_S: Final = 4.0  # the load has begun
GAPS_S: Final = (3.0, 8.0)  # between two faults: some meet the repair of the one before
QUIET_S: Final = 8.0  # at the end, in which everything can mend
# What is broken, how often. access is left out: it is what answers, and one process of it is all
# there is; that it restarts without losing a request is tested by itself.
KILLED: Final = ("business", "valkey", "standby", "provider", "primary")
WORKERS: Final = ("worker-outbox", "worker-reconcile", "worker-expiry", "worker-webhooks")
PAUSED: Final = ("standby", "valkey", "worker-outbox", "worker-reconcile")
# A part that breaks again before it is whole would be waited for in vain.
MENDS_WITHIN_S: Final = 25.0
MODES: Final = ("slow", "refuse", "error", "error_after_charge", "drop_after_charge", "rate_limit")


def faults(seed: int, seconds: float) -> tuple[Fault, ...]:
    """So many as fit in, none in the quiet at the end."""
    dice = random.Random(seed)
    found: list[Fault] = []
    at_s = FIRST_AT_S
    while at_s < seconds - QUIET_S:
        fault = _one(dice, at_s)
        if _is_free(fault, found):
            found.append(fault)
        at_s += dice.uniform(*GAPS_S)
    return tuple(found)


def _one(dice: random.Random, at_s: float) -> Fault:
    at_s = round(at_s, 1)
    for_s = round(dice.uniform(1, 5), 1)
    match dice.choice(("kill", "kill", "worker", "pause", "restart", "brownout")):
        case "kill":
            return Fault(at_s, "kill", dice.choice(KILLED))
        case "worker":
            return Fault(at_s, "kill", dice.choice(WORKERS))
        case "pause":
            return Fault(at_s, "pause", dice.choice(PAUSED), for_s=for_s)
        case "restart":
            return Fault(at_s, "restart", dice.choice(("business", "primary", "valkey")))
    share = round(dice.uniform(0.2, 0.8), 1)
    mode = dice.choice(MODES)
    return Fault(at_s, "brownout", for_s=for_s, mode=mode, share=share, delay_ms=1500)


def _is_free(fault: Fault, earlier: Sequence[Fault]) -> bool:
    return all(one.part != fault.part or fault.at_s - one.at_s > MENDS_WITHIN_S for one in earlier)


def scenario(seed: int, seconds: float) -> Scenario:
    """Pages and purchases with these faults among them."""
    traffic = (
        Traffic("page", name="product page", rate=60.0, targets=Targets(error_rate=0.001)),
        Traffic("checkout", rate=3.0, timeout_s=8.0, targets=Targets(error_rate=0.8)),
    )
    return Scenario(
        f"nemesis, seed {seed}", traffic, seconds=seconds, products=100, fault=faults(seed, seconds)
    )
