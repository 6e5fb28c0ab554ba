"""A payment provider in memory, with books of its own, behind a network that does what it likes.

A request may never arrive, arrive late or twice, be answered by an error or too late; webhooks come
several times and in any order. One promise is kept, because ARRIVAL_GRACE of reconcile relies on
it: what has not arrived within ARRIVES_WITHIN_S of being sent never does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

import orjson

from services.business.provider import (
    Amount,
    Approved,
    ChargeOrder,
    ChargeOutcome,
    Declined,
    Notice,
    NotSent,
    OperationOrder,
    Pending,
    Unknown,
)
from services.deadline import Deadline
from tests.simulation.loop import SimulatedLoop

ARRIVES_WITHIN_S: Final = 15.0
QUICK_S: Final = 0.2
# Seconds; the second about when orders expire although they are being paid.
DECIDES_AFTER_S: Final = {"pending": (0.5, 20.0), "very late": (890.0, 1000.0)}
FAULTS: Final = ("refused", "dropped", "late", "late", "twice", "error", "answer lost")
Decision = Literal["pending", "approved", "declined"]


@dataclass
class Charge:
    """taken: how often the money of the payment was taken or authorised."""

    order: ChargeOrder
    decision: Decision
    taken: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    voided: bool = False


@dataclass
class OperationRecord:
    order: OperationOrder
    decision: Decision


class SimulatedProvider:
    """The provider's side; `send_webhook` is given each notice, as bytes, with an id."""

    def __init__(self, loop: SimulatedLoop, send_webhook: Callable[[str, bytes], None]) -> None:
        self.loop = loop
        self.charges: dict[UUID, Charge] = {}
        self.operations: dict[UUID, OperationRecord] = {}
        self.happened: Counter[str] = Counter()
        self.faulty = True
        self.due_at: list[float] = []  # when something happens there by itself
        self._send_webhook = send_webhook
        self._sent = 0

    # Its books

    def arrive(self, order: ChargeOrder) -> None:
        """A request to charge; one that has come before changes nothing."""
        if order.payment_id not in self.charges:
            self.charges[order.payment_id] = charge = Charge(order, "pending")
            kind, _, verdict = order.payment_method.rpartition(" ")
            if kind:
                after_s = self.loop.chance.uniform(*DECIDES_AFTER_S[kind])
                self.later(after_s, lambda: self._decide(charge, verdict))
                self._tell("charge", order.payment_id, "pending", order.amount_minor)
            else:
                self._decide(charge, verdict)

    def _decide(self, charge: Charge, verdict: str) -> None:
        order = charge.order
        charge.decision = "approved" if verdict == "approve" else "declined"
        if charge.decision == "approved":
            charge.taken += 1
            charge.captured_minor = order.amount_minor if order.capture else 0
        self._tell("charge", order.payment_id, charge.decision, order.amount_minor)

    def arrive_operation(self, order: OperationOrder) -> None:
        if order.operation_id in self.operations:
            return
        charge = self.charges[UUID(str(order.payment_id))]
        allowed = self._do(charge, order)
        decision: Decision = "approved" if allowed else "declined"
        self.operations[order.operation_id] = OperationRecord(order, decision)
        self._tell(order.kind, order.operation_id, decision, order.amount_minor)

    def _do(self, charge: Charge, order: OperationOrder) -> bool:
        amount_minor = order.amount_minor
        if charge.decision != "approved" or charge.voided:
            return False
        if order.kind == "refund":
            allowed = charge.refunded_minor + amount_minor <= charge.captured_minor
            charge.refunded_minor += amount_minor * allowed
        elif order.kind == "capture":
            allowed = charge.captured_minor + amount_minor <= charge.order.amount_minor
            charge.captured_minor += amount_minor * allowed
        else:
            allowed = charge.voided = charge.captured_minor == 0
        return allowed

    def _tell(self, subject: str, subject_id: UUID, decision: Decision, amount_minor: int) -> None:
        notice = {"subject": subject, "id": str(subject_id), "is": decision, "of": amount_minor}
        self._sent += 1
        self._send_webhook(f"webhook {self._sent}", orjson.dumps(notice))

    # The network

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Outside every process, so that nobody's death keeps it from happening."""
        at = self.loop.time() + delay_s
        self.due_at.append(at)

        def happen() -> None:
            self.due_at.remove(at)
            work()

        self.loop.call_at(at, happen, context=Context())

    def fault(self, *names: str) -> str:
        """One of these or, about two times in three, none."""
        chance = self.loop.chance
        if not self.faulty or chance.random() < 0.65:
            return ""
        name = chance.choice(names)
        self.happened[name] += 1
        return name


