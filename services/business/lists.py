"""Lists: products by page, the search with its cursors, and the categories."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import cached_page, encode
from services.business.documents import Json, category_list, list_item
from services.business.requests import read_position, read_query
from services.business.schemas import ListQuery
from services.business.shop import Shop
from services.data.pages import PRODUCTS_TAG, Page, category_tag, page
from services.data.products import category_exists, select_categories
from services.data.search import After, Filters, Hit, Match, Sort, SortValue, select_hits
from services.data.sources import Reader
from services.problems import FieldError, InvalidRequest, NotFound

LIST_CACHE_CONTROL: Final = (
    "public, max-age=0, s-maxage=5, stale-while-revalidate=30, stale-if-error=86400"
)


async def show_products(shop: Shop, request: Request) -> Response:
    """GET /products: products by page, filtered, sorted or searched."""
    query = read_query(request, ListQuery)
    sort = _sort(query)
    key = _list_key(query, sort)
    after, match = _read_cursor(query, sort)

    async def load(reader: Reader) -> tuple[Page, Sequence[str]] | None:
        found = await _list_products(reader, query, sort, after, match)
        tags = [PRODUCTS_TAG] if query.category is None else [category_tag(query.category)]
        return page(encode(found), tags), tags

    found = await shop.lists.get(key, load, needed=read_position(request))
    if found is None:
        raise NotFound
    shop.held.learn(request, shop.lists, key, LIST_CACHE_CONTROL)
    return cached_page(request, found, LIST_CACHE_CONTROL)


async def show_categories(shop: Shop, request: Request) -> Response:
    """GET /categories: all categories, with how many products each has."""

    async def load(reader: Reader) -> tuple[Page, Sequence[str]] | None:
        rows = await select_categories(reader)
        return page(encode(category_list(rows)), [PRODUCTS_TAG]), [PRODUCTS_TAG]

    found = await shop.lists.get("categories", load, needed=read_position(request))
    if found is None:
        raise NotFound
    shop.held.learn(request, shop.lists, "categories", LIST_CACHE_CONTROL)
    return cached_page(request, found, LIST_CACHE_CONTROL)


async def _list_products(
    reader: Reader, query: ListQuery, sort: Sort, after: After | None, match: Match
) -> Json:
    """A ProductListDocument."""
    filters = Filters(query.q, query.category, query.min_price, query.max_price)
    limit = query.limit + 1  # one more tells whether there is a next page
    hits = await select_hits(reader, filters, sort=sort, match=match, after=after, limit=limit)
    if not hits and after is None and query.q is not None:
        match = "similar"
        hits = await select_hits(reader, filters, sort=sort, match=match, after=None, limit=limit)
    if not hits and query.category is not None:
        await _check_category(reader, query.category)
    shown = hits[: query.limit]
    more = len(hits) > query.limit
    return {
        "items": [list_item(hit.item) for hit in shown],
        "match": "all" if query.q is None else match,
        "next_cursor": _write_cursor(query, sort, match, shown[-1]) if more else None,
    }


async def _check_category(reader: Reader, slug: str) -> None:
    if not await category_exists(reader, slug):
        raise _wrong("category", "there is no such category")


def _sort(query: ListQuery) -> Sort:
    if query.sort == "relevance" and query.q is None:
        raise _wrong("sort", "relevance needs q")
    if (
        query.min_price is not None
        and query.max_price is not None
        and query.min_price > query.max_price
    ):
        raise _wrong("min_price", "is above max_price")
    return query.sort or ("popular" if query.q is None else "relevance")


def _list_key(query: ListQuery, sort: Sort) -> str:
    """One key for all spellings of the same list."""
    values = [query.q, query.category, query.min_price, query.max_price, sort, query.cursor]
    return blake2b(orjson.dumps([*values, query.limit]), digest_size=16).hexdigest()


def _cursor_scope(query: ListQuery, sort: Sort) -> str:
    """What a cursor belongs to: the same list with the same order."""
    values = [query.q, query.category, query.min_price, query.max_price, sort]
    return blake2b(orjson.dumps(values), digest_size=6).hexdigest()


def _write_cursor(query: ListQuery, sort: Sort, match: Match, last: Hit) -> str:
    values = [_cursor_scope(query, sort), match, last.sort_value, str(last.item.product_id)]
    return base64.urlsafe_b64encode(orjson.dumps(values)).rstrip(b"=").decode()


def _read_cursor(query: ListQuery, sort: Sort) -> tuple[After | None, Match]:
    if query.cursor is None:
        return None, "words"
    try:
        padded = query.cursor + "=" * (-len(query.cursor) % 4)
        scope, match, value, product_id = orjson.loads(base64.urlsafe_b64decode(padded))
        if scope != _cursor_scope(query, sort) or match not in ("words", "similar"):
            raise ValueError(scope)
        return After(_sort_value(value, sort), UUID(product_id)), match
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        raise _wrong("cursor", "is not one of this list; take next_cursor as it is") from None


def _sort_value(value: object, sort: Sort) -> SortValue:
    """What a row was sorted by, as the database takes it; anybody can write a cursor."""
    if sort == "newest":
        moment = datetime.fromisoformat(str(value))
        # Others have no form in UTC, or none in the database; no product is from then either.
        if moment.tzinfo is None or not 2000 <= moment.year <= 2999:
            raise ValueError(value)
        return moment
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(value)
    if sort in ("price", "-price"):
        if not isinstance(value, int) or not 0 <= value < 2**63:
            raise ValueError(value)
        return value
    return float(value)


def _wrong(field: str, detail: str) -> InvalidRequest:
    error: FieldError = {"field": field, "detail": detail}
    return InvalidRequest(errors=[error])
