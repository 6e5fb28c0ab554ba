"""Settlements of captures, voids and refunds: all the provider has spoken about, in one go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from services.business.settlements import ENDED, FINAL, FIRST_CHECK
from services.business.shop import Shop
from services.data import idempotency, ledger, orders, payment_operations, payments
from services.data.batch import Locked
from services.data.customers import OPERATOR
from services.data.flash_sales import return_claims
from services.data.ledger import (
    PROVIDER_CLEARING,
    REFUNDS,
    SALES,
    UNAPPLIED_RECEIPTS,
    Transfer,
)
from services.data.orders import Order, OrderKey
from services.data.outbox import Event, insert_events
from services.data.payment_operations import OperationVerdict, PaymentOperation
from services.data.payment_reviews import NewReview, Source
from services.data.payments import Payment, Sums
from services.data.sources import Transaction
from services.data.stock import return_stock
from services.telemetry import logger

log = logger(__name__)


class FollowUpWord(NamedTuple):
    """What the provider said of an operation on a payment, and how."""

    operation: PaymentOperation
    payment: Payment
    outcome: ChargeOutcome
    source: Source = "answer"


async def settle_followups(
    shop: Shop, words: Sequence[FollowUpWord], patient: bool
) -> list[PaymentOperation]:
    """Book the words in one transaction: operations, sums, orders, stock, ledger, keys, events.

    An operation that is final stays as it is. Returns them as they stand then, in order.
    """
    async with shop.database.primary.transaction() as tx:
        locked = await orders.lock_orders(tx, [word.payment.order_key for word in words])
        by_id = {word.payment.payment_id: word.payment for word in words}
        await payments.lock_payments(tx, list(by_id.values()))
        current = await payment_operations.lock_operations(tx, [word.operation for word in words])
        verdicts = [(current[w.operation.operation_id], _verdict(w.operation, w.outcome))
            for w in words]  # fmt: skip
        moves = [(one, verdict) for one, verdict in verdicts if _moves(one, verdict)]
        settled = await payment_operations.update_operations(tx, moves, first_wait=FIRST_CHECK)
        final = [one for one in settled.values() if one.state in FINAL]
        now = await payments.add_sums(tx, [(by_id[one.payment_id], _sums(one)) for one in final])
        done = [one for one in final if one.state == "SUCCESS"]
        await ledger.insert_transfers(tx, _transfers(done, now, locked))
        await _move(tx, done, now, words, patient=patient)
        await _tell(tx, list(settled.values()))
        reviews = await open_reviews(tx, _differences(words))
    if settled or reviews:
        shop.changed()
    log_reviews(reviews)
    _log_failed(final)
    as_it_is = current | settled
    return [as_it_is[word.operation.operation_id] for word in words]


SETTLE_FOLLOWUPS: Final = Operation(
    "settle_followups",
    settle_followups,
    key_of=lambda word: word.operation.operation_id,
    names_of=lambda word: (str(word.operation.operation_id), str(word.payment.payment_id)),
)


def _verdict(operation: PaymentOperation, outcome: ChargeOutcome) -> OperationVerdict:
    """What an outcome stands for: the rows of the second table in docs/payments.md."""
    match outcome:
        case Approved(reference):
            return OperationVerdict("SUCCESS", reference, None, "")
        case Declined(decline_code, reference):
            return OperationVerdict("FAILED", reference, decline_code, "The provider declined.")
        case Pending(reference):
            detail = "The provider has not decided yet."
            return OperationVerdict("PENDING", reference, None, detail)
        case NotSent(reason) if operation.cause == "order_ended":
            # The money is owed, so it is sent until it is done: this is not the end of it.
            return OperationVerdict("UNKNOWN", None, None, f"It will be sent again: {reason}.")
        case NotSent(reason):
            return OperationVerdict("ERRORED", None, None, f"It was not done: {reason}.")
        case Unknown(reason):
            detail = f"It is being found out whether it was done: {reason}."
            return OperationVerdict("UNKNOWN", None, None, detail)


def _moves(current: PaymentOperation, verdict: OperationVerdict) -> bool:
    """As with payments: final is final, and not knowing undoes no knowledge."""
    if current.state in FINAL:
        if verdict.state in FINAL and verdict.state != current.state:
            log.error(
                "final state contradicted",
                operation_id=str(current.operation_id),
                state=current.state,
                provider_says=verdict.state,
            )
        return False
    if verdict.state == "UNKNOWN" and current.state == "PENDING":
        return False
    return (current.state, current.detail) != (verdict.state, verdict.detail)


def _sums(operation: PaymentOperation) -> Sums:
    """What becomes of the sum that was reserved: it is done, or free again."""
    amount_minor, done = operation.amount_minor, operation.state == "SUCCESS"
    match operation.kind:
        case "capture":
            return Sums(capturing_minor=-amount_minor, captured_minor=amount_minor * done)
        case "refund":
            return Sums(refunding_minor=-amount_minor, refunded_minor=amount_minor * done)
        case "void":
            return Sums(voided=done)


def _transfers(
    done: Iterable[PaymentOperation],
    now: Mapping[UUID, Payment],
    locked: Mapping[OrderKey, Order],
) -> list[Transfer]:
    """A transfer for each capture and refund; a void moves no money."""
    transfers = []
    for one in done:
        if one.kind == "void":
            continue
        if one.kind == "capture":
            accounts = (PROVIDER_CLEARING, SALES, "payment_captured")
        else:
            ended = locked[now[one.payment_id].order_key].state in ENDED
            owed = UNAPPLIED_RECEIPTS if ended else REFUNDS
            accounts = (owed, PROVIDER_CLEARING, "payment_refunded")
        debit, credit, cause = accounts
        transfers.append(
            Transfer(debit, credit, one.amount_minor, one.currency, cause, one.operation_id)
        )
    return transfers


async def _move(
    tx: Transaction,
    done: Sequence[PaymentOperation],
    now: Mapping[UUID, Payment],
    words: Sequence[FollowUpWord],
    *,
    patient: bool,
) -> None:
    """Move the orders: a capture makes paid, a void cancelled, a whole refund refunded."""
    captured = [now[one.payment_id].order_key for one in done if one.kind == "capture"]
    voided = [now[one.payment_id].order_key for one in done if one.kind == "void"]
    await move_orders(tx, list(dict.fromkeys(captured)), "paid", "payment_captured")
    if voided:
        released = await orders.move_holds(tx, voided, was="sold", becomes="released")
        by_order = {word.payment.order_key: word for word in words}
        await return_claims(tx, list(released))
        if released:
            with Locked.among([by_order[key] for key in released], words):
                await return_stock(tx, list(released.values()), patient=patient)
        await move_orders(tx, voided, "cancelled", "payment_voided")
    whole = [payment.order_key for payment in now.values() if _is_given_back(payment)]
    await move_orders(tx, whole, "refunded", "payment_refunded")


def _is_given_back(payment: Payment) -> bool:
    """Whether all that was captured went back, and nothing is about to be captured."""
    given_back = 0 < payment.captured_minor == payment.refunded_minor
    return given_back and payment.capturing_minor == 0


async def _tell(tx: Transaction, settled: Sequence[PaymentOperation]) -> None:
    """Note that the keys are answered, and tell others what became of the operations."""
    for kind in ("capture", "void", "refund"):
        made = [(OPERATOR, one.operation_id) for one in settled if one.kind == kind]
        if made:
            await idempotency.answer_keys(tx, kind, made, status=201)
    await insert_events(
        tx,
        [
            Event(
                f"{one.kind}_{one.state.lower()}",
                str(one.payment_id),
                {"operation_id": str(one.operation_id), "detail": one.detail},
            )
            for one in settled
        ],
    )


def _differences(words: Sequence[FollowUpWord]) -> list[NewReview]:
    """Where the provider has confirmed another amount than it was asked for."""
    return [
        difference(
            word.operation.operation_id,
            Amount(word.operation.amount_minor, word.operation.currency),
            word.outcome.seen,
            word.source,
        )
        for word in words
        if isinstance(word.outcome, Unknown) and word.outcome.seen is not None
    ]


def _log_failed(final: Iterable[PaymentOperation]) -> None:
    """Call somebody where money that is owed could not be given back."""
    for one in final:
        if one.cause == "order_ended" and one.state != "SUCCESS":
            log.error(
                "late payment not given back",
                operation_id=str(one.operation_id),
                payment_id=str(one.payment_id),
                decline_code=one.decline_code,
            )
