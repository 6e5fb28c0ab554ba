"""Paying an order in three visible steps: claim, charge, settle.

Claim and settle are one transaction each; the charge between them holds no connection. What is
known after each step is in the database, so whoever comes next (a retry, reconcile, a restart)
can go on from there. docs/payments.md has the table of states.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.documents import payment_document
from services.business.orders import fingerprint
from services.business.provider import (
    Approved,
    ChargeOrder,
    ChargeOutcome,
    Declined,
    NotSent,
    Pending,
    Unknown,
)
from services.business.requests import read_customer, read_id, read_idempotency_key, read_json
from services.business.schemas import PaymentRequest
from services.business.shop import Shop
from services.data import idempotency, ledger, orders, payments
from services.data.idempotency import Key, KeyRow
from services.data.ledger import PROVIDER_CLEARING, SALES, Transfer
from services.data.orders import OrderKey
from services.data.outbox import insert_event
from services.data.payments import Payment, State
from services.data.sources import Transaction
from services.data.stock import sell_stock
from services.deadline import Deadline, current_deadline, deadline_or
from services.problems import (
    IdempotencyKeyReused,
    IdempotencyKeyRunning,
    NotFound,
    OrderNotPayable,
    Problem,
)
from services.telemetry import logger

log = logger(__name__)

FINAL: Final[frozenset[State]] = frozenset(("SUCCESS", "FAILED", "ERRORED"))
FIRST_CHECK: Final = timedelta(seconds=2)  # a provider that was slow has decided by then
SETTLE_TIMEOUT_S: Final = 2.0
CHARGE_WITHIN_S: Final = 10.0  # of the request; far below what reconcile waits for an arrival
ANSWER_MARGIN_S: Final = 0.1  # what is left to render an answer before the request's deadline


class Paid(NamedTuple):
    payment: Payment
    replayed: bool


async def create_payment(shop: Shop, request: Request) -> Response:
    """POST /orders/{order_id}/payments: pay an order; 201 once it is final, 202 while it is not."""
    key = read_idempotency_key(request)
    order_key = OrderKey(read_customer(request), read_id(request, "order_id"))
    wanted, body = await read_json(request, PaymentRequest)
    body_hash = fingerprint(str(order_key.order_id), body)
    paid = await pay(shop, order_key, wanted.payment_method, key, body_hash)
    headers = {"location": f"/payments/{paid.payment.payment_id}"}
    if paid.replayed:
        headers["idempotent-replayed"] = "true"
    if paid.payment.state in FINAL:
        return document(payment_document(paid.payment), 201, headers)
    return document(payment_document(paid.payment), 202, headers | {"retry-after": "2"})


async def show_payment(shop: Shop, request: Request) -> Response:
    """GET /payments/{payment_id}: a payment of the customer's own, as it stands now."""
    customer_id, payment_id = read_customer(request), read_id(request, "payment_id")
    payment = await payments.select_payment(shop.database.primary, customer_id, payment_id)
    if payment is None:
        raise NotFound("There is no such payment.")
    return document(payment_document(payment))


async def pay(
    shop: Shop, order_key: OrderKey, payment_method: str, key: str, body_hash: bytes
) -> Paid:
    """Claim, charge, settle. Once claimed it is finished, whether or not the client waits."""
    sent_by = Deadline.after(CHARGE_WITHIN_S)
    claimed = await claim(shop, order_key, payment_method, key, body_hash)
    if claimed.replayed:
        return claimed
    finishing = shop.hand_over(charge_and_settle(shop, claimed.payment, sent_by))
    patience_s = max(0.0, deadline_or(SETTLE_TIMEOUT_S * 10).left_s() - ANSWER_MARGIN_S)
    done, _ = await asyncio.wait([finishing], timeout=patience_s)
    settled = finishing.result() if done else None
    # Not settled yet: the payment stands as it was claimed, and reconcile will see it through.
    return Paid(settled or claimed.payment, replayed=False)


async def claim(
    shop: Shop, order_key: OrderKey, payment_method: str, key: str, body_hash: bytes
) -> Paid:
    """A payment in INIT, and the order's stock kept for it; or the payment of an earlier request.

    Raises OrderNotPayable when the order is not waiting for money. Nothing is left behind then,
    so the key may be used again.
    """
    lease = timedelta(milliseconds=shop.settings.provider_timeout_ms) + timedelta(seconds=5)
    async with shop.database.primary.transaction() as tx:
        claimed = await idempotency.claim_key(
            tx, Key(order_key.customer_id, "pay_order", key, body_hash), lease
        )
        if isinstance(claimed, KeyRow):
            return Paid(await _earlier(tx, order_key.customer_id, claimed, body_hash), True)
        order = await orders.lock_order(tx, order_key)
        if order is None:
            raise NotFound("There is no such order.")
        _check_payable(order)
        payment = await payments.insert_payment(
            tx,
            customer_id=order_key.customer_id,
            payment_id=claimed,
            order_id=order_key.order_id,
            amount_minor=order.total_minor,
            currency=order.currency,
            payment_method=payment_method,
            first_check=lease,
        )
        await orders.move_holds(tx, order_key, was="held", becomes="paying")
    return Paid(payment, replayed=False)


