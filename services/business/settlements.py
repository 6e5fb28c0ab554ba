"""Settlements: the last step of paying, for all payments the provider has spoken about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.business.operations import Operation
from services.business.order_states import move_orders
from services.business.provider import (
    Amount,
    Approved,
    ChargeOutcome,
    Declined,
    NotSent,
    Pending,
    Unknown,
)
from services.business.reviews import difference, log_reviews, open_reviews
from services.business.shop import Shop
from services.data import idempotency, ledger, orders, payment_operations, payments
from services.data.batch import Locked
from services.data.ledger import PROVIDER_CLEARING, SALES, UNAPPLIED_RECEIPTS, Transfer
from services.data.outbox import Event, insert_events
from services.data.payment_operations import NewOperation
from services.data.payment_reviews import NewReview, Source
from services.data.payments import Payment, State, Sums, Verdict
from services.data.sources import Transaction
from services.data.stock import sell_stock
from services.telemetry import logger

log = logger(__name__)

FINAL: Final[frozenset[State]] = frozenset(("SUCCESS", "FAILED", "ERRORED"))
LOST: Final = FINAL - {"SUCCESS"}  # the order may be paid otherwise
ENDED: Final = frozenset(("expired", "cancelled"))  # orders that take no money any more
AT_ONCE: Final = timedelta(0)
FIRST_CHECK: Final = timedelta(seconds=2)  # a provider that was slow has decided by then


class Word(NamedTuple):
    """What the provider said of a payment, and how."""

    payment: Payment
    outcome: ChargeOutcome
    source: Source = "answer"


async def settle_payments(shop: Shop, words: Sequence[Word], patient: bool) -> list[Payment]:
    """Book the provider's words in one transaction: payments, orders, stock, ledger, keys, events.

    A payment that is final stays as it is. Returns the payments as they stand then, in order.
    """
    async with shop.database.primary.transaction() as tx:
        locked = await orders.lock_orders(tx, [word.payment.order_key for word in words])
        current = await payments.lock_payments(tx, [word.payment for word in words])
        verdicts = [(current[word.payment.payment_id], _verdict(word.outcome)) for word in words]
        moves = [(payment, verdict) for payment, verdict in verdicts if _moves(payment, verdict)]
        settled = await payments.update_payments(tx, moves, first_wait=FIRST_CHECK)
        won = [payment for payment in settled.values() if payment.state == "SUCCESS"]
        late = [payment for payment in won if locked[payment.order_key].state in ENDED]
        paid = [payment for payment in won if payment not in late]
        lost = [payment for payment in settled.values() if payment.state in LOST]
        await _sell(tx, paid, words, patient=patient)
        await ledger.insert_transfers(
            tx,
            [_receipt(one, SALES) for one in paid if one.capture_method == "automatic"]
            + [_receipt(one, UNAPPLIED_RECEIPTS) for one in late if one.captured_minor > 0],
        )
        given_back = await _give_back(tx, late)
        await orders.move_holds(
            tx, [payment.order_key for payment in lost], was="paying", becomes="held"
        )
        await _tell(tx, list(settled.values()))
        reviews = await open_reviews(tx, differences(words))
    if settled or reviews:
        shop.changed()
    log_reviews(reviews)
    now = current | settled | given_back
    return [now[word.payment.payment_id] for word in words]


SETTLE_PAYMENTS: Final = Operation(
    "settle_payments",
    settle_payments,
    key_of=lambda word: word.payment.payment_id,
    names_of=lambda word: (str(word.payment.payment_id), str(word.payment.order_id)),
)


def differences(words: Sequence[Word]) -> list[NewReview]:
    """Where the provider has confirmed another amount than it was asked for."""
    return [
        difference(word.payment.payment_id, asked_of(word.payment), word.outcome.seen, word.source)
        for word in words
        if isinstance(word.outcome, Unknown) and word.outcome.seen is not None
    ]


def asked_of(payment: Payment) -> Amount:
    return Amount(payment.amount_minor, payment.currency)


def says_nothing_new(payment: Payment, outcome: ChargeOutcome) -> bool:
    """Whether a payment is final and this is the same word again: there is nothing to book."""
    return payment.state in FINAL and _verdict(outcome).state == payment.state


def _verdict(outcome: ChargeOutcome) -> Verdict:
    """What an outcome stands for: the rows of the table in docs/payments.md."""
    match outcome:
        case Approved(charge_id):
            return Verdict("SUCCESS", charge_id, None, "")
        case Declined(decline_code, charge_id):
            return Verdict("FAILED", charge_id, decline_code, "The provider declined.")
        case Pending(charge_id, None):
            return Verdict("PENDING", charge_id, None, "The provider has not decided yet.")
        case Pending(charge_id, url):
            return Verdict("PENDING", charge_id, None, "The customer has to approve it.", url)
        case NotSent(reason):
            return Verdict("ERRORED", None, None, f"It was not charged: {reason}.")
        case Unknown(reason):
            detail = f"It is being found out whether it was charged: {reason}."
            return Verdict("UNKNOWN", None, None, detail)


def _moves(current: Payment, verdict: Verdict) -> bool:
    """Whether there is anything to book: final is final, and not knowing undoes no knowledge."""
    if current.state in FINAL:
        if verdict.state in FINAL and verdict.state != current.state:
            log.error(
                "final state contradicted",
                payment_id=str(current.payment_id),
                state=current.state,
                provider_says=verdict.state,
            )
        return False
    if verdict.state == "UNKNOWN" and current.state == "PENDING":
        return False
    if verdict.next_action_url not in (None, current.next_action_url):
        return True
    return (current.state, current.detail) != (verdict.state, verdict.detail)


async def _sell(
    tx: Transaction, paid: Sequence[Payment], words: Sequence[Word], *, patient: bool
) -> None:
    """Mark the orders as paid or authorized, and sell the stock that was kept for them."""
    if not paid:
        return
    keys = [payment.order_key for payment in paid]
    sold = await orders.move_holds(tx, keys, was="paying", becomes="sold")
    by_order = {word.payment.order_key: word for word in words}
    with Locked.among([by_order[key] for key in sold], words):
        await sell_stock(tx, list(sold.values()), patient=patient)
    captured = [one.order_key for one in paid if one.capture_method == "automatic"]
    authorised = [one.order_key for one in paid if one.capture_method == "manual"]
    await move_orders(tx, captured, "paid", "payment_captured")
    await move_orders(tx, authorised, "authorized", "payment_authorized")


async def _give_back(tx: Transaction, late: Sequence[Payment]) -> dict[UUID, Payment]:
    """Have the money of orders that had ended given back, or its authorisation let go.

    Only noted here, in the same transaction: reconcile sends it until it is done.
    """
    new = [
        NewOperation(one, "void", one.amount_minor, "order_ended")
        if one.capture_method == "manual"
        else NewOperation(one, "refund", one.captured_minor, "order_ended")
        for one in late
    ]
    refunding = [
        (one, Sums(refunding_minor=one.captured_minor)) for one in late if one.captured_minor > 0
    ]
    await payment_operations.insert_operations(tx, new, first_check=AT_ONCE)
    return await payments.add_sums(tx, refunding)


async def _tell(tx: Transaction, settled: Sequence[Payment]) -> None:
    """Note that the keys are answered, and tell others what became of the payments."""
    if not settled:
        return
    done = [(payment.customer_id, payment.payment_id) for payment in settled]
    await idempotency.answer_keys(tx, "pay_order", done, status=201)
    await insert_events(
        tx,
        [
            Event(
                f"payment_{payment.state.lower()}",
                str(payment.payment_id),
                {"detail": payment.detail},
            )
            for payment in settled
        ],
    )


def _receipt(payment: Payment, credit_account: str) -> Transfer:
    return Transfer(
        debit_account=PROVIDER_CLEARING,
        credit_account=credit_account,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        cause="payment_captured",
        cause_id=payment.payment_id,
    )
