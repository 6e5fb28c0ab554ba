"""Cancellations: a customer gives an order back that he has not paid and is not paying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.documents import order_document
from services.business.operations import Operation
from services.business.order_states import end_orders
from services.business.owners import owner_of_order
from services.business.requests import read_id
from services.business.shop import Shop
from services.data import orders
from services.data.batch import Locked
from services.data.orders import Order, OrderKey
from services.data.own_orders import select_own_order
from services.data.session import current_session
from services.problems import NotFound, OrderNotCancellable, Problem


async def cancel_order(shop: Shop, request: Request) -> Response:
    """PUT /orders/{order_id}/cancellation: give an unpaid order back; again is no difference."""
    order_id = read_id(request, "order_id")
    key = OrderKey(await owner_of_order(shop, request, order_id), order_id)
    await shop.join(CANCEL_ORDERS, key)
    session = current_session.get()
    if session is not None:
        session.needed = max(session.needed, session.seen)  # what is read now shows it
    found = await select_own_order(shop.database.own, key)
    if found is None:
        raise NotFound("There is no such order.")
    return document(order_document(*found))


async def cancel_orders(
    shop: Shop, keys: Sequence[OrderKey], patient: bool
) -> list[Exception | None]:
    """One transaction for all keys: orders, holds, stock, histories, events.

    Under the order's lock its holds tell whether a payment is under way: then they are paying.
    """
    async with shop.database.primary.transaction() as tx:
        found = await orders.lock_orders(tx, keys)
        open_ones = [key for key, order in found.items() if order.state == "placed"]
        given_back = await orders.move_holds(tx, open_ones, was="held", becomes="released")
        with Locked.among(list(given_back), keys):
            await end_orders(tx, given_back, "cancelled", "cancelled_by_customer", patient=patient)
    if given_back:
        shop.changed()
    return [None if key in given_back else _refusal(found.get(key)) for key in keys]


CANCEL_ORDERS: Final = Operation("cancel_orders", cancel_orders, key_of=lambda key: key)


def _refusal(order: Order | None) -> Problem | None:
    """Why an order was not cancelled now; None if it had been before."""
    if order is None:
        return NotFound("There is no such order.")
    if order.state == "cancelled":
        return None
    if order.state == "placed":
        return OrderNotCancellable("A payment of it is under way.")
    return OrderNotCancellable(f"The order is {order.state}.")
