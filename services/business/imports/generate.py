"""The generator: a believable catalog, the same for the same seed, in as much memory as a chunk.

Products come in blocks of 500. A block has a random source of its own, made from seed and block,
so it does not depend on what came before it, nor (but for the last one) on how many follow.
Only random() and getrandbits() are drawn from: those are promised to stay the same in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from random import Random
from typing import Final, TypeVar
from uuid import UUID

from services import money
from services.business.imports.goods import (
    ADJECTIVES,
    COLOURS,
    KINDS,
    LINES,
    VENDORS,
    Kind,
    Noun,
    Palette,
)
from services.business.imports.slugs import category_slug, slugify
from services.data.catalog_rows import Category, Image, Product, Rating, Variant

BLOCK_PRODUCTS: Final = 500
PRODUCTS_MAX: Final = 2**32  # as many as there are codes

FIRST_CREATED: Final = datetime(2024, 1, 1, tzinfo=UTC)
CREATED_EVERY: Final = timedelta(seconds=60)  # a million products take up the two years since

RELATED_PRODUCTS: Final = 4
SOLD_OUT_SHARE: Final = 0.05
FEW_LEFT_SHARE: Final = 0.10
FEW_LEFT_MAX: Final = 5  # the band few_left of the table stock
STOCK_MAX: Final = 400
RATED_SHARE: Final = 0.8
SALE_SHARE: Final = 0.15

# Odd numbers, so that multiplying by them modulo 2**32 gives each number its own code. The first
# is 2**32 divided by the golden ratio (Knuth's multiplicative hashing), which scatters them well.
CODE_FACTOR: Final = 2_654_435_769
SEED_FACTOR: Final = 3_266_489_917

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_KIND_OF_SHARE: Final = tuple(kind for kind in KINDS for _ in range(kind.share))
_CATEGORIES: Final = {
    kind.title: Category(category_slug(kind.title) or "", kind.title) for kind in KINDS
}

T = TypeVar("T")


def catalog(products: int, seed: int, currency: str) -> Iterator[list[Product]]:
    """Blocks of the catalog of that many products, prices in minor units of the currency."""
    for first in range(0, products, BLOCK_PRODUCTS):
        yield block(first, min(BLOCK_PRODUCTS, products - first), seed, currency)


def block(first: int, size: int, seed: int, currency: str) -> list[Product]:
    """The products numbered from `first`, a multiple of BLOCK_PRODUCTS.

    A block that is cut short draws as much as a whole one, so that a larger catalog of the same
    seed holds the same products; only what they are related to may differ.
    """
    rng = Random(seed << 32 | first // BLOCK_PRODUCTS)  # noqa: S311 - nothing secret is drawn
    created = [FIRST_CREATED + CREATED_EVERY * (first + place) for place in range(BLOCK_PRODUCTS)]
    kinds = [_pick(rng, _KIND_OF_SHARE) for _ in created]
    ids = [_uuid7(moment, rng.getrandbits(74)) for moment in created]
    alike: dict[str, list[UUID]] = {}
    for kind, product_id in zip(kinds[:size], ids, strict=False):
        alike.setdefault(kind.title, []).append(product_id)
    rows = []
    for place in range(size):
        row = _product(
            rng,
            kinds[place],
            number=first + place,
            seed=seed,
            currency=currency,
            created=created[place],
        )
        row.product_id = ids[place]
        row.variants = [
            variant._replace(variant_id=_uuid7(created[place], rng.getrandbits(74)))
            for variant in row.variants
        ]
        others = alike[kinds[place].title]
        row.related_product_ids = _some(rng, others, RELATED_PRODUCTS, but=ids[place])
        rows.append(row)
    return rows


def _product(
    rng: Random, kind: Kind, *, number: int, seed: int, currency: str, created: datetime
) -> Product:
    noun = _pick(rng, kind.nouns)
    material = _pick(rng, kind.materials)
    line = _pick(rng, LINES)
    adjective = _pick(rng, ADJECTIVES)
    words = [line, material, noun.name]
    if rng.random() < 0.5:
        words.insert(1, adjective)
    title = " ".join(words)
    slug = f"{slugify(title)}-{_code(number, seed)}"
    colours = _colours(rng, kind)
    vendor = _pick(rng, VENDORS)
    use = _pick(rng, kind.uses)
    tags = [noun.name.lower(), material.lower(), adjective.lower(), line.lower()]
    option_values = [colour.name for colour in colours] + list(kind.sizes)
    return Product(
        source="generated",
        source_id=f"{seed}-{number}",
        slug=slug,
        title=title,
        description_html=_description(
            rng, kind, title=title, material=material, adjective=adjective, vendor=vendor, use=use
        ),
        vendor=vendor,
        category=_CATEGORIES[kind.title],
        tags=tags,
        option_names=_option_names(kind, colours),
        published=True,
        currency=currency,
        search_text=" ".join([*tags, kind.title, *option_values, use]),
        variants=_variants(rng, kind, noun, slug=slug, colours=colours, currency=currency),
        images=_images(slug, title, colours),
        created_at=created,
        # 1/u with u even between 0 and 1: the r-th most popular of N has about N/r (Zipf's law).
        popularity=round(1.0 / (1.0 - rng.random()), 6),
        rating=_rating(rng),
    )


def _variants(
    rng: Random, kind: Kind, noun: Noun, *, slug: str, colours: list[Palette], currency: str
) -> list[Variant]:
    """One variant for each colour in each size; larger sizes of some kinds cost more."""
    smallest = _price_hundredths(rng, noun)
    before_sale_percent = 110 + 10 * int(rng.random() * 4) if rng.random() < SALE_SHARE else 0
    worn: list[Palette | None] = [*colours] or [None]
    rows: list[Variant] = []
    for colour, (step, size) in product(worn, _sizes(rng, kind)):
        price = smallest + smallest * kind.size_price_step * step // 100 // 50 * 50
        before = _minor(price * before_sale_percent // 100, currency)
        values = tuple(value for value in (colour.name if colour else "", size) if value)
        variant = Variant(
            variant_key=" / ".join(values).lower() or "default",
            title=" / ".join(values),
            sku=f"{slug.rpartition('-')[2].upper()}-{len(rows) + 1:02d}",
            barcode="",
            option_values=values,
            price_minor=_minor(price, currency),
            compare_at_minor=before or None,
            image_url=_picture(slug, colour.name) if colour else None,
            weight_grams=noun.weight_grams or None,
            quantity=_quantity(rng),
        )
        rows.append(variant)
    return rows


def _price_hundredths(rng: Random, noun: Noun) -> int:
    """A price within the noun's range, more often low than high, that ends as prices do."""
    share = rng.random()
    whole = noun.price_low + int((noun.price_high - noun.price_low) * share * share)
    return whole * 100 + _pick(rng, (0, 0, 50, 90, 95, 99))


