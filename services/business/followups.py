"""Captures, voids and refunds: what an operator does with a payment after it was made.

Each is the same three visible steps as paying: claim, ask the provider, settle. The claim reserves
the sum under lock, so that those under way never come to more than there is (followup_claims.py);
the settlement makes it final or gives it free (followup_settlements.py).
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.documents import operation_document
from services.business.followup_claims import CLAIM_FOLLOWUPS, Claimed, FollowUp
from services.business.followup_settlements import SETTLE_FOLLOWUPS, FollowUpWord
from services.business.orders import fingerprint
from services.business.payments import ANSWER_MARGIN_S, CHARGE_WITHIN_S, SETTLE_TIMEOUT_S
from services.business.provider import ChargeOutcome, OperationOrder
from services.business.requests import read_id, read_idempotency_key, read_json
from services.business.roles import check_operator
from services.business.schemas import AmountRequest, CaptureRequest, RefundRequest, VoidRequest
from services.business.settlements import FINAL
from services.business.shop import Shop
from services.data.customers import OPERATOR
from services.data.idempotency import Key
from services.data.payment_operations import Kind, PaymentOperation
from services.data.payment_reviews import Source
from services.data.payments import Payment
from services.deadline import Deadline, current_deadline, deadline_or
from services.problems import Problem
from services.telemetry import logger

log = logger(__name__)


async def capture_payment(shop: Shop, request: Request) -> Response:
    """POST /payments/{payment_id}/captures: take all or some of what was authorised."""
    check_operator(request)
    wanted, body = await read_json(request, CaptureRequest)
    return await _answer(shop, _asked(request, "capture", body, wanted.amount))


async def void_payment(shop: Shop, request: Request) -> Response:
    """POST /payments/{payment_id}/voids: let an authorisation go; its order is cancelled."""
    check_operator(request)
    _, body = await read_json(request, VoidRequest)
    return await _answer(shop, _asked(request, "void", body))


async def refund_payment(shop: Shop, request: Request) -> Response:
    """POST /payments/{payment_id}/refunds: give back all or some of what was captured."""
    check_operator(request)
    wanted, body = await read_json(request, RefundRequest)
    asked = _asked(request, "refund", body, wanted.amount)
    return await _answer(shop, asked._replace(reason=wanted.reason))


def _asked(
    request: Request, kind: Kind, body: bytes, amount: AmountRequest | None = None
) -> FollowUp:
    """The request, with a key that is the operator's."""
    key, payment_id = read_idempotency_key(request), read_id(request, "payment_id")
    used = Key(OPERATOR, kind, key, fingerprint(str(payment_id), body))
    if amount is None:
        return FollowUp(payment_id, kind, used)
    return FollowUp(payment_id, kind, used, amount.amount_minor, amount.currency)


async def _answer(shop: Shop, asked: FollowUp) -> Response:
    """201 once it is final, 202 while it is not."""
    done = await follow_up(shop, asked)
    headers = {"cache-control": "no-store"}
    if done.replayed:
        headers["idempotent-replayed"] = "true"
    if done.operation.state in FINAL:
        return document(operation_document(done.operation), 201, headers)
    return document(operation_document(done.operation), 202, headers | {"retry-after": "2"})


async def follow_up(shop: Shop, wanted: FollowUp) -> Claimed:
    """Claim, send, settle. Once claimed it is finished, whether or not the client waits."""
    sent_by = Deadline.after(CHARGE_WITHIN_S)
    claimed = await shop.join(CLAIM_FOLLOWUPS, wanted)
    if claimed.replayed:
        return claimed
    finishing = shop.hand_over(send_and_settle(shop, claimed.operation, claimed.payment, sent_by))
    patience_s = max(0.0, deadline_or(SETTLE_TIMEOUT_S * 10).left_s() - ANSWER_MARGIN_S)
    done, _ = await asyncio.wait([finishing], timeout=patience_s)
    settled = finishing.result() if done else None
    # Not settled yet: it stands as it was claimed, and reconcile will see it through.
    return claimed._replace(operation=settled or claimed.operation)


async def send_and_settle(
    shop: Shop, operation: PaymentOperation, payment: Payment, sent_by: Deadline
) -> PaymentOperation | None:
    """Ask the provider and book what it said; None when booking failed and reconcile has to.

    sent_by: as in charge_and_settle.
    """
    provider_s = shop.settings.provider_timeout_ms / 1000
    current_deadline.set(Deadline.after(provider_s + SETTLE_TIMEOUT_S))
    outcome = await send(shop, operation, payment, sent_by.within(provider_s))
    try:
        return await settle_followup(shop, operation, payment, outcome)
    except Problem as error:
        operation_id = str(operation.operation_id)
        log.error("operation not settled", operation_id=operation_id, error=repr(error))
        return None


async def send(
    shop: Shop, operation: PaymentOperation, payment: Payment, deadline: Deadline
) -> ChargeOutcome:
    """Have the provider do it; its key makes it safe to ask any number of times."""
    order = operation_order(operation, payment)
    match operation.kind:
        case "capture":
            return await shop.provider.capture(order, deadline)
        case "void":
            return await shop.provider.void(order, deadline)
        case "refund":
            return await shop.provider.refund(order, deadline)


async def settle_followup(
    shop: Shop,
    operation: PaymentOperation,
    payment: Payment,
    outcome: ChargeOutcome,
    source: Source = "answer",
) -> PaymentOperation:
    """Book the provider's word: operation, sums, order, stock, ledger, key and event together.

    May be called any number of times: an operation that is final stays as it is.
    """
    word = FollowUpWord(operation, payment, outcome, source)
    return await shop.join(SETTLE_FOLLOWUPS, word)


def operation_order(operation: PaymentOperation, payment: Payment) -> OperationOrder:
    return OperationOrder(
        operation.operation_id,
        operation.payment_id,
        payment.charge_id or "",
        operation.kind,
        operation.amount_minor,
        operation.currency,
    )
