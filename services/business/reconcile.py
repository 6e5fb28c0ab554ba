"""Reconcile: asks the provider about every payment that is not final, and settles what it says."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from services.business.payments import charge_order, settle
from services.business.provider import ChargeOutcome, NotSent, Unknown
from services.business.rounds import run_rounds
from services.business.shop import Shop
from services.data import payments
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
    """Look after the payments whose check is due; returns how many there were."""
    async with shop.database.primary.transaction() as tx:
        due = await payments.claim_due_payments(
            tx, ROWS, first_wait=FIRST_WAIT, longest_wait=LONGEST_WAIT
        )
    async with asyncio.TaskGroup() as checks:
        for payment, age in due:
            checks.create_task(check(shop, payment, age))
    return len(due)


async def check(shop: Shop, payment: Payment, age: timedelta) -> None:
    """Ask for one payment, and book the answer if it says anything new.

    Never raises: one payment that can not be handled must not keep the others waiting.
    """
    deadline = Deadline.after(shop.settings.provider_timeout_ms / 1000)
    found = await shop.provider.find(charge_order(payment), deadline)
    outcome = _believed(payment, age, found)
    if isinstance(outcome, Unknown):
        _escalate(payment, outcome)
    try:
        settled = await settle(shop, payment, outcome, "reconcile")
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


async def run(shop: Shop) -> None:
    await run_rounds(shop.rounds_of("reconcile"), lambda: run_once(shop), full=ROWS)


def _believed(payment: Payment, age: timedelta, outcome: ChargeOutcome) -> ChargeOutcome:
    """What to make of the provider's word; "never arrived" is not taken at any time."""
    if not isinstance(outcome, NotSent):
        return outcome
    if payment.charge_id is not None:
        return Unknown("the provider denies a charge that it has named before")
    if age < ARRIVAL_GRACE:
        return Unknown("the provider has not seen it yet")
    return outcome


def _escalate(payment: Payment, outcome: Unknown) -> None:
    if payment.check_count >= ESCALATE_AFTER_CHECKS:
        log.error(
            "payment still unknown",
            payment_id=str(payment.payment_id),
            checks=payment.check_count,
            reason=outcome.reason,
        )