class Line:
    """What a process has of the provider: the port that its code calls."""

    def __init__(self, provider: SimulatedProvider) -> None:
        self.provider = provider

    async def charge(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        arrive = self.provider.arrive
        return await self._send(
            lambda: arrive(order), lambda: self._charge_now(order.payment_id), deadline
        )

    async def find(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        return await self._ask(lambda: self._charge_now(order.payment_id), deadline)

    async def capture(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        arrive = self.provider.arrive_operation
        return await self._send(
            lambda: arrive(order), lambda: self._operation_now(order.operation_id), deadline
        )

    void = refund = capture

    async def find_operation(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        return await self._ask(lambda: self._operation_now(order.operation_id), deadline)

    def read(self, payload: bytes) -> Notice | None:
        told = orjson.loads(payload)
        subject_id = UUID(told["id"])
        outcome = _outcome(told["is"], subject_id)
        return Notice(told["subject"], subject_id, outcome, Amount(told["of"], "USD"))

    def _charge_now(self, payment_id: UUID) -> ChargeOutcome:
        charge = self.provider.charges.get(payment_id)
        return NotSent("never seen") if charge is None else _outcome(charge.decision, payment_id)

    def _operation_now(self, operation_id: UUID) -> ChargeOutcome:
        record = self.provider.operations.get(operation_id)
        return NotSent("never seen") if record is None else _outcome(record.decision, operation_id)

    async def _send(
        self, arrive: Callable[[], None], now: Callable[[], ChargeOutcome], deadline: Deadline
    ) -> ChargeOutcome:
        if deadline.passed():
            return NotSent("no time was left")
        provider, chance = self.provider, self.provider.loop.chance
        fault = provider.fault(*FAULTS)
        if fault == "refused":
            await asyncio.sleep(chance.random() * QUICK_S)
            return NotSent("refused")
        there_s, back_s = chance.random() * QUICK_S, chance.random() * QUICK_S
        if fault == "late":
            there_s = chance.uniform(QUICK_S, ARRIVES_WITHIN_S)
        if fault != "dropped":
            provider.later(there_s, arrive)
        if fault == "twice":
            provider.later(chance.uniform(there_s, ARRIVES_WITHIN_S), arrive)
        if fault in ("dropped", "answer lost") or there_s + back_s >= deadline.left_s():
            await asyncio.sleep(deadline.left_s())
            return Unknown("no answer")
        await asyncio.sleep(there_s + back_s)
        if fault == "error":
            return Unknown("500")
        outcome = now()
        # An answer that left before the request came is none.
        return Unknown("no answer") if isinstance(outcome, NotSent) else outcome

    async def _ask(self, now: Callable[[], ChargeOutcome], deadline: Deadline) -> ChargeOutcome:
        chance = self.provider.loop.chance
        if self.provider.fault("asked in vain"):
            await asyncio.sleep(chance.random() * deadline.left_s())
            return Unknown("could not be asked")
        await asyncio.sleep(chance.random() * QUICK_S)
        outcome = now()
        await asyncio.sleep(chance.random() * QUICK_S)  # it is on its way back, and grows old
        return outcome


def _outcome(decision: Decision, subject_id: UUID) -> ChargeOutcome:
    match decision:
        case "pending":
            return Pending(f"ch {subject_id}")
        case "approved":
            return Approved(f"ch {subject_id}")
        case "declined":
            return Declined("declined", f"ch {subject_id}")
