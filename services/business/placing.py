"""Placing: orders of all who order at the moment, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.business.cart_versions import cart_version
from services.business.documents import cart_document
from services.business.drafts import Draft, Placed, find_earlier, insert_drafts, still_undecided
from services.business.operations import Operation
from services.business.schemas import LINES_MAX, OrderRequest
from services.business.shop import Shop
from services.data import carts, idempotency, orders
from services.data.batch import Locked
from services.data.carts import Cart, CartKey
from services.data.orders import OrderLine
from services.data.sources import Transaction
from services.data.stock import Quantity, Shortage, hold_stock
from services.problems import (
    CartChanged,
    CartEmpty,
    CartOrdered,
    CurrencyMismatch,
    FieldError,
    NotFound,
    OutOfStock,
    Problem,
    TotalTooLarge,
    UnknownVariant,
)

LINE_BYTES: Final = 300  # a line with its title, and its hold
# The provider charges no more at once; it is ten billion dollars.
TOTAL_MAX_MINOR: Final = 10**12
NOBODY: Final = UUID(int=0)


class NewOrder(NamedTuple):
    """An order as it was asked for. token: of the guest to be made, where there is no customer."""

    customer_id: UUID | None
    token: str | None
    wanted: OrderRequest
    key: str
    fingerprint: bytes

    @property
    def operation(self) -> idempotency.Operation:
        return "place_order"


async def place_orders(
    shop: Shop, rows: Sequence[NewOrder], patient: bool
) -> list[Placed | Exception]:
    """One transaction for all rows: keys, prices, stock, orders, events; whoever came first wins.

    All that can be refused is decided before anything is written.
    """
    drafts = [Draft(row) for row in rows]
    async with shop.database.primary.transaction() as tx:
        await find_earlier(tx, drafts)
        await _open_carts(tx, drafts)
        await _price_lines(tx, drafts)
        await _hold_stock(tx, drafts, patient=patient)
        await insert_drafts(tx, drafts, hold_for=timedelta(minutes=shop.settings.hold_minutes))
    if any(draft.order is not None for draft in drafts):
        shop.changed()
    return [draft.outcome or draft.placed() for draft in drafts]


PLACE_ORDERS: Final = Operation(
    "place_orders",
    place_orders,
    key_of=lambda row: row.customer_id and (row.customer_id, row.key),
    repeated=lambda placed: placed._replace(replayed=True),
    size_of=lambda row: LINE_BYTES * len(row.wanted.lines or range(LINES_MAX)),
)


async def _open_carts(tx: Transaction, drafts: Sequence[Draft[NewOrder]]) -> None:
    """Lock the carts that are ordered, and refuse those that are not what their customers saw.

    From here on nobody changes them, and nothing of them is read again: what was compared is what
    is ordered.
    """
    ordering = [draft for draft in still_undecided(drafts) if draft.row.wanted.cart_id is not None]
    if not ordering:
        return
    keys = [_cart_key(draft.row) for draft in ordering]
    with Locked.among(ordering, drafts):
        found = await carts.lock_carts(tx, keys)
    for draft, key in zip(ordering, keys, strict=True):
        draft.cart = found.get(key)
        draft.outcome = _cart_refusal(draft.cart, draft.row.wanted.cart_version)


def _cart_key(row: NewOrder) -> CartKey:
    """Of who is nobody yet it is one that nobody has."""
    return CartKey(row.customer_id or NOBODY, row.wanted.cart_id or NOBODY)


def _cart_refusal(cart: Cart | None, version: str | None) -> Problem | None:
    if cart is None:
        return NotFound("There is no such cart.")
    if cart.state == "ordered":
        return CartOrdered(f"It was ordered as /orders/{cart.order_id}.")
    if cart_version(cart) != version:
        return CartChanged(cart=cart_document(cart).model_dump(mode="json"))
    if not cart.lines:
        return CartEmpty()
    return None


async def _price_lines(tx: Transaction, drafts: Sequence[Draft[NewOrder]]) -> None:
    """Titles and prices of now, one currency an order, and no total that can not be paid."""
    undecided = still_undecided(drafts)
    wanted = {line.variant_id for draft in undecided for line in draft.row.wanted.lines or ()}
    articles = await orders.select_articles(tx, list(wanted)) if wanted else {}
    for draft in undecided:
        try:
            if draft.cart is not None:
                lines, sold = [line[:2] for line in draft.cart.lines], _articles_of(draft.cart)
            else:
                asked = draft.row.wanted.lines or ()
                lines, sold = [(line.variant_id, line.quantity) for line in asked], articles
            draft.lines, draft.currency = _priced(lines, sold, draft.row.wanted.currency)
            _check_total(draft.lines)
        except Problem as refused:
            draft.outcome = refused


def _articles_of(cart: Cart) -> dict[UUID, orders.Article]:
    """What is for sale of a cart, as it was compared with what its customer saw."""
    return {
        line.variant_id: orders.Article(
            line.variant_id, line.title, line.currency, line.price_minor
        )
        for line in cart.lines
        if line.for_sale
    }


def _priced(
    wanted: Sequence[tuple[UUID, int]],
    articles: Mapping[UUID, orders.Article],
    wanted_currency: str | None,
) -> tuple[list[OrderLine], str]:
    """Lines of variants and quantities, with titles and prices, and the currency they share."""
    unknown = [
        _line_error(number, "variant_id", "is not for sale")
        for number, (variant_id, _) in enumerate(wanted)
        if variant_id not in articles
    ]
    if unknown:
        raise UnknownVariant(errors=unknown)
    currencies = {articles[variant_id].currency for variant_id, _ in wanted}
    if len(currencies) > 1:
        raise CurrencyMismatch("The lines are sold in several currencies: order them apart.")
    currency = currencies.pop()
    if wanted_currency not in (None, currency):
        error: FieldError = {"field": "/currency", "detail": f"the goods are sold in {currency}"}
        raise CurrencyMismatch(errors=[error])
    return [
        _order_line(articles[variant_id], quantity) for variant_id, quantity in wanted
    ], currency


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


async def _hold_stock(tx: Transaction, drafts: Sequence[Draft[NewOrder]], *, patient: bool) -> None:
    """Hold each basket whole, in order of arrival, or refuse it."""
    undecided = still_undecided(drafts)
    baskets = [
        [Quantity(line.variant_id, line.quantity) for line in draft.lines] for draft in undecided
    ]
    with Locked.among(undecided, drafts):
        shortages = await hold_stock(tx, baskets, patient=patient) if baskets else []
    for draft, short in zip(undecided, shortages, strict=True):
        if short:
            draft.outcome = _out_of_stock(draft.lines, short)


def _out_of_stock(lines: Sequence[OrderLine], shortages: Sequence[Shortage]) -> OutOfStock:
    numbers = {line.variant_id: number for number, line in enumerate(lines)}
    errors = [
        _line_error(numbers[short.variant_id], "quantity", f"only {short.available} available")
        for short in shortages
    ]
    return OutOfStock(errors=errors)


def _order_line(article: orders.Article, quantity: int) -> OrderLine:
    return OrderLine(article.variant_id, article.title, quantity, article.price_minor)


def _line_error(number: int, field: str, detail: str) -> FieldError:
    return {"field": f"/lines/{number}/{field}", "detail": detail}
