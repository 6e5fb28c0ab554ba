"""Paying an order in three visible steps: claim, charge, settle.

Claim and settle are one transaction each, shared by all who claim or settle at that moment
(claims.py, settlements.py); the charge between them holds no connection. What is known after each
step is in the database, so whoever comes next (a retry, reconcile, a restart) can go on from
there. docs/payments.md has the table of states.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.claims import CLAIM_PAYMENTS, Claim, Paid
from services.business.documents import payment_document
from services.business.orders import fingerprint
from services.business.owners import owner_of_order, owner_of_payment
from services.business.provider import ChargeOrder, ChargeOutcome
from services.business.requests import read_id, read_idempotency_key, read_json
from services.business.schemas import PaymentRequest
from services.business.settlements import FINAL, SETTLE_PAYMENTS, Word
from services.business.shop import Shop
from services.data.idempotency import Key
from services.data.orders import OrderKey
from services.data.own_orders import select_own_payment
from services.data.payment_operations import PaymentOperation, select_operations_of
from services.data.payment_reviews import Source
from services.data.payments import CaptureMethod, Payment
from services.deadline import Deadline, current_deadline, deadline_or
from services.problems import NotFound, Problem
from services.telemetry import logger

log = logger(__name__)

SETTLE_TIMEOUT_S: Final = 2.0
CHARGE_WITHIN_S: Final = 10.0  # of the request; far below what reconcile waits for an arrival
ANSWER_MARGIN_S: Final = 0.1  # what is left to render an answer before the request's deadline


async def create_payment(shop: Shop, request: Request) -> Response:
    """POST /orders/{order_id}/payments: pay an order; 201 once it is final, 202 while it is not."""
    key = read_idempotency_key(request)
    order_id = read_id(request, "order_id")
    order_key = OrderKey(await owner_of_order(shop, request, order_id), order_id)
    wanted, sent = await read_json(request, PaymentRequest)
    body_hash = fingerprint(str(order_key.order_id), sent)
    paid = await pay(shop, order_key, wanted.payment_method, key, body_hash, capture=wanted.capture)
    headers = {"location": f"/payments/{paid.payment.payment_id}"}
    operations: list[PaymentOperation] = []
    if paid.replayed:
        headers["idempotent-replayed"] = "true"
        found = await select_operations_of(shop.database.primary, [paid.payment])
        operations = found.get(paid.payment.payment_id, [])
    body = payment_document(paid.payment, operations)
    if paid.payment.state in FINAL:
        return document(body, 201, headers)
    return document(body, 202, headers | {"retry-after": "2"})


async def show_payment(shop: Shop, request: Request) -> Response:
    """GET /payments/{payment_id}: a payment of the customer's own, as it stands now."""
    payment_id = read_id(request, "payment_id")
    customer_id = await owner_of_payment(shop, request, payment_id)
    found = await select_own_payment(shop.database.own, customer_id, payment_id)
    if found is None:
        raise NotFound("There is no such payment.")
    return document(payment_document(found.payment, found.operations))


async def pay(
    shop: Shop,
    order_key: OrderKey,
    payment_method: str,
    key: str,
    body_hash: bytes,
    *,
    capture: CaptureMethod = "automatic",
) -> Paid:
    """Claim, charge, settle. Once claimed it is finished, whether or not the client waits."""
    sent_by = Deadline.after(CHARGE_WITHIN_S)
    claimed = await claim(shop, order_key, payment_method, key, body_hash, capture=capture)
    if claimed.replayed:
        return claimed
    finishing = shop.hand_over(charge_and_settle(shop, claimed.payment, sent_by))
    patience_s = max(0.0, deadline_or(SETTLE_TIMEOUT_S * 10).left_s() - ANSWER_MARGIN_S)
    done, _ = await asyncio.wait([finishing], timeout=patience_s)
    settled = finishing.result() if done else None
    # Not settled yet: the payment stands as it was claimed, and reconcile will see it through.
    return Paid(settled or claimed.payment, replayed=False)


async def claim(
    shop: Shop,
    order_key: OrderKey,
    payment_method: str,
    key: str,
    body_hash: bytes,
    *,
    capture: CaptureMethod = "automatic",
) -> Paid:
    """A payment in INIT, and the order's stock kept for it; or the payment of an earlier request.

    Raises OrderNotPayable when the order is not waiting for money. Nothing is left behind then,
    so the key may be used again.
    """
    used = Key(order_key.customer_id, "pay_order", key, body_hash)
    return await shop.join(CLAIM_PAYMENTS, Claim(order_key, payment_method, used, capture))


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


async def settle(
    shop: Shop, payment: Payment, outcome: ChargeOutcome, source: Source = "answer"
) -> Payment:
    """Book the provider's word: payment, order, stock, ledger, key and event together.

    May be called any number of times: a payment that is final stays as it is.
    """
    return await shop.join(SETTLE_PAYMENTS, Word(payment, outcome, source))


def charge_order(payment: Payment) -> ChargeOrder:
    return ChargeOrder(
        payment.payment_id,
        payment.amount_minor,
        payment.currency,
        payment.payment_method,
        capture=payment.capture_method == "automatic",
    )
