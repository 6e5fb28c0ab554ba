"""The twin's queries: a few joins on one connection of the pool, made into pydantic models."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import asyncpg

from services.business.schemas import (
    CategoryName,
    ImageDocument,
    ListItemDocument,
    ListQuery,
    Money,
    ProductDocument,
    ProductListDocument,
    RatingDocument,
    VariantDocument,
)

PRODUCT: Final = """
    select p.product_id, p.slug, p.title, p.description_html, p.vendor, p.category_slug,
        p.tags, p.option_names, c.title as category_title, r.rating_count, r.rating_sum,
        array(select i.url from product_images i
            where i.product_id = p.product_id order by i.position) as urls,
        array(select i.alt from product_images i
            where i.product_id = p.product_id order by i.position) as alts
    from products p
        left join categories c on c.category_slug = p.category_slug
        left join product_ratings r on r.product_id = p.product_id
    where p.slug = $1 and p.published
"""
VARIANTS: Final = """
    select v.variant_id, v.title, v.sku, v.option_values, v.currency, v.price_minor,
        v.compare_at_minor, v.image_url, coalesce(s.band, 'sold_out') as band
    from variants v left join stock s on s.variant_id = v.variant_id
    where v.product_id = $1 and v.retired_at is null
    order by v.position, v.variant_id
"""
ITEM: Final = """
    p.slug, p.title, p.vendor, p.category_slug, p.currency, p.price_from_minor,
        (select i.url from product_images i
            where i.product_id = p.product_id order by i.position limit 1) as image_url
"""
RELATED: Final = f"""
    select {ITEM}
    from related_products r join products p on p.product_id = r.related_product_id
    where r.product_id = $1 and p.published
    order by r.position limit 12
"""  # noqa: S608  # of constants
LIST: Final = f"""
    select {ITEM}
    from products p
    where p.published and ($1::text is null or p.category_slug = $1)
    order by p.popularity desc, p.product_id desc limit $2
"""  # noqa: S608

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


async def load_product(connection: Connection, slug: str) -> ProductDocument | None:
    row = await connection.fetchrow(PRODUCT, slug)
    if row is None:
        return None
    variants = await connection.fetch(VARIANTS, row["product_id"])
    related = await connection.fetch(RELATED, row["product_id"])
    return ProductDocument(
        product_id=row["product_id"],
        slug=row["slug"],
        title=row["title"],
        description_html=row["description_html"],
        vendor=row["vendor"],
        category=category_of(row),
        tags=row["tags"],
        option_names=row["option_names"],
        images=[
            ImageDocument(url=url, alt=alt)
            for url, alt in zip(row["urls"], row["alts"], strict=True)
        ],
        variants=[variant_of(variant) for variant in variants],
        rating=rating_of(row),
        related=[item_of(item) for item in related],
        degraded=[],
    )


async def load_list(connection: Connection, query: ListQuery) -> ProductListDocument:
    """The first page of the most popular products; no cursor, as no benchmark follows it."""
    rows = await connection.fetch(LIST, query.category, query.limit)
    return ProductListDocument(items=[item_of(row) for row in rows], match="all", next_cursor=None)


def item_of(row: asyncpg.Record) -> ListItemDocument:
    return ListItemDocument(
        slug=row["slug"],
        title=row["title"],
        vendor=row["vendor"],
        category=row["category_slug"],
        price_from=Money(amount_minor=row["price_from_minor"], currency=row["currency"]),
        image_url=row["image_url"],
    )


def variant_of(row: asyncpg.Record) -> VariantDocument:
    fields: dict[str, Any] = dict(row)
    price, compare_at = fields["price_minor"], fields["compare_at_minor"]
    return VariantDocument.model_validate(
        fields
        | {
            "price": Money(amount_minor=price, currency=fields["currency"]),
            "compare_at": None
            if compare_at is None
            else Money(amount_minor=compare_at, currency=fields["currency"]),
        }
    )


def category_of(row: asyncpg.Record) -> CategoryName | None:
    if row["category_slug"] is None:
        return None
    return CategoryName(slug=row["category_slug"], title=row["category_title"])


def rating_of(row: asyncpg.Record) -> RatingDocument | None:
    if row["rating_count"] is None:
        return None
    average = round(row["rating_sum"] / row["rating_count"], 2)
    return RatingDocument(average=average, count=row["rating_count"])
