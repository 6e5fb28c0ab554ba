"""Claims: the first step of paying, for all who wait to pay, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

from services.business.operations import Operation
from services.business.shop import Shop
from services.data import idempotency, orders, payments
from services.data.batch import Locked
from services.data.idempotency import Key, KeyRow, NewKey
from services.data.orders import Order, OrderKey
from services.data.payments import CaptureMethod, NewPayment, Payment
from services.data.sources import Transaction
from services.problems import (
    IdempotencyKeyReused,
    IdempotencyKeyRunning,
    NotFound,
    OrderNotPayable,
    Problem,
)


class Claim(NamedTuple):
    """Somebody wants to pay an order by a payment method, under a key of his."""

    order_key: OrderKey
    payment_method: str
    key: Key
    capture_method: CaptureMethod = "automatic"


class Paid(NamedTuple):
    """A payment; replayed: it was made by an earlier request with the same key."""

    payment: Payment
    replayed: bool


@dataclass
class Draft:
    """A claim on its way. outcome: once it is decided; order: locked, as long as it is not."""

    claim: Claim
    outcome: Paid | Problem | None = None
    order: Order | None = None

    def decided(self) -> Paid | Problem:
        assert self.outcome is not None  # noqa: S101 - the last step decides all that are left
        return self.outcome


async def claim_payments(shop: Shop, claims: Sequence[Claim], _: bool) -> list[Paid | Problem]:
    """One transaction for all claims: keys, orders, payments, holds; whoever came first pays.

    What is refused leaves nothing behind, so its key may be used again. An order that somebody
    else is working on is never waited for: it comes again a moment later.
    """
    lease = timedelta(milliseconds=shop.settings.provider_timeout_ms) + timedelta(seconds=5)
    drafts = [Draft(claim) for claim in claims]
    async with shop.database.primary.transaction() as tx:
        await _find_earlier(tx, drafts)
        await _lock_orders(tx, drafts)
        await _insert(tx, drafts, lease)
    return [draft.decided() for draft in drafts]


def _repeated(paid: Paid) -> Paid | Problem:
    """What those get who came with the same claim at the same time.

    One by one, the second would meet the payment of the first while it is under way.
    """
    return paid if paid.replayed else IdempotencyKeyRunning(retry_after_s=1)


CLAIM_PAYMENTS: Final = Operation(
    "claim_payments",
    claim_payments,
    key_of=lambda claim: claim.key[:3],
    repeated=_repeated,
)


def _undecided(drafts: Sequence[Draft]) -> list[Draft]:
    return [draft for draft in drafts if draft.outcome is None]


async def _find_earlier(tx: Transaction, drafts: Sequence[Draft]) -> None:
    """Answer keys that were used before by the payment that they made, as it stands now."""
    used = await idempotency.select_keys(tx, [draft.claim.key for draft in drafts])
    made = await payments.select_payments(
        tx, [(key.customer_id, row.subject_id) for key, row in used.items()]
    )
    for draft in drafts:
        row = used.get(draft.claim.key)
        if row is not None:
            draft.outcome = _earlier(row, made.get(row.subject_id), draft.claim.key.fingerprint)


def _earlier(row: KeyRow, payment: Payment | None, fingerprint: bytes) -> Paid | Problem:
    if row.fingerprint != fingerprint:
        return IdempotencyKeyReused("The key was used for another order or payment method.")
    if payment is None or (payment.state == "INIT" and row.leased):
        return IdempotencyKeyRunning(retry_after_s=1)
    return Paid(payment, replayed=True)


async def _lock_orders(tx: Transaction, drafts: Sequence[Draft]) -> None:
    """Keep the orders from changing, and refuse those that do not wait for money."""
    undecided = _undecided(drafts)
    with Locked.among(undecided, drafts):
        found = await orders.lock_orders(tx, [draft.claim.order_key for draft in undecided])
    for draft in undecided:
        draft.order = found.get(draft.claim.order_key)
        draft.outcome = _refusal(draft.order)


def _refusal(order: Order | None) -> Problem | None:
    if order is None:
        return NotFound("There is no such order.")
    if order.state != "placed":
        return OrderNotPayable(f"The order is {order.state}.")
    if order.hold_is_over:
        return OrderNotPayable("Its stock is not held any more: place the order again.")
    if order.total_minor == 0:
        return OrderNotPayable("There is nothing to pay.")
    return None


async def _insert(tx: Transaction, drafts: Sequence[Draft], lease: timedelta) -> None:
    """Make the payments, keep the stock for them, and note the keys."""
    undecided = _undecided(drafts)
    new = [
        NewPayment(draft.order, draft.claim.payment_method, draft.claim.capture_method)
        for draft in undecided
        if draft.order
    ]
    made = await payments.insert_payments(tx, new, first_check=lease)
    await orders.move_holds(tx, list(made), was="held", becomes="paying")
    winners, keys = [], []
    for draft in undecided:
        payment = made.pop(draft.claim.order_key, None)
        if payment is None:
            draft.outcome = OrderNotPayable("A payment of this order is under way.")
            continue
        draft.outcome = Paid(payment, replayed=False)
        winners.append(draft)
        keys.append(NewKey(draft.claim.key, payment.payment_id))
    with Locked.among(winners, drafts):
        await idempotency.insert_keys(tx, keys, lease)
