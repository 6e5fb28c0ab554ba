"""A rendered page as it is cached: bytes ready to send, and the tags that make it old."""

from __future__ import annotations

from hashlib import blake2b

import msgspec


class Page(msgspec.Struct, frozen=True):
    """body is what clients get; etag identifies it; degraded pages are not held."""

    body: bytes
    etag: str
    tags: list[str]
    degraded: bool = False


def page(body: bytes, tags: list[str], *, degraded: bool = False) -> Page:
    """A page with a strong validator made from its bytes."""
    return Page(body, f'"{blake2b(body, digest_size=12).hexdigest()}"', tags, degraded)


def product_tag(product_id: object) -> str:
    return f"product-{product_id}"


def category_tag(category_slug: str) -> str:
    return f"category-{category_slug}"


PRODUCTS_TAG = "products"  # every list: something was added or changed
