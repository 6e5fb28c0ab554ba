"""Products: what the page, the lists and the search read."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

import msgspec

from services.data.sources import Reader


class Image(msgspec.Struct, frozen=True):
    url: str
    alt: str


class Product(msgspec.Struct, frozen=True):
    """The content of a page, without prices and stock."""

    product_id: UUID
    slug: str
    title: str
    description_html: str
    vendor: str
    category_slug: str | None
    category_title: str | None
    tags: list[str]
    option_names: list[str]
    images: list[Image]


class Offer(NamedTuple):
    """A variant on sale; prices in minor units of currency."""

    variant_id: UUID
    title: str
    sku: str
    option_values: list[str]
    currency: str
    price_minor: int
    compare_at_minor: int | None
    image_url: str | None


class Rating(NamedTuple):
    """Stars from 1 to 5: how many were given, and their sum."""

    rating_count: int
    rating_sum: int


class ListItem(NamedTuple):
    """A product in a list; price_from_minor is the lowest price of its variants."""

    product_id: UUID
    slug: str
    title: str
    vendor: str
    category_slug: str | None
    currency: str
    price_from_minor: int
    image_url: str | None


class Category(NamedTuple):
    category_slug: str
    title: str
    product_count: int


# Statements for pages have the slugs that are asked for as their first column (see ByKey).
SELECT_PRODUCT = """
    select p.slug as asked, p.product_id, p.slug, p.title, p.description_html, p.vendor,
        p.category_slug, c.title as category_title, p.tags, p.option_names,
        array(select i.url from product_images i
            where i.product_id = p.product_id order by i.position) as image_urls,
        array(select i.alt from product_images i
            where i.product_id = p.product_id order by i.position) as image_alts
    from products p left join categories c using (category_slug)
    where p.slug = any($1::text[]) and p.published
"""

SELECT_OFFERS = """
    select p.slug, v.variant_id, v.title, v.sku, v.option_values, v.currency, v.price_minor,
        v.compare_at_minor, v.image_url
    from products p join variants v using (product_id)
    where p.slug = any($1::text[]) and p.published and v.retired_at is null
    order by v.position, v.variant_id
"""

SELECT_RATING = """
    select p.slug, r.rating_count, r.rating_sum
    from products p join product_ratings r using (product_id) where p.slug = any($1::text[])
"""

SELECT_RELATED = """
    select asked.slug, near.* from unnest($1::text[]) as asked (slug)
    cross join lateral (
        select p.product_id, p.slug, p.title, p.vendor, p.category_slug, p.currency,
            p.price_from_minor,
            (select i.url from product_images i
                where i.product_id = p.product_id order by i.position limit 1) as image_url
        from products o join related_products r on r.product_id = o.product_id
            join products p on p.product_id = r.related_product_id
        where o.slug = asked.slug and p.published
        order by r.position limit 12
    ) near
"""

SELECT_CATEGORIES = """
    select c.category_slug, c.title, count(p.product_id) as product_count
    from categories c left join products p on p.category_slug = c.category_slug and p.published
    group by c.category_slug, c.title order by c.title, c.category_slug
"""

CATEGORY_EXISTS = "select exists (select from categories where category_slug = $1)"


async def select_product(reader: Reader, slug: str) -> Product | None:
    rows = await reader.find(SELECT_PRODUCT, slug)
    if not rows:
        return None
    fields = dict(rows[0])
    del fields["asked"]
    images = zip(fields.pop("image_urls"), fields.pop("image_alts"), strict=True)
    return Product(**fields, images=[Image(url, alt) for url, alt in images])


async def select_offers(reader: Reader, slug: str) -> list[Offer]:
    """The variants on sale, in their order on the page."""
    return [Offer(*row[1:]) for row in await reader.find(SELECT_OFFERS, slug)]


async def select_rating(reader: Reader, slug: str) -> Rating | None:
    rows = await reader.find(SELECT_RATING, slug)
    return Rating(*rows[0][1:]) if rows else None


async def select_related(reader: Reader, slug: str) -> list[ListItem]:
    return [ListItem(*row[1:]) for row in await reader.find(SELECT_RELATED, slug)]


async def select_categories(reader: Reader) -> list[Category]:
    return [Category(*row) for row in await reader.fetch(SELECT_CATEGORIES)]


async def category_exists(reader: Reader, category_slug: str) -> bool:
    return bool(await reader.fetchval(CATEGORY_EXISTS, category_slug))
