"""The states of an order: which moves there are, and the one way in which an order moves.

placed -> authorized -> paid -> refunded
placed -> paid
placed, authorized -> cancelled
placed -> expired
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from services.data import orders
from services.data.flash_sales import return_claims
from services.data.orders import OrderKey
from services.data.sources import Transaction
from services.data.stock import Basket, release_stock

State = Literal["placed", "authorized", "paid", "refunded", "cancelled", "expired"]
Cause = Literal[
    "payment_authorized",
    "payment_captured",
    "payment_refunded",
    "payment_voided",
    "cancelled_by_customer",
    "not_paid_in_time",
]

# From where an order comes to a state. It is placed by being inserted.
COMES_FROM: Final[dict[State, frozenset[State]]] = {
    "authorized": frozenset({"placed"}),
    "paid": frozenset({"placed", "authorized"}),
    "refunded": frozenset({"paid"}),
    "cancelled": frozenset({"placed", "authorized"}),
    "expired": frozenset({"placed"}),
}


async def move_orders(
    tx: Transaction, keys: Sequence[OrderKey], to: State, cause: Cause
) -> list[OrderKey]:
    """Move orders that may move there, with a line in their history and an event `order_{to}` each.

    Returns those that moved. They are locked by the caller before it decides (lock_orders).
    """
    return await orders.update_states(tx, keys, sorted(COMES_FROM[to]), to, cause)


async def end_orders(
    tx: Transaction,
    given_back: Mapping[OrderKey, Basket],
    to: Literal["cancelled", "expired"],
    cause: Cause,
    *,
    patient: bool = True,
) -> None:
    """Give the stock of orders that end unpaid back, units of sales too, and move them there.

    Raises Locked.

    given_back: what their holds were of; the holds themselves are over already.
    """
    if given_back:
        await return_claims(tx, list(given_back))
        await release_stock(tx, list(given_back.values()), patient=patient)
        await move_orders(tx, list(given_back), to, cause)
