"""Reconcile: asks the provider about all that is not final, and settles what it says.

Payments, and captures, voids and refunds of them.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from services.business import orphans
from services.business.followups import operation_order, send, settle_followup
from services.business.payments import charge_order, settle
from services.business.provider import ChargeOutcome, NotSent, Unknown
from services.business.rounds import run_rounds
from services.business.settlements import FINAL
from services.business.shop import Shop
from services.data import payment_operations, payments
from services.data.payment_operations import PaymentOperation
from services.data.payments import Payment
from services.deadline import Deadline
from services.problems import Problem
from services.telemetry import logger

log = logger(__name__)

ROWS: Final = 50
FIRST_WAIT: Final = timedelta(seconds=2)  # doubled a check, so that a dead provider is left alone
LONGEST_WAIT: Final = timedelta(minutes=5)
# A charge may still be on its way to a provider that does not have it yet. After ten times the
# longest wait for an answer, "never arrived" is believed.
ARRIVAL_GRACE: Final = timedelta(seconds=30)
ESCALATE_AFTER_CHECKS: Final = 8  # about ten minutes without a verdict: somebody has to look


async def run_once(shop: Shop) -> int:
    """Look after what is due; returns how many payments or operations, whatever is more."""
    waits = {
        "first_wait": FIRST_WAIT,
        "longest_wait": LONGEST_WAIT,
        "believed_after": ARRIVAL_GRACE,
    }
    async with shop.database.primary.transaction() as tx:
        due = await payments.claim_due_payments(tx, ROWS, **waits)
    async with shop.database.primary.transaction() as tx:
        operations = await payment_operations.claim_due_operations(tx, ROWS, **waits)
        keys = [(one.customer_id, one.payment_id) for one, _ in operations]
        of = await payments.select_payments(tx, keys)
    async with asyncio.TaskGroup() as checks:
        for payment, age in due:
            checks.create_task(check(shop, payment, age))
        for operation, age in operations:
            of_payment = of[operation.payment_id]
            checks.create_task(check_operation(shop, operation, of_payment, age))
    return max(len(due), len(operations))


async def check(shop: Shop, payment: Payment, age: timedelta) -> None:
    """Ask for one payment, and book the answer if it says anything new.

    Never raises: one payment that can not be handled must not keep the others waiting.
    """
    deadline = Deadline.after(shop.settings.provider_timeout_ms / 1000)
    found = await shop.provider.find(charge_order(payment), deadline)
    outcome = _believed(payment, age, found)
    try:
        settled = await settle(shop, payment, outcome, "reconcile")
        if isinstance(outcome, Unknown) and payment.check_count >= ESCALATE_AFTER_CHECKS:
            await _escalate_payment(shop, payment, outcome)
    except Problem as error:
        shop.rounds_of("reconcile").errors_total += 1
        log.warning("not settled yet", payment_id=str(payment.payment_id), error=repr(error))
        return
    except Exception:
        shop.rounds_of("reconcile").errors_total += 1
        log.exception("payment can not be settled", payment_id=str(payment.payment_id))
        return
    if settled.state != payment.state:
        log.info("payment settled", payment_id=str(payment.payment_id), state=settled.state)


async def check_operation(
    shop: Shop, operation: PaymentOperation, payment: Payment, age: timedelta
) -> None:
    """The same for a capture, void or refund. Never raises.

    What gives back the money of an order that had ended is sent, with the same key, until it is
    done; anything else that never arrived stays undone.
    """
    named = {"operation_id": str(operation.operation_id), "payment_id": str(payment.payment_id)}
    deadline = Deadline.after(shop.settings.provider_timeout_ms / 1000)
    order = operation_order(operation, payment)
    outcome = await shop.provider.find_operation(order, deadline)
    if isinstance(outcome, NotSent) and operation.cause == "order_ended":
        outcome = await send(shop, operation, payment, deadline)
    elif isinstance(outcome, NotSent):
        outcome = _arrived(operation.provider_reference, age, outcome)
    try:
        settled = await settle_followup(shop, operation, payment, outcome, "reconcile")
        is_open = settled.state not in FINAL and operation.check_count >= ESCALATE_AFTER_CHECKS
        if is_open and isinstance(outcome, Unknown | NotSent):
            await _escalate_operation(shop, operation, outcome)
    except Problem as error:
        shop.rounds_of("reconcile").errors_total += 1
        log.warning("not settled yet", **named, error=repr(error))
        return
    except Exception:
        shop.rounds_of("reconcile").errors_total += 1
        log.exception("operation can not be settled", **named)
        return
    if settled.state != operation.state:
        log.info("operation settled", **named, kind=settled.kind, state=settled.state)


async def run(shop: Shop) -> None:
    """Both for ever: what is not final, and charges that nobody asked for."""
    async with asyncio.TaskGroup() as rounds:
        rounds.create_task(
            run_rounds(shop.rounds_of("reconcile"), lambda: run_once(shop), full=ROWS)
        )
        rounds.create_task(orphans.run(shop))


def _believed(payment: Payment, age: timedelta, outcome: ChargeOutcome) -> ChargeOutcome:
    """What to make of the provider's word; "never arrived" is not taken at any time."""
    if not isinstance(outcome, NotSent):
        return outcome
    return _arrived(payment.charge_id, age, outcome)


def _arrived(reference: str | None, age: timedelta, outcome: NotSent) -> ChargeOutcome:
    if reference is not None:
        return Unknown("the provider denies what it has named before")
    if age < ARRIVAL_GRACE:
        return Unknown("the provider has not seen it yet")
    return outcome


async def _escalate_payment(shop: Shop, payment: Payment, outcome: Unknown) -> None:
    """Call somebody, once: only the provider's word ends this, and it gives none."""
    async with shop.database.primary.transaction() as tx:
        first = await payments.escalate_payment(tx, payment)
    if first:
        shop.counts.escalated_total += 1
        log.error(
            "payment still unknown",
            payment_id=str(payment.payment_id),
            checks=payment.check_count,
            reason=outcome.reason,
        )


async def _escalate_operation(
    shop: Shop, operation: PaymentOperation, outcome: Unknown | NotSent
) -> None:
    async with shop.database.primary.transaction() as tx:
        first = await payment_operations.escalate_operation(tx, operation)
    if first:
        shop.counts.escalated_total += 1
        log.error(
            "operation still unknown",
            operation_id=str(operation.operation_id),
            payment_id=str(operation.payment_id),
            checks=operation.check_count,
            reason=outcome.reason,
        )