async def charge_and_settle(shop: Shop, payment: Payment, sent_by: Deadline) -> Payment | None:
    """Ask the provider and book what it said; None when booking failed and reconcile has to.

    sent_by is set before the claim: a process that was frozen in between charges no more, because
    reconcile may have believed by then that the charge never arrived.
    """
    provider_s = shop.settings.provider_timeout_ms / 1000
    current_deadline.set(Deadline.after(provider_s + SETTLE_TIMEOUT_S))
    outcome = await shop.provider.charge(charge_order(payment), sent_by.within(provider_s))
    try:
        return await settle(shop, payment, outcome)
    except Problem as error:
        log.error("payment not settled", payment_id=str(payment.payment_id), error=repr(error))
        return None


async def settle(shop: Shop, payment: Payment, outcome: ChargeOutcome) -> Payment:
    """Book the provider's word in one transaction: payment, order, stock, ledger, key, event.

    May be called any number of times: a payment that is final stays as it is.
    """
    state, charge_id, decline_code, detail = _verdict(outcome)
    order_key = OrderKey(payment.customer_id, payment.order_id)
    async with shop.database.primary.transaction() as tx:
        await orders.lock_order(tx, order_key)
        current = await payments.lock_payment(tx, payment.customer_id, payment.payment_id)
        if not _moves(current, state, detail):
            return current
        settled = await payments.update_payment(
            tx,
            current,
            state,
            charge_id=charge_id,
            decline_code=decline_code,
            detail=detail,
            first_wait=FIRST_CHECK,
        )
        if state == "SUCCESS":
            sold = await orders.move_holds(tx, order_key, was="paying", becomes="sold")
            await sell_stock(tx, sold)
            await orders.update_state(tx, order_key, "paid")
            await ledger.insert_transfers(tx, [_sale(settled)])
        elif state in FINAL:
            await orders.move_holds(tx, order_key, was="paying", becomes="held")
        await idempotency.answer_key(
            tx, settled.customer_id, settled.payment_id, status=201, body=b""
        )
        await insert_event(
            tx, f"payment_{state.lower()}", str(settled.payment_id), {"detail": detail}
        )
    shop.changed()
    return settled


def _moves(current: Payment, state: State, detail: str) -> bool:
    """Whether there is anything to book: final is final, and not knowing undoes no knowledge."""
    if current.state in FINAL:
        if state in FINAL and state != current.state:
            log.error(
                "final state contradicted",
                payment_id=str(current.payment_id),
                state=current.state,
                provider_says=state,
            )
        return False
    if state == "UNKNOWN" and current.state == "PENDING":
        return False
    return (current.state, current.detail) != (state, detail)


def charge_order(payment: Payment) -> ChargeOrder:
    return ChargeOrder(
        payment.payment_id, payment.amount_minor, payment.currency, payment.payment_method
    )


async def _earlier(tx: Transaction, customer_id: UUID, row: KeyRow, body_hash: bytes) -> Payment:
    """The payment that the key made, as it stands now.

    Read by the claim's own connection: a second one, taken while the first is held, would have as
    many repeated requests as the pool has places wait for each other.
    """
    if row.fingerprint != body_hash:
        raise IdempotencyKeyReused("The key was used for another order or payment method.")
    payment = await payments.select_payment(tx, customer_id, row.subject_id)
    if payment is None or (payment.state == "INIT" and row.leased):
        raise IdempotencyKeyRunning(retry_after_s=1)
    return payment


def _check_payable(order: orders.Order) -> None:
    if order.state != "placed":
        raise OrderNotPayable(f"The order is {order.state}.")
    if order.hold_is_over:
        raise OrderNotPayable("Its stock is not held any more: place the order again.")
    if order.total_minor == 0:
        raise OrderNotPayable("There is nothing to pay.")


def _sale(payment: Payment) -> Transfer:
    return Transfer(
        debit_account=PROVIDER_CLEARING,
        credit_account=SALES,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        cause="payment_captured",
        cause_id=payment.payment_id,
    )


def _verdict(outcome: ChargeOutcome) -> tuple[State, str | None, str | None, str]:
    """State, charge_id, decline_code and detail that an outcome stands for: the table's rows."""
    match outcome:
        case Approved(charge_id):
            return "SUCCESS", charge_id, None, ""
        case Declined(decline_code, charge_id):
            return "FAILED", charge_id, decline_code, "The provider declined."
        case Pending(charge_id):
            return "PENDING", charge_id, None, "The provider has not decided yet."
        case NotSent(reason):
            return "ERRORED", None, None, f"It was not charged: {reason}."
        case Unknown(reason):
            return "UNKNOWN", None, None, f"It is being found out whether it was charged: {reason}."
