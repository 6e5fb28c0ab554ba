"""Synthetic products for a benchmark of the data tier: as many as wanted, in seconds."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from loadtests.data_stack import DataStack

# No read by key uses them, and filling them takes most of the time of a million products.
DROP_SEARCH: Final = """
    drop index if exists products_search_vector_idx;
    drop index if exists products_title_trgm_idx
"""
# A product with a page of about 1 KB, an image and one variant, of which so many are in stock.
FILL: Final = """
    with new as (
        insert into products (slug, title, description_html, vendor, source, source_id,
            content_sha256, currency, price_from_minor)
        select 'bench-' || n, 'Product ' || n, '<p>' || repeat('Some words of it. ', 40) || '</p>',
            'Vendor ' || n % 100, 'generated', 'bench-' || n, decode(md5(n::text), 'hex'), 'USD',
            1999
        from generate_series($1::bigint, $2::bigint) n returning product_id, slug
    ), images as (
        insert into product_images (product_id, position, url)
        select product_id, 1, '/pictures/' || slug || '.svg' from new
    ), sold as (
        insert into variants (product_id, variant_key, position, title, currency, price_minor)
        select product_id, '1', 1, '', 'USD', 1999 from new returning variant_id
    ), stocked as (
        insert into stock (variant_id, received, available) select variant_id, $3, $3 from sold
    )
    select variant_id from sold
"""
AT_ONCE: Final = 50_000  # rows of a statement: some seconds each
TAKEN: Final = "select count(*) from products where slug like 'bench-%'"


async def fill(stack: DataStack, products: int, *, available: int = 1000) -> list[UUID]:
    """Add so many products, with slugs bench-1, bench-2, …; returns their variants."""
    variants: list[UUID] = []
    async with stack.owner() as owner:
        first = await owner.fetchval(TAKEN) + 1
        for begin in range(first, first + products, AT_ONCE):
            end = min(begin + AT_ONCE, first + products) - 1
            rows = await owner.fetch(FILL, begin, end, available, timeout=300)
            variants += [row["variant_id"] for row in rows]
        await owner.execute("analyze products, product_images, variants, stock")
    return variants


async def drop_search(stack: DataStack) -> None:
    async with stack.owner() as owner:
        await owner.execute(DROP_SEARCH)
