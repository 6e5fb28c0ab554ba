"""Webhooks: what a provider says by itself is checked, stored, answered, and then handled.

Handled means settled, by the same settle() as the answers to requests and reconcile: so it does not
matter how often a webhook comes, nor in which order. The process that received it handles it at
once; the worker handles what remains.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.followups import settle_followup
from services.business.operations import Operation
from services.business.payments import SETTLE_TIMEOUT_S, settle
from services.business.provider import Amount, Notice, believed
from services.business.requests import read_bytes
from services.business.rounds import run_rounds
from services.business.schemas import WebhookDocument
from services.business.settlements import asked_of, says_nothing_new
from services.business.shop import Shop
from services.business.webhook_signature import Malformed, Refused, key_of, verify
from services.data import webhooks
from services.data.payment_operations import PaymentOperation, select_operations
from services.data.payments import Payment, select_payments_by_id
from services.data.webhooks import BacklogFull, Done, Due, Webhook
from services.deadline import Deadline, current_deadline
from services.problems import (
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    Problem,
    Unavailable,
    WebhookRefused,
)
from services.telemetry import logger

log = logger(__name__)

SANDBOX: Final = "sandbox"
BODY_MAX_BYTES: Final = 16_384  # a charge is 300 bytes; the whole of it is stored
ROWS: Final = 100
FIRST_WAIT: Final = timedelta(seconds=2)  # also what the process that received it has to itself
LONGEST_WAIT: Final = timedelta(minutes=10)
# What is not known by then never will be: a payment is in the database before it is charged.
GIVEN_UP_AFTER: Final = timedelta(days=3)
BACKLOG_RETRY_AFTER_S: Final = 60


class Received(NamedTuple):
    """is_new: it had not come before."""

    is_new: bool


async def receive_webhook(shop: Shop, request: Request) -> Response:
    """POST /webhooks/{provider}: what a payment provider tells by itself, signed by it.

    Answered once it is stored; what it says is booked a moment later.
    """
    if request.path_params["provider"] != SANDBOX:
        raise NotFound("There is no provider of this name.")
    body = await read_bytes(request)
    if len(body) > BODY_MAX_BYTES:
        raise PayloadTooLarge(f"more than {BODY_MAX_BYTES} bytes")
    webhook_id = _verified(shop, request, body)
    received = await shop.join(RECEIVE_WEBHOOKS, Webhook(SANDBOX, webhook_id, body))
    return document(WebhookDocument(webhook_id=webhook_id, is_new=received.is_new), 202)


def _verified(shop: Shop, request: Request, body: bytes) -> str:
    """The id of a webhook that one of our keys has signed just now."""
    settings = shop.settings
    secrets = (settings.webhook_secret, settings.webhook_secret_previous)
    keys = [key_of(secret.get_secret_value()) for secret in secrets if secret is not None]
    try:
        return verify(keys, request.headers, body, time.time())
    except Malformed as error:
        field = {"field": error.header, "detail": error.detail}
        raise InvalidRequest(errors=[field]) from None  # type: ignore[list-item]  # a FieldError
    except Refused as error:
        log.warning("webhook refused", reason=str(error))
        raise WebhookRefused from None


async def receive_webhooks(shop: Shop, rows: Sequence[Webhook], _: bool) -> list[Received]:
    """One transaction for all webhooks that came; who answers them has them handled."""
    try:
        async with shop.database.primary.transaction() as tx:
            new = await webhooks.insert_webhooks(tx, rows, lease=FIRST_WAIT)
    except BacklogFull:
        log.error("too many webhooks wait to be handled", limit=webhooks.BACKLOG_MAX)
        raise Unavailable(retry_after_s=BACKLOG_RETRY_AFTER_S) from None
    fresh = [Due(row, timedelta()) for row in rows if row.key in new]
    if fresh:
        shop.hand_over(handle_soon(shop, fresh))
    return [Received(row.key in new) for row in rows]


RECEIVE_WEBHOOKS: Final = Operation(
    "receive_webhooks",
    receive_webhooks,
    key_of=lambda webhook: webhook.key,
    names_of=lambda webhook: (webhook.webhook_id,),
    repeated=lambda _: Received(is_new=False),
    size_of=lambda webhook: len(webhook.payload) + 300,
)


async def handle_soon(shop: Shop, due: Sequence[Due]) -> None:
    """Handle what has just been stored; what can not be handled now is left to the worker."""
    current_deadline.set(Deadline.after(SETTLE_TIMEOUT_S))
    try:
        await handle(shop, due)
    except Problem as error:
        log.warning("webhooks wait", webhooks=len(due), error=repr(error))


async def handle(shop: Shop, due: Sequence[Due]) -> None:
    """Book what webhooks say, and note what became of each; one that speaks of a payment that is
    not there yet goes on waiting.
    """
    read = [(one, shop.provider.read(one.webhook.payload)) for one in due]
    known = await _subjects(shop, [notice for _, notice in read if notice is not None])
    done = await asyncio.gather(
        *(
            _handle_one(shop, one, notice, None if notice is None else known.get(notice.subject_id))
            for one, notice in read
        )
    )
    async with shop.database.primary.transaction() as tx:
        await webhooks.end_webhooks(tx, [each for each in done if each is not None])


class Subject(NamedTuple):
    """What a notice speaks of: a payment, or an operation on one."""

    payment: Payment
    operation: PaymentOperation | None = None


async def _subjects(shop: Shop, notices: Sequence[Notice]) -> dict[UUID, Subject]:
    """Those that are known, by the ids that the notices have of them."""
    primary = shop.database.primary
    operations = await select_operations(
        primary, [notice.subject_id for notice in notices if notice.subject != "charge"]
    )
    charged = [notice.subject_id for notice in notices if notice.subject == "charge"]
    of_operations = [operation.payment_id for operation in operations.values()]
    payments = await select_payments_by_id(primary, list({*charged, *of_operations}))
    subjects = {
        operation_id: Subject(payments[operation.payment_id], operation)
        for operation_id, operation in operations.items()
    }
    return subjects | {one: Subject(payments[one]) for one in charged if one in payments}


async def _handle_one(
    shop: Shop, due: Due, notice: Notice | None, subject: Subject | None
) -> Done | None:
    """What became of one; None while it waits. Never raises: the others must not wait for it."""
    if notice is None or subject is None:
        return _without_payment(due, notice)
    key = due.webhook.key
    try:
        await _settle(shop, notice, subject)
    except Problem as error:
        log.warning("webhook not handled yet", webhook_id=key.webhook_id, error=repr(error))
        return None
    except Exception:
        shop.rounds_of("webhooks").errors_total += 1
        log.exception("webhook can not be handled", webhook_id=key.webhook_id)
        return None
    return Done(key, "handled")


async def _settle(shop: Shop, notice: Notice, subject: Subject) -> None:
    """Book the word, by the settle() of what it is about, unless it says nothing new."""
    payment, operation = subject
    if operation is None:
        outcome = believed(notice.outcome, notice.seen, asked_of(payment))
        if not says_nothing_new(payment, outcome):
            await settle(shop, payment, outcome, "webhook")
        return
    asked = Amount(operation.amount_minor, operation.currency)
    outcome = believed(notice.outcome, notice.seen, asked)
    await settle_followup(shop, operation, payment, outcome, "webhook")


def _without_payment(due: Due, notice: Notice | None) -> Done | None:
    """One that speaks of nothing we know: perhaps not yet."""
    key = due.webhook.key
    if notice is None:
        log.warning("webhook ignored", webhook_id=key.webhook_id)
        return Done(key, "ignored", "It speaks of nothing that concerns a payment.")
    if due.age < GIVEN_UP_AFTER:
        return None
    log.error("webhook without a payment", webhook_id=key.webhook_id)
    return Done(key, "ignored", "There is no such payment.")


async def run_once(shop: Shop) -> int:
    """Handle webhooks that wait, and drop old ones; returns how many were due."""
    async with shop.database.primary.transaction() as tx:
        due = await webhooks.claim_due_webhooks(
            tx, ROWS, first_wait=FIRST_WAIT, longest_wait=LONGEST_WAIT
        )
    if due:
        await handle(shop, due)
    else:
        await webhooks.trim_webhooks(shop.database.primary)
    return len(due)


async def run(shop: Shop) -> None:
    await run_rounds(shop.rounds_of("webhooks"), lambda: run_once(shop), full=ROWS)
