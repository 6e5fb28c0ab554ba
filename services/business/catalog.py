"""The catalog: the product page, put together from its parts, and exact stock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import cached_page, document, encode
from services.business.documents import Part, product_document
from services.business.requests import read_position, read_slug
from services.business.schemas import StockDocument, VariantStock
from services.business.shop import Shop
from services.data.pages import Page, page, product_tag
from services.data.products import (
    ListItem,
    Offer,
    Product,
    Rating,
    select_offers,
    select_product,
    select_rating,
    select_related,
)
from services.data.sources import Reader
from services.data.stock import StockRow, select_stock
from services.problems import NotFound
from services.telemetry import logger

T = TypeVar("T")
log = logger(__name__)

# The p99 of each part is below 10 ms; a part that needs longer is not worth the page's time. The
# band sells, so it is waited for the longest.
PART_TIMEOUT_S: Final[dict[Part, float]] = {"band": 0.25, "rating": 0.15, "related": 0.15}
# Pages are purged by tag; s-maxage is the last backstop. A stale page beats none for a day.
PAGE_CACHE_CONTROL: Final = (
    "public, max-age=0, s-maxage=10, stale-while-revalidate=30, stale-if-error=86400"
)
DEGRADED_CACHE_CONTROL: Final = "public, max-age=0, s-maxage=1"


async def show_product(shop: Shop, request: Request) -> Response:
    """GET /products/{slug}: the product page.

    From process memory, from Valkey, or put together from its parts.
    """
    slug = read_slug(request)

    async def load(reader: Reader) -> tuple[Page, Sequence[str]] | None:
        found = await gather_product(reader, slug, shop.counts.left_out)
        return (found, found.tags) if found is not None else None

    found = await shop.pages.get(
        slug, load, needed=read_position(request), keep=lambda loaded: not loaded.degraded
    )
    if found is None:
        raise NotFound(f"There is no product {slug!r}.")
    if found.value.degraded:
        return cached_page(request, found, DEGRADED_CACHE_CONTROL)
    shop.held.learn(request, shop.pages, slug, PAGE_CACHE_CONTROL)
    return cached_page(request, found, PAGE_CACHE_CONTROL)


async def gather_product(
    reader: Reader, slug: str, left_out: Callable[[Part], None] = lambda _: None
) -> Page | None:
    """Fetch the parts of a page at the same time and render it; None without such a product.

    Product and prices are required. Band, rating and related products may be late or broken: they
    are left out and named in `degraded`; left_out is told of each.
    """
    parts = await _gather_parts(reader, slug)
    if parts.torn():
        parts = await _gather_parts(reader, slug)
    for part in parts.degraded:
        left_out(part)
    product = parts.product
    if product is None:
        return None
    body = product_document(
        product,
        parts.offers,
        stock=parts.stock,
        rating=parts.rating,
        related=parts.related,
        degraded=parts.degraded,
    )
    return page(encode(body), [product_tag(product.product_id)], degraded=bool(parts.degraded))


class _Parts(NamedTuple):
    product: Product | None
    offers: list[Offer]
    stock: list[StockRow]
    rating: Rating | None
    related: list[ListItem]
    degraded: list[Part]

    def torn(self) -> bool:
        """Whether a commit came between the statements: each part is a snapshot of its own.

        What a change makes old is purged; nothing purges a product that was just added.
        """
        if self.product is None:
            return False
        stocked = {row.variant_id for row in self.stock}
        unknown = any(offer.variant_id not in stocked for offer in self.offers)
        return not self.offers or (unknown and "band" not in self.degraded)


async def _gather_parts(reader: Reader, slug: str) -> _Parts:
    degraded: list[Part] = []

    async def optional(part: Part, work: Awaitable[T], fallback: T) -> T:
        try:
            async with asyncio.timeout(PART_TIMEOUT_S[part]):
                return await work
        except Exception as error:
            log.warning("page degraded", part=part, slug=slug, error=repr(error))
            degraded.append(part)
            return fallback

    no_stock: list[StockRow] = []
    no_items: list[ListItem] = []
    async with asyncio.TaskGroup() as parts:
        product = parts.create_task(select_product(reader, slug))
        offers = parts.create_task(select_offers(reader, slug))
        stock = parts.create_task(optional("band", select_stock(reader, slug), no_stock))
        rating = parts.create_task(optional("rating", select_rating(reader, slug), None))
        related = parts.create_task(optional("related", select_related(reader, slug), no_items))
    return _Parts(
        product.result(),
        offers.result(),
        stock.result(),
        rating.result(),
        related.result(),
        degraded,
    )


async def show_stock(shop: Shop, request: Request) -> Response:
    """GET /products/{slug}/stock: how many of each variant are available.

    Read from a standby that keeps up, and held by no cache.
    """
    slug = read_slug(request)
    rows = await select_stock(shop.database.reads, slug)
    # A product may have a page and nothing on sale.
    if not rows and await select_product(shop.database.reads, slug) is None:
        raise NotFound(f"There is no product {slug!r}.")
    variants = [VariantStock.model_validate(row._asdict()) for row in rows]
    return document(StockDocument(slug=slug, variants=variants))
