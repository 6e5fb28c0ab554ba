"""Placing: orders of all who order at the moment, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from services.business.answers import render
from services.business.cart_versions import cart_version
from services.business.documents import cart_document, order_document
from services.business.operations import Operation
from services.business.schemas import LINES_MAX, OrderRequest
from services.business.shop import Shop
from services.data import carts, customers, idempotency, orders
from services.data.batch import Locked
from services.data.carts import Cart, CartKey
from services.data.idempotency import Key, KeyRow, NewKey
from services.data.orders import Order, OrderLine
from services.data.outbox import Event, insert_events
from services.data.sources import Transaction
from services.data.stock import Quantity, Shortage, hold_stock
from services.problems import (
    CartChanged,
    CartEmpty,
    CartOrdered,
    CurrencyMismatch,
    FieldError,
    IdempotencyKeyReused,
    IdempotencyKeyRunning,
    NotFound,
    OutOfStock,
    Problem,
    TotalTooLarge,
    UnknownVariant,
)

# An order is placed in one transaction, so its key is never seen running; the lease is a formality.
ORDER_LEASE: Final = timedelta(seconds=10)
LINE_BYTES: Final = 300  # a line with its title, and its hold
# The provider charges no more at once; it is ten billion dollars.
TOTAL_MAX_MINOR: Final = 10**12
NOBODY: Final = UUID(int=0)


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


def _order_line(article: orders.Article, quantity: int) -> OrderLine:
    return OrderLine(article.variant_id, article.title, quantity, article.price_minor)


def _line_error(number: int, field: str, detail: str) -> FieldError:
    return {"field": f"/lines/{number}/{field}", "detail": detail}
