"""Google's product feed, whichever way it is written: the items of a group as one product.

https://support.google.com/merchants/answer/7052112 lists the attributes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Final

from services import money
from services.business.imports.rows import (
    DESCRIPTION_MAX,
    IMAGES_MAX,
    TITLE_MAX,
    VARIANTS_MAX,
    Findings,
    Row,
    unique,
)
from services.business.imports.sanitize import html_of_text, search_text
from services.business.imports.slugs import category_slug, product_slug
from services.data.catalog_rows import Category, Image, Product, Variant

SOURCE: Final = "google"
REQUIRED: Final = ("id", "title", "price")
KEYS: Final = ("item_group_id", "id")  # an item that is in no group is a product of its own

# Attributes that tell the variants of a group apart, with what the option is called here.
OPTION_NAMES: Final = {
    "color": "Color",
    "size": "Size",
    "material": "Material",
    "pattern": "Pattern",
    "gender": "Gender",
    "age_group": "Age group",
}
REPEATED: Final = ("additional_image_link", "product_type")
ATTRIBUTES: Final = frozenset(
    (
        "id", "item_group_id", "title", "description", "image_link", "price", "sale_price",
        "sale_price_effective_date", "availability", "quantity", "brand", "gtin",
        "google_product_category", "product_detail", "shipping_weight", *OPTION_NAMES, *REPEATED,
    )
)  # fmt: skip
_OTHER_NAMES: Final = {"sell_on_google_quantity": "quantity", "inventory": "quantity"}

_FOR_SALE: Final = ("in_stock",)
_NOT_FOR_SALE: Final = ("out_of_stock", "preorder", "backorder")
# A feed says that there is some and need not say how much: the least that makes it true.
ASSUMED_QUANTITY: Final = 1

_PRICE: Final = re.compile(r"(?P<amount>\S+)\s+(?P<currency>[A-Za-z]{3})\Z")
_WEIGHT: Final = re.compile(r"(?P<amount>[0-9]+(\.[0-9]+)?)\s*(?P<unit>[a-z]+)\Z")
_GRAMS: Final = {"g": 1.0, "kg": 1000.0, "oz": 28.349523125, "lb": 453.59237}
_END_OF_TITLE: Final = " -–—|/,;:("


def our_name(attribute: str) -> str | None:
    """Our name for an attribute: Google takes "image link", "image_link" and "g:image_link"."""
    name = "_".join(attribute.lower().removeprefix("g:").split())
    name = _OTHER_NAMES.get(name, name)
    return name if name in ATTRIBUTES else None


def product(group: Sequence[Row], found: Findings) -> Product | None:
    """The product that the items of one group describe; None where `found` says why not."""
    if not found.readable(group, "id"):
        return None
    head = group[0]
    options = [name for name in OPTION_NAMES if _varies(group, name)]
    title = _title(group, found)
    prices = [_prices(row, found) for row in group]
    priced = zip(group, prices, strict=True)
    variants = [_variant(row, options, title, price, found) for row, price in priced]
    _check_variants(group, variants, prices, found)
    images = _images(group, found)
    category = _category(head, found)
    vendor = found.text(head, "brand")
    description = _description(head, found)
    if found.bad:
        return None
    words = unique(row.fields.get(name, "") for row in group for name in OPTION_NAMES)
    kinds = head.fields.get("product_type", "").replace(">", " ").split("\n")
    return Product(
        source=SOURCE,
        source_id=head.key,
        slug=product_slug(title, head.key),
        title=title,
        description_html=description,
        vendor=vendor,
        category=category,
        tags=[],
        option_names=[OPTION_NAMES[name] for name in options],
        published=True,
        currency=prices[0][2],
        search_text=search_text([*kinds, *words], description),
        variants=variants,
        images=images,
        line=head.line,
    )


def _varies(group: Sequence[Row], name: str) -> bool:
    return len({row.fields.get(name, "") for row in group}) > 1


def _title(group: Sequence[Row], found: Findings) -> str:
    """What the titles of all items begin with, since they often end in colour and size."""
    titles = [found.text(row, "title", TITLE_MAX) for row in group]
    for row, title in zip(group, titles, strict=True):
        if not title and "title" not in row.fields:
            found.reject(row, "title", "is empty")
    words = zip(*(title.split() for title in titles), strict=False)
    shared = " ".join(same[0] for same in takewhile(lambda same: len(set(same)) == 1, words))
    shared = shared.rstrip(_END_OF_TITLE)
    return shared if len(shared) >= 3 else titles[0]


def _variant(
    row: Row,
    options: Sequence[str],
    product_title: str,
    price: tuple[int, int | None, str],
    found: Findings,
) -> Variant:
    values = tuple(found.text(row, name) for name in options)
    item_title = found.text(row, "title", TITLE_MAX)
    told_by_title = item_title if item_title != product_title else ""
    item_id = found.text(row, "id")
    if not item_id:
        found.reject(row, "id", "is empty")
    amount_minor, compare_at_minor, _ = price
    return Variant(
        variant_key=item_id,
        title=" / ".join(value for value in values if value) or told_by_title,
        sku=item_id,
        barcode=found.text(row, "gtin"),
        option_values=values,
        price_minor=amount_minor,
        compare_at_minor=compare_at_minor,
        image_url=row.fields.get("image_link", "").strip() or None,  # checked by _images
        weight_grams=_grams(row, found),
        quantity=_quantity(row, found),
    )


def _check_variants(
    group: Sequence[Row],
    variants: Sequence[Variant],
    prices: Sequence[tuple[int, int | None, str]],
    found: Findings,
) -> None:
    lines: dict[str, int] = {}
    for row, variant in zip(group, variants, strict=True):
        first_line = lines.setdefault(variant.variant_key, row.line)
        if first_line != row.line:
            found.reject(row, "id", f"the same as on line {first_line}")
    if len(variants) > VARIANTS_MAX:
        found.reject(group[0], "item_group_id", f"has more than {VARIANTS_MAX} variants")
    currencies = unique(currency for _, _, currency in prices)
    if len(currencies) > 1:
        found.reject(group[0], "price", f"one product in {' and '.join(currencies)}")


def _prices(row: Row, found: Findings) -> tuple[int, int | None, str]:
    """Price now, the price before a sale that is on, and the currency; zeros where rejected."""
    regular_minor, currency = _price(row, "price", found)
    if not row.fields.get("sale_price") or not _sale_is_on(row, found):
        return regular_minor, None, currency
    sale_minor, sale_currency = _price(row, "sale_price", found)
    if currency and sale_currency and sale_currency != currency:
        found.reject(row, "sale_price", f"is in {sale_currency}, the price in {currency}")
    if sale_minor >= regular_minor:
        return regular_minor, None, currency
    return sale_minor, regular_minor, currency


def _price(row: Row, column: str, found: Findings) -> tuple[int, str]:
    match = _PRICE.match(row.fields.get(column, "").strip())
    if match is None:
        text = row.fields.get(column, "")[:40]
        found.reject(row, column, f"{text!r} is not an amount and a currency, like 15.00 USD")
        return 0, ""
    currency = match["currency"].upper()
    try:
        return money.parse_minor(match["amount"], currency), currency
    except (money.InvalidAmount, money.UnknownCurrency) as error:
        found.reject(row, column, str(error))
        return 0, ""


def _sale_is_on(row: Row, found: Findings) -> bool:
    """Whether now is within sale_price_effective_date: start/end in ISO 8601, always if none."""
    interval = row.fields.get("sale_price_effective_date", "").strip()
    if not interval:
        return True
    try:
        start, end = (_moment(text) for text in interval.split("/"))
    except ValueError:
        reason = f"{interval[:60]!r} is not two ISO 8601 times with a slash between"
        found.reject(row, "sale_price_effective_date", reason)
        return False
    return start <= datetime.now(UTC) < end


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text.strip())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _quantity(row: Row, found: Findings) -> int:
    """What a new variant starts with: a feed says whether there is some, and may say how much."""
    text = row.fields.get("availability", "in_stock")
    availability = "_".join(text.lower().split())
    count = found.quantity(row, "quantity")
    if availability in _NOT_FOR_SALE:
        return 0
    if availability not in _FOR_SALE:
        known = ", ".join((*_FOR_SALE, *_NOT_FOR_SALE))
        found.reject(row, "availability", f"{text[:40]!r} is none of {known}")
    return ASSUMED_QUANTITY if count is None else count


def _grams(row: Row, found: Findings) -> int | None:
    text = row.fields.get("shipping_weight", "").strip().lower()
    if not text:
        return None
    match = _WEIGHT.match(text)
    if match is None or match["unit"] not in _GRAMS or len(text) > 20:
        found.reject(row, "shipping_weight", f"{text[:40]!r} is not a weight in g, kg, oz or lb")
        return None
    return round(float(match["amount"]) * _GRAMS[match["unit"]])


def _images(group: Sequence[Row], found: Findings) -> list[Image]:
    """The pictures of all items, each address once; the first item's first."""
    images: dict[str, Image] = {}
    for row in group:
        more = re.split(r"[,\n]", row.fields.get("additional_image_link", ""))
        for column, address in [
            ("image_link", row.fields.get("image_link", "")),
            *(("additional_image_link", address) for address in more),
        ]:
            url = found.address(row, column, address.strip())
            if url:
                images.setdefault(url, Image(url, ""))
    if len(images) > IMAGES_MAX:
        found.reject(group[0], "image_link", f"more than {IMAGES_MAX} pictures")
    return list(images.values())


def _category(head: Row, found: Findings) -> Category | None:
    """The end of the shop's own path "A > B > C", else of Google's, which may be a mere number."""
    own = head.fields.get("product_type", "").split("\n")[0]
    googles = head.fields.get("google_product_category", "")
    path = own or ("" if googles.strip().isdecimal() else googles)
    title = " ".join(path.split(">")[-1].split())
    if len(title) > 255:
        found.reject(head, "product_type", "ends in a category of over 255 characters")
        return None
    slug = category_slug(title)
    return Category(slug, title) if slug else None


def _description(head: Row, found: Findings) -> str:
    text = head.fields.get("description", "")
    if len(text) > DESCRIPTION_MAX:
        found.reject(head, "description", f"is longer than {DESCRIPTION_MAX} characters")
        return ""
    return html_of_text(text)
