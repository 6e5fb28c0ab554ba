"""Shopify's product CSV: the classic columns and those of exports since 2024.

A product's first row has its title; variants and pictures follow on rows of their own, and one
row may be both. https://help.shopify.com/manual/products/import-export/using-csv
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from services import money
from services.business.imports.rows import (
    DESCRIPTION_MAX,
    IMAGES_MAX,
    TAGS_MAX,
    TITLE_MAX,
    VARIANTS_MAX,
    Findings,
    Row,
    unique,
)
from services.business.imports.sanitize import safe_html, search_text
from services.business.imports.slugs import category_slug, product_slug
from services.business.imports.tables import OnBytes, table_rows
from services.data.catalog_rows import Category, Image, Product, Variant

SOURCE: Final = "shopify"
REQUIRED: Final = ("Handle", "Title", "Variant Price")

# Columns are called by their classic names, in messages too; these are other names for them.
_OTHER_NAMES: Final = {
    "url handle": "Handle",
    "description": "Body (HTML)",
    "published on online store": "Published",
    "custom product type": "Type",
    "sku": "Variant SKU",
    "barcode": "Variant Barcode",
    "weight value (grams)": "Variant Grams",
    "inventory quantity": "Variant Inventory Qty",
    "price": "Variant Price",
    "compare-at price": "Variant Compare At Price",
    "compare at price": "Variant Compare At Price",
    "product image url": "Image Src",
    "variant image url": "Variant Image",
}
_NAMES: Final = {
    name.lower(): name
    for name in (
        "Handle", "Title", "Body (HTML)", "Vendor", "Product Category", "Type", "Tags",
        "Published", "Status", "Option1 Name", "Option1 Value", "Option2 Name", "Option2 Value",
        "Option3 Name", "Option3 Value", "Variant SKU", "Variant Grams", "Variant Inventory Qty",
        "Variant Price", "Variant Compare At Price", "Variant Barcode", "Image Src",
        "Image Position", "Image Alt Text", "Variant Image",
    )
} | _OTHER_NAMES  # fmt: skip

_OPTIONS: Final = (1, 2, 3)
_TELLS_A_VARIANT: Final = (
    "Option1 Value", "Option2 Value", "Option3 Value", "Variant SKU", "Variant Price",
)  # fmt: skip
_TRUE: Final = ("true", "1", "yes")
_FALSE: Final = ("false", "0", "no")
# What Shopify writes for a product without options: one variant of this option and value.
_NO_OPTION: Final = ("title", "default title")


def our_name(column: str) -> str | None:
    """Our name for a column of the file; None for one that is not used."""
    return _NAMES.get(column.lower())


def rows(path: Path, on_bytes: OnBytes) -> Iterator[Row]:
    return table_rows(path, ",", our_name, required=REQUIRED, keys=("Handle",), on_bytes=on_bytes)


def product(group: Sequence[Row], currency: str, found: Findings) -> Product | None:
    """The product that the rows of one handle describe; None where `found` says why not."""
    if not found.readable(group, "Handle"):
        return None
    head = next((row for row in group if "Title" in row.fields), group[0])
    title = found.text(head, "Title", TITLE_MAX)
    if not title and not found.bad:
        found.reject(head, "Title", "is empty on every row of the product")
    option_names = _option_names(group, found)
    variants = _variants(group, option_names, currency, found)
    images = _images(group, found)
    category = _category(head, found)
    tags = _tags(head, found)
    description = _description(head, found)
    published = _published(head, found)
    vendor = found.text(head, "Vendor")
    if found.bad:
        return None
    values = unique(value for variant in variants for value in variant.option_values)
    kind = [category.title] if category else []
    return Product(
        source=SOURCE,
        source_id=head.key,
        slug=product_slug(head.key),
        title=title,
        description_html=description,
        vendor=vendor,
        category=category,
        tags=tags,
        option_names=option_names,
        published=published,
        currency=currency,
        search_text=search_text([*tags, *kind, *values], description),
        variants=variants,
        images=images,
        line=head.line,
    )


def _option_names(group: Sequence[Row], found: Findings) -> list[str]:
    """Names of the options; none where the only one is Shopify's stand-in for no options."""
    names = []
    for number in _OPTIONS:
        column = f"Option{number} Name"
        named = next((row for row in group if column in row.fields), None)
        if named is None:
            break
        names.append(found.text(named, column))
    values = {row.fields["Option1 Value"].lower() for row in group if "Option1 Value" in row.fields}
    stand_in = [name.lower() for name in names] == [_NO_OPTION[0]] and values <= {_NO_OPTION[1]}
    return [] if stand_in else names


