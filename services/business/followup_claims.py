"""Claims of captures, voids and refunds: the sums are reserved, for all who ask, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.business.operations import Operation
from services.business.shop import Shop
from services.data import idempotency, orders, payment_operations, payments
from services.data.batch import Locked
from services.data.idempotency import Key, KeyRow, NewKey
from services.data.orders import Order
from services.data.outbox import Event, insert_events
from services.data.payment_operations import Kind, NewOperation, PaymentOperation
from services.data.payments import Payment, Sums
from services.data.sources import Transaction
from services.problems import (
    CurrencyMismatch,
    FieldError,
    IdempotencyKeyReused,
    IdempotencyKeyRunning,
    NotFound,
    OperationNotAllowed,
    Problem,
)

UNSETTLED: Final = frozenset(("INIT", "PENDING", "UNKNOWN"))


class FollowUp(NamedTuple):
    """Somebody wants to capture, void or refund; without an amount: all that is left."""

    payment_id: UUID
    kind: Kind
    key: Key
    amount_minor: int | None = None
    currency: str | None = None
    reason: str = ""


class Claimed(NamedTuple):
    """An operation and its payment; replayed: it was made by an earlier request of the same key."""

    operation: PaymentOperation
    payment: Payment
    replayed: bool


@dataclass
class Draft:
    """A claim on its way. outcome: once it is decided; amount_minor: once it is allowed."""

    wanted: FollowUp
    outcome: Claimed | Problem | None = None
    payment: Payment | None = None
    amount_minor: int = 0

    def decided(self) -> Claimed | Problem:
        assert self.outcome is not None  # noqa: S101 - the last step decides all that are left
        return self.outcome


async def claim_followups(shop: Shop, rows: Sequence[FollowUp], _: bool) -> list[Claimed | Problem]:
    """One transaction for all: keys, payments under lock, sums, operations; first come, first
    served. What is refused leaves nothing behind, so its key may be used again.
    """
    lease = timedelta(milliseconds=shop.settings.provider_timeout_ms) + timedelta(seconds=5)
    drafts = [Draft(row) for row in rows]
    async with shop.database.primary.transaction() as tx:
        await _find_earlier(tx, drafts)
        await _allow(tx, drafts)
        await _insert(tx, drafts, lease)
    if any(isinstance(draft.outcome, Claimed) and not draft.outcome.replayed for draft in drafts):
        shop.changed()
    return [draft.decided() for draft in drafts]


def _repeated(claimed: Claimed) -> Claimed | Problem:
    """What those get who came with the same claim at the same time: the first is under way."""
    return claimed if claimed.replayed else IdempotencyKeyRunning(retry_after_s=1)


CLAIM_FOLLOWUPS: Final = Operation(
    "claim_followups",
    claim_followups,
    key_of=lambda row: row.key[:3],
    repeated=_repeated,
)


def _undecided(drafts: Sequence[Draft]) -> list[Draft]:
    return [draft for draft in drafts if draft.outcome is None]


async def _find_earlier(tx: Transaction, drafts: Sequence[Draft]) -> None:
    """Find the payments, and answer keys that were used before by what they made, as it stands."""
    found = await payments.select_payments_by_id(
        tx, list({draft.wanted.payment_id for draft in drafts})
    )
    used = await idempotency.select_keys(tx, [draft.wanted.key for draft in drafts])
    made = await payment_operations.select_operations(tx, [row.subject_id for row in used.values()])
    for draft in drafts:
        draft.payment = found.get(draft.wanted.payment_id)
        row = used.get(draft.wanted.key)
        if row is not None:
            operation = made.get(row.subject_id)
            draft.outcome = _earlier(row, operation, draft.payment, draft.wanted.key.fingerprint)
        elif draft.payment is None:
            draft.outcome = NotFound("There is no such payment.")


def _earlier(
    row: KeyRow, operation: PaymentOperation | None, payment: Payment | None, fingerprint: bytes
) -> Claimed | Problem:
    if row.fingerprint != fingerprint or payment is None:
        return IdempotencyKeyReused("The key was used for another payment or amount.")
    if operation is None or (operation.state == "INIT" and row.leased):
        return IdempotencyKeyRunning(retry_after_s=1)
    return Claimed(operation, payment, replayed=True)


async def _allow(tx: Transaction, drafts: Sequence[Draft]) -> None:
    """Lock orders and payments, and take from what is left of each, in order of arrival."""
    undecided = _undecided(drafts)
    owned = [(draft, draft.payment) for draft in undecided if draft.payment is not None]
    if not owned:
        return
    with Locked.among(undecided, drafts):
        locked = await orders.lock_orders(tx, [payment.order_key for _, payment in owned])
    now = await payments.lock_payments(tx, list({p.payment_id: p for _, p in owned}.values()))
    operations = await payment_operations.select_operations_of(tx, list(now.values()))
    voiding = {
        payment_id
        for payment_id, made in operations.items()
        if any(one.kind == "void" and one.state in UNSETTLED for one in made)
    }
    for draft, found in owned:
        payment = now[found.payment_id]
        order, is_voiding = locked.get(payment.order_key), payment.payment_id in voiding
        try:
            _check(draft.wanted, payment, order, is_voiding=is_voiding)
            draft.amount_minor = _amount(draft.wanted, payment)
        except Problem as refused:
            draft.outcome = refused
            continue
        now[payment.payment_id] = draft.payment = _reserved(payment, draft)
        if draft.wanted.kind == "void":
            voiding.add(payment.payment_id)


def _check(wanted: FollowUp, payment: Payment, order: Order | None, *, is_voiding: bool) -> None:
    """Raise OperationNotAllowed unless the payment is in a state for it."""
    if payment.state != "SUCCESS":
        raise OperationNotAllowed(f"The payment is {payment.state}.")
    if payment.voided_at is not None or is_voiding:
        raise OperationNotAllowed("The authorisation was let go, or is about to be.")
    if wanted.kind == "refund":
        return
    if payment.capture_method == "automatic":
        raise OperationNotAllowed("The money was taken when the payment was made.")
    if order is None or order.state not in ("authorized", "paid"):
        raise OperationNotAllowed("The order has ended.")
    if wanted.kind == "void" and payment.captured_minor + payment.capturing_minor > 0:
        raise OperationNotAllowed("Some of it was captured, or is about to be: refund it.")


def _amount(wanted: FollowUp, payment: Payment) -> int:
    """How much it is of, if there is so much left."""
    if wanted.currency not in (None, payment.currency):
        error: FieldError = {"field": "/amount/currency", "detail": f"it is {payment.currency}"}
        raise CurrencyMismatch(errors=[error])
    if wanted.kind == "refund":
        left_minor = payment.captured_minor - payment.refunded_minor - payment.refunding_minor
    else:
        left_minor = payment.amount_minor - payment.captured_minor - payment.capturing_minor
    amount_minor = left_minor if wanted.amount_minor is None else wanted.amount_minor
    if not 0 < amount_minor <= left_minor:
        error = {"field": "/amount/amount_minor", "detail": f"only {left_minor} left"}
        raise OperationNotAllowed(errors=[error])
    return amount_minor


def _reserved(payment: Payment, draft: Draft) -> Payment:
    sums = _sums(draft)
    return payment._replace(
        capturing_minor=payment.capturing_minor + sums.capturing_minor,
        refunding_minor=payment.refunding_minor + sums.refunding_minor,
    )


def _sums(draft: Draft) -> Sums:
    match draft.wanted.kind:
        case "capture":
            return Sums(capturing_minor=draft.amount_minor)
        case "refund":
            return Sums(refunding_minor=draft.amount_minor)
        case "void":
            return Sums()


async def _insert(tx: Transaction, drafts: Sequence[Draft], lease: timedelta) -> None:
    """Reserve the sums, make the operations, tell of them, and note the keys."""
    allowed = [(draft, draft.payment) for draft in _undecided(drafts) if draft.payment is not None]
    if not allowed:
        return
    await payments.add_sums(tx, [(payment, _sums(draft)) for draft, payment in allowed])
    new = [NewOperation(payment, d.wanted.kind, d.amount_minor) for d, payment in allowed]
    made = await payment_operations.insert_operations(tx, new, first_check=lease)
    keys, events = [], []
    for (draft, payment), operation in zip(allowed, made, strict=True):
        draft.outcome = Claimed(operation, payment, replayed=False)
        keys.append(NewKey(draft.wanted.key, operation.operation_id))
        told = {
            "operation_id": str(operation.operation_id),
            "amount_minor": operation.amount_minor,
            "reason": draft.wanted.reason,
        }
        events.append(Event(f"{operation.kind}_requested", str(payment.payment_id), told))
    await insert_events(tx, events)
    with Locked.among([draft for draft, _ in allowed], drafts):
        await idempotency.insert_keys(tx, keys, lease)
