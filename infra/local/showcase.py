"""Which product the lines to try name: a popular one that shows something, and can be ordered."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from infra.local.addresses import get_json

CANDIDATES: Final = 12  # of the most popular ones; each takes two requests
PLENTY: Final = 100  # the line that orders one is pasted more than once, and after restarts


async def showcase(host: str, port: int, *, tls: bool = False) -> dict[str, str]:
    """Slug, a word to search for, and the variant to order; LookupError in an empty shop."""
    items = (await get_json(host, port, f"/products?limit={CANDIDATES}", tls=tls))["items"]
    slugs = [str(item["slug"]) for item in items]
    looks = await asyncio.gather(*(_look(host, port, slug, tls=tls) for slug in slugs))
    page, variant = max(looks, key=_appeal, default=(None, None))
    if page is None or variant is None:
        raise LookupError("there are no products")
    slug = str(page["slug"])
    word = next((word for word in slug.split("-") if len(word) > 3), slug)
    return {"slug": slug, "variant_id": str(variant["variant_id"]), "word": word}


async def _look(host: str, port: int, slug: str, *, tls: bool) -> tuple[Any, Any]:
    """A product's page, and its variant with the most stock."""
    page = await get_json(host, port, f"/products/{slug}", tls=tls)
    stock = await get_json(host, port, f"/products/{slug}/stock", tls=tls)
    return page, max(stock["variants"], key=_available, default=None)


def _available(variant: Any) -> int:
    return int(variant["available"])


def _appeal(look: tuple[Any, Any]) -> tuple[bool, bool, bool, int]:
    page, variant = look
    available = _available(variant) if variant else -1
    return available >= PLENTY, len(page["variants"]) > 1, page["rating"] is not None, available