def _variants(
    group: Sequence[Row], option_names: Sequence[str], currency: str, found: Findings
) -> list[Variant]:
    lines: dict[str, int] = {}
    variants = []
    for row in group:
        if not any(column in row.fields for column in _TELLS_A_VARIANT):
            continue
        variant = _variant(row, option_names, currency, found)
        first_line = lines.setdefault(variant.variant_key, row.line)
        if first_line != row.line:
            reason = (
                f"the same options as on line {first_line}"
                if option_names
                else (f"a second variant, after line {first_line}, of a product without options")
            )
            found.reject(row, "Option1 Value", reason)
        variants.append(variant)
    if not variants and not found.bad:
        found.reject(group[0], "Variant Price", "is empty on every row of the product")
    if len(variants) > VARIANTS_MAX:
        found.reject(group[0], "Handle", f"has more than {VARIANTS_MAX} variants")
    return variants


def _variant(row: Row, option_names: Sequence[str], currency: str, found: Findings) -> Variant:
    values = _option_values(row, option_names, found)
    title = " / ".join(values)
    return Variant(
        variant_key=title.lower() or "default",
        title=title,
        sku=found.text(row, "Variant SKU"),
        barcode=found.text(row, "Variant Barcode"),
        option_values=values,
        price_minor=_amount(row, "Variant Price", currency, found, required=True) or 0,
        compare_at_minor=_amount(row, "Variant Compare At Price", currency, found) or None,
        image_url=found.address(row, "Variant Image", row.fields.get("Variant Image", "")) or None,
        weight_grams=_grams(row, found),
        quantity=found.quantity(row, "Variant Inventory Qty") or 0,
    )


def _option_values(row: Row, option_names: Sequence[str], found: Findings) -> tuple[str, ...]:
    values = []
    for number in _OPTIONS:
        column = f"Option{number} Value"
        value = found.text(row, column)
        if number <= len(option_names):
            if not value:
                found.reject(row, column, f"is empty, though there is {option_names[number - 1]!r}")
            values.append(value)
        elif value and value.lower() != _NO_OPTION[1]:
            found.reject(row, column, f"has a value, but there is no Option{number} Name")
    return tuple(values)


def _amount(
    row: Row, column: str, currency: str, found: Findings, *, required: bool = False
) -> int | None:
    text = row.fields.get(column, "")
    if not text:
        if required:
            found.reject(row, column, "is empty")
        return None
    try:
        return money.parse_minor(text, currency)
    except money.InvalidAmount as error:
        found.reject(row, column, str(error))
        return None


def _grams(row: Row, found: Findings) -> int | None:
    """Whole grams; Shopify converts pounds and ounces and leaves decimals."""
    text = row.fields.get("Variant Grams", "").strip()
    whole, point, decimals = text.partition(".")
    if point and decimals.isdecimal() and whole.isdecimal():
        return int(whole) + (decimals[0] >= "5")
    grams = found.whole(row, "Variant Grams")
    if grams is not None and grams < 0:
        found.reject(row, "Variant Grams", f"{grams} is less than nothing")
    return grams or None


def _images(group: Sequence[Row], found: Findings) -> list[Image]:
    """The pictures by position, each address once."""
    placed = []
    for order, row in enumerate(group):
        url = found.address(row, "Image Src", row.fields.get("Image Src", "").strip())
        if url:
            position = found.whole(row, "Image Position")
            alt = found.text(row, "Image Alt Text", TITLE_MAX)
            placed.append((order if position is None else position, order, Image(url, alt)))
    images: dict[str, Image] = {}
    for _, _, image in sorted(placed):
        images.setdefault(image.url, image)
    if len(images) > IMAGES_MAX:
        found.reject(group[0], "Image Src", f"more than {IMAGES_MAX} pictures")
    return list(images.values())


def _category(head: Row, found: Findings) -> Category | None:
    """The shop's own type, else the end of Shopify's category path "A > B > C"."""
    title = found.text(head, "Type") or found.text(head, "Product Category").split(">")[-1].strip()
    slug = category_slug(title)
    return Category(slug, title) if slug else None


def _tags(head: Row, found: Findings) -> list[str]:
    tags = unique(" ".join(tag.split()) for tag in head.fields.get("Tags", "").split(","))
    if len(tags) > TAGS_MAX or any(len(tag) > 255 for tag in tags):
        found.reject(head, "Tags", f"more than {TAGS_MAX} tags, or one over 255 characters")
    return tags


def _description(head: Row, found: Findings) -> str:
    text = head.fields.get("Body (HTML)", "")
    if len(text) > DESCRIPTION_MAX:
        found.reject(head, "Body (HTML)", f"is longer than {DESCRIPTION_MAX} characters")
        return ""
    return safe_html(text)


def _published(head: Row, found: Findings) -> bool:
    flag = head.fields.get("Published", "true").strip().lower()
    status = head.fields.get("Status", "active").strip().lower()
    if flag not in (*_TRUE, *_FALSE):
        found.reject(head, "Published", f"{flag[:40]!r} is neither true nor false")
    if status not in ("active", "draft", "archived", "unlisted"):
        found.reject(head, "Status", f"{status[:40]!r} is not active, draft, archived or unlisted")
    return flag in _TRUE and status == "active"