def _minor(hundredths: int, currency: str) -> int:
    return int(hundredths * 10 ** money.exponent(currency) // 100)


def _colours(rng: Random, kind: Kind) -> list[Palette]:
    return _some(rng, COLOURS, 1 + int(rng.random() * 3)) if kind.coloured else []


def _sizes(rng: Random, kind: Kind) -> list[tuple[int, str]]:
    """A run of the kind's sizes, each with how many steps it is above the smallest."""
    if not kind.sizes:
        return [(0, "")]
    count = min(len(kind.sizes), 2 + int(rng.random() * 2))
    start = int(rng.random() * (len(kind.sizes) - count + 1))
    return [(step, kind.sizes[start + step]) for step in range(count)]


def _option_names(kind: Kind, colours: Sequence[Palette]) -> list[str]:
    return (["Colour"] if colours else []) + ([kind.size_name] if kind.sizes else [])


def _quantity(rng: Random) -> int:
    share = rng.random()
    if share < SOLD_OUT_SHARE:
        return 0
    if share < SOLD_OUT_SHARE + FEW_LEFT_SHARE:
        return 1 + int(rng.random() * FEW_LEFT_MAX)
    spread = rng.random()
    return FEW_LEFT_MAX + 1 + int((STOCK_MAX - FEW_LEFT_MAX) * spread * spread)


def _rating(rng: Random) -> Rating | None:
    """Mostly good, few or many: stars between 3.2 and 4.9 on average."""
    if rng.random() >= RATED_SHARE:
        return None
    spread = rng.random()
    count = 1 + int(600 * spread * spread * spread)
    stars = 3.2 + 1.7 * rng.random()
    return Rating(count, min(5 * count, max(count, int(count * stars + 0.5))))


def _images(slug: str, title: str, colours: Sequence[Palette]) -> list[Image]:
    if colours:
        return [Image(_picture(slug, c.name), f"{title} in {c.name.lower()}") for c in colours]
    return [Image(_picture(slug, str(view)), title) for view in (1, 2)]


def _picture(slug: str, view: str) -> str:
    """Address of a picture that services.business.pictures draws from this name alone."""
    return f"/pictures/{slug}-{view.lower()}.svg"


def _description(
    rng: Random, kind: Kind, *, title: str, material: str, adjective: str, vendor: str, use: str
) -> str:
    opening = _pick(rng, ("Made for {use}.", "The one for {use}.", "We had {use} in mind."))
    promise = _pick(
        rng,
        (
            "It gets better with the years and is made to be mended.",
            "Nothing on it is there for show, and nothing is missing.",
            "Small batches, checked by hand before they leave the workshop.",
            "Simple lines, honest material and a finish that lasts.",
        ),
    )
    origin = _pick(rng, ("Designed and made by", "From the workshop of", "A favourite of"))
    maker = vendor.replace("&", "&amp;")
    details = (
        f"<li>{material}, {adjective.lower()} finish</li><li>{kind.title}: one of our "
        f"{_pick(rng, ('best sellers', 'new arrivals', 'all-year goods'))}</li>"
        f"<li>Returned free of charge within {_pick(rng, ('14', '30', '60'))} days</li>"
    )
    return (
        f"<p>{opening.format(use=use)} The <strong>{title}</strong> is {adjective.lower()} "
        f"{material.lower()} at its best. {promise}</p><ul>{details}</ul>"
        f"<p>{origin} {maker}. {kind.care}</p>"
    )


def _code(number: int, seed: int) -> str:
    """A code of up to seven letters and digits, another one for each number of a seed."""
    value = (number * CODE_FACTOR + seed * SEED_FACTOR) % 2**32
    code = ""
    while value or not code:
        value, digit = divmod(value, 36)
        code = _DIGITS[digit] + code
    return code.rjust(4, "0")


def _uuid7(moment: datetime, random_bits: int) -> UUID:
    """A UUIDv7 (RFC 9562, 5.7) of that moment from 74 random bits."""
    milliseconds = int(moment.timestamp()) * 1000
    high, low = random_bits >> 62, random_bits & (1 << 62) - 1
    return UUID(int=milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def _pick(rng: Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


def _some(rng: Random, items: Sequence[T], count: int, but: T | None = None) -> list[T]:
    """Up to so many different ones of the items, in the order they were drawn."""
    drawn: dict[T, None] = {}
    for _ in range(2 * count):
        item = _pick(rng, items)
        if item != but and len(drawn) < count:
            drawn[item] = None
    return list(drawn)
