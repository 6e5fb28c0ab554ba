"""Orders: placing one, holding its stock, and showing it to its owner."""

from __future__ import annotations

import hashlib
import secrets
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document, json_bytes
from services.business.documents import order_document
from services.business.drafts import Placed
from services.business.guests import guest_cookie
from services.business.owners import owner_of_cart, owner_of_key, owner_of_order
from services.business.placing import PLACE_ORDERS, NewOrder
from services.business.requests import (
    find_customer,
    read_id,
    read_idempotency_key,
    read_json,
)
from services.business.schemas import OrderRequest
from services.business.shop import Shop
from services.data.orders import OrderKey
from services.data.own_orders import select_own_order
from services.data.session import current_session
from services.problems import NotFound


async def create_order(shop: Shop, request: Request) -> Response:
    """POST /orders: place an order; its prices are fixed and its stock is held for a while."""
    key = read_idempotency_key(request)
    wanted, body = await read_json(request, OrderRequest)
    customer_id = await _orderer(shop, request, wanted, key)
    placed = await place_order(shop, customer_id, wanted, key, fingerprint("", body))
    session = current_session.get()
    if session is not None and session.customer_id is None:
        session.customer_id = placed.customer_id
    headers = {"cache-control": "no-store", "location": f"/orders/{placed.order_id}"}
    if placed.replayed:
        headers["idempotent-replayed"] = "true"
    if placed.token is not None:
        headers["set-cookie"] = guest_cookie(shop, placed.token)
    return json_bytes(placed.body, 201, headers)


async def _orderer(shop: Shop, request: Request, wanted: OrderRequest, key: str) -> UUID | None:
    """Who orders: whose the cart is, or who used the key before; None who is nobody yet."""
    if find_customer(request) is None:
        return None
    if wanted.cart_id is not None:
        return await owner_of_cart(shop, request, wanted.cart_id)
    return await owner_of_key(shop, request, "place_order", key)


async def place_order(
    shop: Shop, customer_id: UUID | None, wanted: OrderRequest, key: str, body_hash: bytes
) -> Placed:
    """Place an order, with all others that are being placed. What is refused leaves nothing behind.

    Without a customer a guest is made; a key counts within one customer, so a guest's first order
    can be repeated only with the token that came with it.
    """
    token = secrets.token_urlsafe(32) if customer_id is None else None
    return await shop.join(PLACE_ORDERS, NewOrder(customer_id, token, wanted, key, body_hash))


async def show_order(shop: Shop, request: Request) -> Response:
    """GET /orders/{order_id}: an order of the customer's own; another's is as unknown as none."""
    order_id = read_id(request, "order_id")
    key = OrderKey(await owner_of_order(shop, request, order_id), order_id)
    found = await select_own_order(shop.database.own, key)
    if found is None:
        raise NotFound("There is no such order.")
    return document(order_document(*found))


def fingerprint(path: str, body: bytes) -> bytes:
    """What a key stands for: the path's variable part and the body, byte for byte."""
    return hashlib.sha256(path.encode() + b"\n" + body).digest()
