"""Product files for tests: written here, read the way the importer reads them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from services.business.imports.files import catalog_file, read
from services.business.imports.rows import Finding, Read, Skipped
from services.data.catalog_rows import Product

SAMPLES = Path(__file__).parents[2] / "samples"


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Nobody is watching."""


def read_all(path: Path, currency: str = "USD") -> tuple[dict[str, Product], list[Finding]]:
    """The products of a file by their ids there, and every reason why one was left out."""
    products: dict[str, Product] = {}
    bad: list[Finding] = []
    for outcome in read(catalog_file(path), currency, no_progress):
        if isinstance(outcome, Read):
            products[outcome.product.source_id] = outcome.product
        else:
            bad.extend(outcome.findings)
    return products, bad


def notes_of(path: Path, currency: str = "USD") -> list[Finding]:
    """What was assumed about the products of a file."""
    outcomes = read(catalog_file(path), currency, no_progress)
    return [note for outcome in outcomes if isinstance(outcome, Read) for note in outcome.notes]


def skipped_count(path: Path, currency: str = "USD") -> int:
    outcomes = read(catalog_file(path), currency, no_progress)
    return sum(isinstance(outcome, Skipped) for outcome in outcomes)


def shopify_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A Shopify file with the columns that the rows name."""
    return _table(path, rows, ",")


def google_tsv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A Google feed with the columns that the rows name."""
    return _table(path, rows, "\t")


def mug(**changes: str) -> dict[str, str]:
    """A row of a Shopify file that is right, but for the changes."""
    return {
        "Handle": "mug",
        "Title": "Mug",
        "Option1 Name": "Title",
        "Option1 Value": "Default Title",
        "Variant Price": "12.50",
        "Variant Inventory Qty": "5",
        **changes,
    }


def cup(**changes: str) -> dict[str, str]:
    """An item of a Google feed that is right, but for the changes."""
    return {
        "id": "cup",
        "title": "Cup",
        "price": "7.50 USD",
        "availability": "in_stock",
        "quantity": "5",
        **changes,
    }


def _table(path: Path, rows: Sequence[dict[str, str]], delimiter: str) -> Path:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path
