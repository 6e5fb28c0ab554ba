"""Flash sales: an operator sets one up, everybody may look at it, customers claim units of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document, json_bytes, render
from services.business.documents import flash_sale_document
from services.business.operations import Operation
from services.business.orders import fingerprint
from services.business.owners import owner_of_key
from services.business.placing import TOTAL_MAX_MINOR
from services.business.requests import (
    read_customer,
    read_id,
    read_idempotency_key,
    read_json,
)
from services.business.roles import check_operator
from services.business.sale_claims import CLAIM_UNITS, NewClaim
from services.business.schemas import FlashSaleClaimRequest, FlashSaleRequest
from services.business.shop import Shop
from services.data import flash_sales, idempotency, orders
from services.data.customers import OPERATOR
from services.data.flash_sales import NewSale
from services.data.idempotency import Key, NewKey
from services.problems import (
    CurrencyMismatch,
    IdempotencyKeyReused,
    InvalidBody,
    NotFound,
    Problem,
    UnknownVariant,
)

# A sale is made in one transaction, so its key is never seen running; the lease is a formality.
SALE_LEASE: Final = timedelta(seconds=10)


class Wanted(NamedTuple):
    """A sale that an operator wants, under a key of his."""

    sale: NewSale
    key: Key


class Made(NamedTuple):
    """The answer about a sale that was made. replayed: by an earlier request with this key."""

    flash_sale_id: UUID
    body: bytes
    replayed: bool


async def create_flash_sale(shop: Shop, request: Request) -> Response:
    """POST /flash-sales: set up a sale of one variant: window, units, limit a customer, price."""
    check_operator(request)
    key = read_idempotency_key(request)
    wanted, body = await read_json(request, FlashSaleRequest)
    _check(wanted)
    sale = NewSale(
        wanted.variant_id,
        wanted.opens_at,
        wanted.closes_at,
        wanted.quantity,
        wanted.customer_limit,
        wanted.unit_price.amount_minor,
        wanted.unit_price.currency,
    )
    stored = Key(OPERATOR, "create_flash_sale", key, fingerprint("", body))
    made = await shop.join(MAKE_SALES, Wanted(sale, stored))
    return _created(made.body, f"/flash-sales/{made.flash_sale_id}", replayed=made.replayed)


async def show_flash_sale(shop: Shop, request: Request) -> Response:
    """GET /flash-sales/{flash_sale_id}: a sale and how many units are left.

    Read from a standby that keeps up, and held by no cache.
    """
    sale = await flash_sales.select_sale(shop.database.reads, read_id(request, "flash_sale_id"))
    if sale is None:
        raise NotFound("There is no such flash sale.")
    return document(flash_sale_document(sale))


async def create_claim(shop: Shop, request: Request) -> Response:
    """POST /flash-sales/{flash_sale_id}/claims: an order at the sale's price, held like any other.

    For customers who are known: the limit is theirs.
    """
    read_customer(request)
    sale_id, key = read_id(request, "flash_sale_id"), read_idempotency_key(request)
    customer_id = await owner_of_key(shop, request, "claim_flash_sale", key)
    wanted, body = await read_json(request, FlashSaleClaimRequest)
    claim = NewClaim(
        customer_id, sale_id, wanted.quantity, key, fingerprint(f"flash-sales/{sale_id}", body)
    )
    placed = await shop.join(CLAIM_UNITS, claim)
    return _created(placed.body, f"/orders/{placed.order_id}", replayed=placed.replayed)


async def make_sales(shop: Shop, rows: Sequence[Wanted], _: bool) -> list[Made | Exception]:
    """Make each sale in a transaction of its own; what is refused burns no key."""
    return [await _make(shop, row) for row in rows]


MAKE_SALES: Final = Operation(
    "create_flash_sale",
    make_sales,
    key_of=lambda row: row.key[:3],
    repeated=lambda made: made._replace(replayed=True),
    rows_max=1,  # operators are few
)


def _check(wanted: FlashSaleRequest) -> None:
    """What the fields do not say one by one."""
    if wanted.closes_at <= wanted.opens_at:
        detail = "has to be after opens_at"
        raise InvalidBody(errors=[{"field": "/closes_at", "detail": detail}])
    if wanted.customer_limit * wanted.unit_price.amount_minor > TOTAL_MAX_MINOR:
        detail = f"takes an order of customer_limit units above {TOTAL_MAX_MINOR} minor units"
        raise InvalidBody(errors=[{"field": "/unit_price/amount_minor", "detail": detail}])


async def _make(shop: Shop, wanted: Wanted) -> Made | Problem:
    async with shop.database.primary.transaction() as tx:
        earlier = await idempotency.select_keys(tx, [wanted.key])
        if wanted.key in earlier:
            return _replay(earlier[wanted.key], wanted.key)
        articles = await orders.select_articles(tx, [wanted.sale.variant_id])
        refusal = _refusal(wanted.sale, articles.get(wanted.sale.variant_id))
        if refusal is not None:
            return refusal
        (sale,) = await flash_sales.insert_sales(tx, [wanted.sale])
        body = render(flash_sale_document(sale))
        key = NewKey(wanted.key, sale.flash_sale_id, (201, body))
        await idempotency.insert_keys(tx, [key], SALE_LEASE)
    return Made(sale.flash_sale_id, body, replayed=False)


def _refusal(sale: NewSale, article: orders.Article | None) -> Problem | None:
    if article is None:
        return UnknownVariant(errors=[{"field": "/variant_id", "detail": "is not for sale"}])
    if article.currency != sale.currency:
        detail = f"the goods are sold in {article.currency}"
        return CurrencyMismatch(errors=[{"field": "/unit_price/currency", "detail": detail}])
    return None


def _replay(row: idempotency.KeyRow, key: Key) -> Made | Problem:
    if row.fingerprint != key.fingerprint or row.response_body is None:
        return IdempotencyKeyReused("The key was used with another body.")
    return Made(row.subject_id, row.response_body, replayed=True)


def _created(body: bytes, location: str, *, replayed: bool) -> Response:
    headers = {"cache-control": "no-store", "location": location}
    if replayed:
        headers["idempotent-replayed"] = "true"
    return json_bytes(body, 201, headers)
