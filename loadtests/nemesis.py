"""A random mix of faults from a seed: the same seed breaks the same things at the same moments."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from loadtests.scenario import Breaks, Fault, Scenario, Targets, Traffic

FIRST_AT_S: Final = 4.0  # the load has begun
GAPS_S: Final = (3.0, 8.0)  # between two faults: some meet the repair of the one before
MAILS: Final = 25  # a network may ask for 30 in 15 minutes (docs/accounts.md)
QUIET_S: Final = 8.0  # at the end, in which everything can mend
WORKERS: Final = tuple(
    f"worker-{name}"
    for name in ("outbox", "reconcile", "expiry", "webhooks", "live", "mails", "rollups")
)
SERVING: Final = ("access", "business")
# Every part is broken. Of access it is a process that serves, not the parent that has its socket:
# without that nobody listens, and there is no other access to go to. What stands here twice comes
# twice as often.
SERVERS: Final = ("business", "valkey", "events", "standby", "provider", "primary", "mailbox")
BREAKS: Final[tuple[tuple[Breaks, tuple[str, ...]], ...]] = (
    ("kill", SERVERS),
    ("kill", SERVERS),
    ("kill", WORKERS),
    ("pause", ("standby", "valkey", "events", *WORKERS)),
    ("restart", ("business", "primary", "valkey", "events")),
    ("crash", SERVING),
    ("reload", SERVING),
    ("brownout", ()),
)
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
    does, parts = dice.choice(BREAKS)
    if does != "brownout":
        length_s = for_s if does == "pause" else 0.0
        return Fault(at_s, does, dice.choice(parts), for_s=length_s)
    share = round(dice.uniform(0.2, 0.8), 1)
    mode = dice.choice(MODES)
    return Fault(at_s, "brownout", for_s=for_s, mode=mode, share=share, delay_ms=1500)


def _is_free(fault: Fault, earlier: Sequence[Fault]) -> bool:
    return all(one.part != fault.part or fault.at_s - one.at_s > MENDS_WITHIN_S for one in earlier)


ANY: Final = Targets(error_rate=1.0)  # what may be refused while something is away
PAGES: Final = "product page"


def scenario(seed: int, seconds: float) -> Scenario:
    """Pages, purchases, and what gives every worker something to do, with these faults among them.

    Pages have as many connections as come in their time: while a process of access starts anew
    they wait in its socket, and none may count as unsent for want of a connection.
    """
    traffic = (
        Traffic("page", name=PAGES, rate=60.0, connections=400, targets=Targets(error_rate=0.001)),
        Traffic("checkout", rate=3.0, timeout_s=8.0, targets=Targets(error_rate=0.8)),
        Traffic("events", rate=2.0, batch=20, targets=ANY),
        Traffic("live", rate=10.0, connections=50, targets=ANY),
        Traffic("signup", rate=MAILS / seconds, arrivals="constant", targets=ANY),
    )
    return Scenario(
        f"nemesis, seed {seed}", traffic, seconds=seconds, products=100, fault=faults(seed, seconds)
    )
