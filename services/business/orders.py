"""Orders: placing one, holding its stock, and showing it to its owner."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document, json_bytes, render
from services.business.documents import order_document
from services.business.requests import (
    find_customer,
    read_customer,
    read_id,
    read_idempotency_key,
    read_json,
)
from services.business.schemas import OrderLineRequest, OrderRequest
from services.business.shop import Shop
from services.data import customers, idempotency, orders, payments
from services.data.idempotency import Key, KeyRow
from services.data.orders import OrderKey, OrderLine
from services.data.outbox import insert_event
from services.data.sources import Reader, Transaction
from services.data.stock import Quantity, hold_stock
from services.problems import (
    CurrencyMismatch,
    FieldError,
    IdempotencyKeyReused,
    IdempotencyKeyRunning,
    NotFound,
    OutOfStock,
    TotalTooLarge,
    UnknownVariant,
)

# An order is placed in one transaction, so its key is never seen running; the lease is a formality.
ORDER_LEASE: Final = timedelta(seconds=10)
COOKIE: Final = "tercet_customer"
# The provider charges no more at once; it is ten billion dollars.
TOTAL_MAX_MINOR: Final = 10**12


class Placed(NamedTuple):
    """An order's answer. token: of a guest that was made for it."""

    order_id: UUID
    body: bytes
    token: str | None
    replayed: bool


async def create_order(shop: Shop, request: Request) -> Response:
    """POST /orders: place an order; its prices are fixed and its stock is held for a while."""
    key = read_idempotency_key(request)
    wanted, body = await read_json(request, OrderRequest)
    placed = await place_order(shop, find_customer(request), wanted, key, fingerprint("", body))
    headers = {"cache-control": "no-store", "location": f"/orders/{placed.order_id}"}
    if placed.replayed:
        headers["idempotent-replayed"] = "true"
    if placed.token is not None:
        headers["set-cookie"] = _cookie(shop, placed.token)
    return json_bytes(placed.body, 201, headers)


async def place_order(
    shop: Shop, customer_id: UUID | None, wanted: OrderRequest, key: str, body_hash: bytes
) -> Placed:
    """One transaction: key, prices, stock, order, event. What is refused leaves nothing behind.

    Without a customer a guest is made; a key counts within one customer, so a guest's first order
    can be repeated only with the token that came with it.
    """
    token = None
    async with shop.database.primary.transaction() as tx:
        if customer_id is None:
            token = secrets.token_urlsafe(32)
            customer_id = await customers.insert_guest(tx, hashlib.sha256(token.encode()).digest())
        claimed = await idempotency.claim_key(
            tx, Key(customer_id, "place_order", key, body_hash), ORDER_LEASE
        )
        if isinstance(claimed, KeyRow):
            return _replay(claimed, body_hash)
        lines, currency = await _price_lines(tx, wanted)
        _check_total(lines)
        await _hold(tx, wanted, lines)
        order = await orders.insert_order(
            tx,
            OrderKey(customer_id, claimed),
            lines,
            currency=currency,
            hold_for=timedelta(minutes=shop.settings.hold_minutes),
        )
        await insert_event(tx, "order_placed", str(claimed), {"total_minor": order.total_minor})
        answer = render(order_document(order, lines, []))
        await idempotency.answer_key(tx, customer_id, claimed, status=201, body=answer)
    shop.changed()
    if token is not None:
        answer = render(order_document(order, lines, [], customer_token=token))
    return Placed(claimed, answer, token, replayed=False)


async def show_order(shop: Shop, request: Request) -> Response:
    """GET /orders/{order_id}: an order of the customer's own; another's is as unknown as none."""
    key = OrderKey(read_customer(request), read_id(request, "order_id"))
    # The owner has just written it: it is read where it was written.
    reader: Reader = shop.database.primary
    order = await orders.select_order(reader, key)
    if order is None:
        raise NotFound("There is no such order.")
    lines = await orders.select_lines(reader, key)
    paid = await payments.select_payments_of_order(reader, *key)
    return document(order_document(order, lines, paid))


def fingerprint(path: str, body: bytes) -> bytes:
    """What a key stands for: the path's variable part and the body, byte for byte."""
    return hashlib.sha256(path.encode() + b"\n" + body).digest()


def _replay(row: KeyRow, body_hash: bytes) -> Placed:
    if row.fingerprint != body_hash:
        raise IdempotencyKeyReused("The key was used with another body.")
    if row.response_body is None:
        raise IdempotencyKeyRunning(retry_after_s=1)
    return Placed(row.subject_id, row.response_body, None, replayed=True)


async def _price_lines(tx: Transaction, wanted: OrderRequest) -> tuple[list[OrderLine], str]:
    """The lines with titles and prices of now, and the one currency they share."""
    articles = await orders.select_articles(tx, [line.variant_id for line in wanted.lines])
    unknown = [
        _line_error(number, "variant_id", "is not for sale")
        for number, line in enumerate(wanted.lines)
        if line.variant_id not in articles
    ]
    if unknown:
        raise UnknownVariant(errors=unknown)
    currencies = {article.currency for article in articles.values()}
    if len(currencies) > 1:
        raise CurrencyMismatch("The lines are sold in several currencies: order them apart.")
    currency = currencies.pop()
    if wanted.currency not in (None, currency):
        error: FieldError = {"field": "/currency", "detail": f"the goods are sold in {currency}"}
        raise CurrencyMismatch(errors=[error])
    return [_order_line(line, articles[line.variant_id]) for line in wanted.lines], currency


def _check_total(lines: list[OrderLine]) -> None:
    """Refuse an order of more than TOTAL_MAX_MINOR; without the lines named it would be taken."""
    total_minor, errors = 0, list[FieldError]()
    for number, line in enumerate(lines):
        amount_minor = line.quantity * line.unit_price_minor
        if total_minor + amount_minor <= TOTAL_MAX_MINOR:
            total_minor += amount_minor
        else:
            detail = f"takes the total above {TOTAL_MAX_MINOR} minor units"
            errors.append(_line_error(number, "quantity", detail))
    if errors:
        raise TotalTooLarge(errors=errors)


async def _hold(tx: Transaction, wanted: OrderRequest, lines: list[OrderLine]) -> None:
    shortages = await hold_stock(tx, [Quantity(line.variant_id, line.quantity) for line in lines])
    if not shortages:
        return
    numbers = {line.variant_id: number for number, line in enumerate(wanted.lines)}
    errors = [
        _line_error(numbers[short.variant_id], "quantity", f"only {short.available} available")
        for short in shortages
    ]
    raise OutOfStock(errors=errors)


def _order_line(line: OrderLineRequest, article: orders.Article) -> OrderLine:
    return OrderLine(line.variant_id, article.title, line.quantity, article.price_minor)


def _line_error(number: int, field: str, detail: str) -> FieldError:
    return {"field": f"/lines/{number}/{field}", "detail": detail}


def _cookie(shop: Shop, token: str) -> str:
    max_age_s = int(customers.GUEST_TOKEN_LIFETIME.total_seconds())
    secure = "; Secure" if shop.settings.cookie_secure else ""
    return f"{COOKIE}={token}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"
