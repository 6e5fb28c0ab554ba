"""Drafts: orders on their way, of whoever wants one and for whatever reason, in one transaction.

What all of them share: an answer of before is found by its key, and what is left is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from services.business.answers import render
from services.business.documents import order_document
from services.data import carts, customers, idempotency, orders
from services.data.batch import Locked
from services.data.carts import Cart
from services.data.idempotency import Key, KeyRow, NewKey
from services.data.orders import Order, OrderLine
from services.data.outbox import Event, insert_events
from services.data.sources import Transaction
from services.problems import IdempotencyKeyReused, IdempotencyKeyRunning, Problem

# An order is placed in one transaction, so its key is never seen running; the lease is a formality.
ORDER_LEASE: Final = timedelta(seconds=10)


class Asked(Protocol):
    """What an order is made of, whatever else was said. token: of the guest to be made."""

    @property
    def customer_id(self) -> UUID | None: ...

    @property
    def token(self) -> str | None: ...

    @property
    def operation(self) -> idempotency.Operation: ...

    @property
    def key(self) -> str: ...

    @property
    def fingerprint(self) -> bytes: ...


A = TypeVar("A", bound=Asked)


class Placed(NamedTuple):
    """An order's answer. token: of a guest that was made for it."""

    customer_id: UUID
    order_id: UUID
    body: bytes
    token: str | None
    replayed: bool


@dataclass
class Draft(Generic[A]):
    """An order on its way. outcome: once it is decided that there will be no new order."""

    row: A
    outcome: Placed | Problem | None = None
    cart: Cart | None = None
    currency: str = ""
    lines: list[OrderLine] = field(default_factory=list)
    order: Order | None = None
    answer: bytes = b""

    @property
    def key(self) -> Key | None:
        """What the client sent; None of a guest who is not made yet."""
        row = self.row
        if row.customer_id is None:
            return None
        return Key(row.customer_id, row.operation, row.key, row.fingerprint)

    def placed(self) -> Placed:
        assert self.order is not None  # noqa: S101 - a draft without an outcome was inserted
        answer, token = self.answer, self.row.token
        if token is not None:
            events = [self.order.placing]
            answer = render(
                order_document(self.order, self.lines, [], events, customer_token=token)
            )
        return Placed(self.order.customer_id, self.order.order_id, answer, token, replayed=False)


D = TypeVar("D", bound=Draft[Any])


def still_undecided(drafts: Sequence[D]) -> list[D]:
    return [draft for draft in drafts if draft.outcome is None]


async def find_earlier(tx: Transaction, drafts: Sequence[Draft[A]]) -> None:
    """Answer what was asked for before by the answer of then."""
    keys = [draft.key for draft in drafts if draft.key is not None]
    found = await idempotency.select_keys(tx, keys)
    for draft in drafts:
        key = draft.key
        earlier = found.get(key) if key is not None else None
        if key is not None and earlier is not None:
            draft.outcome = _replay(earlier, key)


def _replay(row: KeyRow, key: Key) -> Placed | Problem:
    if row.fingerprint != key.fingerprint:
        return IdempotencyKeyReused("The key was used with another body.")
    if row.response_body is None:
        return IdempotencyKeyRunning(retry_after_s=1)
    return Placed(key.customer_id, row.subject_id, row.response_body, None, replayed=True)


async def insert_drafts(
    tx: Transaction, drafts: Sequence[Draft[A]], *, hold_for: timedelta
) -> None:
    """Write what is left to be placed: guests, orders with lines and holds, events, keys."""
    undecided = still_undecided(drafts)
    if not undecided:
        return
    owners = await _owners(tx, undecided)
    placed = await orders.insert_orders(
        tx,
        [
            orders.NewOrder(owner, draft.currency, draft.lines, draft.cart and draft.cart.cart_id)
            for owner, draft in zip(owners, undecided, strict=True)
        ],
        hold_for=hold_for,
    )
    await carts.mark_ordered(tx, [draft.cart.key for draft in undecided if draft.cart])
    keys = []
    for draft, order in zip(undecided, placed, strict=True):
        row = draft.row
        draft.order = order
        draft.answer = render(order_document(order, draft.lines, [], [order.placing]))
        key = Key(order.customer_id, row.operation, row.key, row.fingerprint)
        keys.append(NewKey(key, order.order_id, (201, draft.answer)))
    await insert_events(
        tx,
        [
            Event("order_placed", str(order.order_id), {"total_minor": order.total_minor})
            for order in placed
        ],
    )
    with Locked.among(undecided, drafts):
        await idempotency.insert_keys(tx, keys, ORDER_LEASE)


async def _owners(tx: Transaction, drafts: Sequence[Draft[A]]) -> list[UUID]:
    """Whose the orders are; who is nobody yet is made a guest."""
    tokens = [draft.row.token for draft in drafts if draft.row.token is not None]
    guests = await customers.insert_guests(tx, tokens)
    return [draft.row.customer_id or guests[draft.row.token or ""] for draft in drafts]
