"""Who may go on to business now, who waits a moment, and who is refused at once.

Each class of traffic has a gate. When a class waits or is refused, the classes below it get less:
payments before logins and orders, those before pages, and behaviour events after all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from services.access.gate import LINE_LIMIT, Gate, Outcome
from services.access.line import Caller
from services.access.routes import Route
from services.access.terms import TERMS
from services.deadline import Deadline

Kind = Route

# A hundred clients who each wait for their answer are no overload: with eight orders at once that
# take 50 ms each, the last of them is let in after 0.6 s.


class Admission:
    """The gates of one access process, by class of traffic."""

    def __init__(
        self, sizes: Mapping[Kind, int], *, clients: Callable[[], int] = lambda: LINE_LIMIT
    ) -> None:
        """sizes: connections to business of each class. Operators and what is not there share those
        of OTHER, webhooks those of PAYMENT.

        clients: how many connections ask for what is not held; each can wait for one answer.
        """
        epoch_s = time.time() - time.monotonic()
        self.gates = {
            kind: Gate(kind.value, TERMS[kind.value], size, epoch_s=epoch_s, clients=clients)
            for kind, size in sizes.items()
        }
        for gate in self.gates.values():
            gate.above = tuple(
                other for other in self.gates.values() if other.terms.level < gate.terms.level
            )
        for kind in (Route.OPERATOR, Route.LOGIN, Route.BEACON):
            self.gates.setdefault(kind, self.gates[Route.OTHER])
        if Route.PAYMENT in self.gates:
            self.gates.setdefault(Route.WEBHOOK, self.gates[Route.PAYMENT])

    def try_enter(self, kind: Kind) -> bool:
        """Enter at once; False: `enter` waits, or says why not."""
        return self.gates[kind].try_enter()

    def is_pressed(self, kind: Kind) -> bool:
        """Whether who can do without business leaves its places to others now."""
        return self.gates[kind].is_pressed()

    async def enter(self, kind: Kind, deadline: Deadline) -> None:
        """Enter, perhaps after a moment in the line; raises Overloaded at once beyond it."""
        await self.gates[kind].enter(deadline)

    def join(self, kind: Kind, deadline: Deadline, caller: Caller) -> None:
        """The same for a caller without a task; see Gate.join."""
        self.gates[kind].join(deadline, caller)

    def leave(self, kind: Kind, latency_s: float, outcome: Outcome) -> None:
        """One that entered is over. latency_s counts from entering, a wait for a connection too.

        dropped: no answer in time, or business refused it; ignored: says nothing of business,
        its client left.
        """
        self.gates[kind].leave(latency_s, outcome)
