"""Carts: lines that are chosen, at the prices of now, until an order is made of them.

A cart holds nothing. What an order is made of is decided by its version (cart_versions.py), in the
transaction that places the order (placing.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.documents import cart_document
from services.business.guests import guest_cookie
from services.business.owners import owner_of_cart
from services.business.requests import find_customer, read_id, read_json
from services.business.schemas import LINES_MAX, CartLineRequest, CartRequest
from services.business.shop import Shop
from services.data import carts, customers, orders
from services.data.carts import Cart, CartKey
from services.data.session import current_session
from services.data.sources import Transaction
from services.data.stock import Quantity
from services.problems import CartFull, CartOrdered, FieldError, NotFound, UnknownVariant


async def create_cart(shop: Shop, request: Request) -> Response:
    """POST /carts: a new cart, with lines or empty; who is nobody yet becomes a guest."""
    wanted, _ = await read_json(request, CartRequest)
    lines = [Quantity(line.variant_id, line.quantity) for line in wanted.lines]
    customer_id = find_customer(request)
    token = secrets.token_urlsafe(32) if customer_id is None else None
    cart = await open_cart(shop, customer_id, token, lines)
    session = current_session.get()
    if session is not None:
        session.customer_id = cart.customer_id
    headers = {"location": f"/carts/{cart.cart_id}"}
    if token is not None:
        headers["set-cookie"] = guest_cookie(shop, token)
    return document(cart_document(cart, customer_token=token), 201, headers)


async def show_cart(shop: Shop, request: Request) -> Response:
    """GET /carts/{cart_id}: a cart of the customer's own, at the prices of now."""
    cart = await carts.select_own_cart(shop.database.own, await _key(shop, request))
    if cart is None:
        raise NotFound("There is no such cart.")
    return document(cart_document(cart))


async def put_cart_line(shop: Shop, request: Request) -> Response:
    """PUT /carts/{cart_id}/lines/{variant_id}: set how many of a variant are in it."""
    key, variant_id = await _key(shop, request), read_id(request, "variant_id")
    wanted, _ = await read_json(request, CartLineRequest)
    cart = await change_line(shop, key, Quantity(variant_id, wanted.quantity))
    return document(cart_document(cart))


async def delete_cart_line(shop: Shop, request: Request) -> Response:
    """DELETE /carts/{cart_id}/lines/{variant_id}: take a variant out; it need not be in."""
    key, variant_id = await _key(shop, request), read_id(request, "variant_id")
    return document(cart_document(await change_line(shop, key, Quantity(variant_id, 0))))


async def open_cart(
    shop: Shop, customer_id: UUID | None, token: str | None, lines: list[Quantity]
) -> Cart:
    """A new cart; without a customer of a new guest, who is known by the token."""
    async with shop.database.primary.transaction() as tx:
        await _check_for_sale(tx, lines)
        if customer_id is None:
            (customer_id,) = (await customers.insert_guests(tx, [token or ""])).values()
        return await _shown(tx, await carts.insert_cart(tx, customer_id, lines))


async def change_line(shop: Shop, key: CartKey, line: Quantity) -> Cart:
    """Set how many of a variant are in a cart, or take it out where the quantity is 0.

    Raises NotFound, CartOrdered, CartFull, UnknownVariant.
    """
    async with shop.database.primary.transaction() as tx:
        state = await carts.lock_cart(tx, key)
        if state is None:
            raise NotFound("There is no such cart.")
        if state != "open":
            raise CartOrdered
        if line.quantity == 0:
            await carts.delete_line(tx, key, line.variant_id)
        else:
            await _check_for_sale(tx, [line], pointer=lambda _: "variant_id")
            if await carts.count_other_lines(tx, key, line.variant_id) >= LINES_MAX:
                raise CartFull(f"It has {LINES_MAX} lines.")
            await carts.put_line(tx, key, line)
        return await _shown(tx, key)


async def _shown(tx: Transaction, key: CartKey) -> Cart:
    return (await carts.select_carts(tx, [key]))[key]


async def _check_for_sale(
    tx: Transaction,
    lines: list[Quantity],
    pointer: Callable[[int], str] = lambda number: f"/lines/{number}/variant_id",
) -> None:
    articles = await orders.select_articles(tx, [line.variant_id for line in lines])
    errors: list[FieldError] = [
        {"field": pointer(number), "detail": "is not for sale"}
        for number, line in enumerate(lines)
        if line.variant_id not in articles
    ]
    if errors:
        raise UnknownVariant(errors=errors)


async def _key(shop: Shop, request: Request) -> CartKey:
    cart_id = read_id(request, "cart_id")
    return CartKey(await owner_of_cart(shop, request, cart_id), cart_id)
