"""A product as an import or the generator hands it over, and the rows it becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import orjson

# Part of every content hash. Raise it when the same file would now be stored differently
# (say, a stricter sanitiser): the next import then writes every product again.
CONTENT_VERSION: Final = 1


class Variant(NamedTuple):
    """One thing that can be bought; amounts in minor units of the product's currency."""

    variant_key: str
    title: str
    sku: str
    barcode: str
    option_values: tuple[str, ...]
    price_minor: int
    compare_at_minor: int | None
    image_url: str | None
    weight_grams: int | None
    quantity: int  # used where the variant is new, and never again
    variant_id: UUID | None = None


VARIANT_CONTENT: Final = Variant._fields.index("quantity")  # fields before this one are content


class Image(NamedTuple):
    url: str
    alt: str


class Category(NamedTuple):
    category_slug: str
    title: str


class Rating(NamedTuple):
    rating_count: int
    rating_sum: int


@dataclass(slots=True, kw_only=True)
class Product:
    """A product with everything of its own. Ids, rating and related ones only where generated."""

    source: str
    source_id: str
    slug: str
    title: str
    description_html: str
    vendor: str
    category: Category | None
    tags: list[str]
    option_names: list[str]
    published: bool
    currency: str
    search_text: str
    variants: list[Variant]
    images: list[Image]
    line: int = 0
    product_id: UUID | None = None
    created_at: datetime | None = None
    popularity: float = 0.0
    rating: Rating | None = None
    related_product_ids: list[UUID] = field(default_factory=list)

    @property
    def price_from_minor(self) -> int:
        return min(variant.price_minor for variant in self.variants)

    def content_sha256(self) -> bytes:
        """Hash of all that an import would write again if it had changed: no quantities, no ids."""
        content = (
            CONTENT_VERSION,
            self.title,
            self.description_html,
            self.vendor,
            tuple(self.category or ()),
            self.tags,
            self.option_names,
            self.published,
            self.currency,
            [variant[:VARIANT_CONTENT] for variant in self.variants],
            [tuple(image) for image in self.images],
        )
        return hashlib.sha256(orjson.dumps(content)).digest()
