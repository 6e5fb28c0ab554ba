"""What readers of product files have in common: rows, what is wrong with them, and limits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from services.data.catalog_rows import Product

# Limits of one product. A page of it has to stay small enough to hold and send, and an index
# entry of PostgreSQL has to fit a third of an 8 kB page (variant_key, source_id).
SOURCE_ID_MAX: Final = 255
TITLE_MAX: Final = 500
SHORT_TEXT_MAX: Final = 255
DESCRIPTION_MAX: Final = 64 * 1024
URL_MAX: Final = 2048
VARIANTS_MAX: Final = 2048  # Shopify's own limit
IMAGES_MAX: Final = 250  # Shopify's own limit
TAGS_MAX: Final = 250  # Shopify's own limit
ROWS_MAX: Final = VARIANTS_MAX + IMAGES_MAX  # of one product, each on a row of its own
QUANTITY_MAX: Final = 1_000_000_000

# The field of a row that could not be read as one: what was wrong with it.
PROBLEM: Final = "row"

_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.0*)?\Z")
_SPACE: Final = re.compile(r"\s")
# What open(errors="surrogateescape") makes of a byte that is not UTF-8.
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")


class FileProblem(Exception):
    """A file that can not be imported at all; nothing of it was."""


class Finding(NamedTuple):
    """Something about one place of a file: why a product is left out, or what was assumed."""

    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.reason}"


class Row(NamedTuple):
    """One row or item of a file: the product it belongs to, and its fields that are not empty.

    A row that names no product has a key of its own, which starts with a line break. The values
    of a field that may be repeated are joined by line breaks.
    """

    key: str
    line: int
    fields: dict[str, str]


@dataclass(slots=True)
class Skipped:
    """A product that was left out, or a row that belongs to none, and every reason why."""

    findings: list[Finding]


@dataclass(slots=True)
class Read:
    """A product as it was read, with notes on what was assumed."""

    product: Product
    notes: list[Finding]


Outcome: TypeAlias = Read | Skipped


@dataclass(slots=True)
class Findings:
    """Collects what is wrong with the rows of one product, so that all of it is told at once."""

    file: Path
    bad: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def reject(self, row: Row, column: str, reason: str) -> None:
        self.bad.append(Finding(str(self.file), row.line, column, reason))

    def note(self, row: Row, column: str, reason: str) -> None:
        self.notes.append(Finding(str(self.file), row.line, column, reason))

    def text(self, row: Row, column: str, limit: int = SHORT_TEXT_MAX) -> str:
        """The field with its white space in order, or "" where it is missing or rejected."""
        value = " ".join(row.fields.get(column, "").split())
        if len(value) > limit:
            self.reject(row, column, f"is longer than {limit} characters")
            return ""
        return value

    def whole(self, row: Row, column: str) -> int | None:
        """The field as a whole number, None where it is empty or rejected."""
        value = row.fields.get(column, "").strip()
        if not value:
            return None
        if not _NUMBER.match(value) or abs(int(value.partition(".")[0])) > QUANTITY_MAX:
            self.reject(row, column, f"{value[:40]!r} is not a whole number within reach")
            return None
        return int(value.partition(".")[0])

    def quantity(self, row: Row, column: str) -> int | None:
        """A stock count: oversold elsewhere (below zero) is none to sell here."""
        count = self.whole(row, column)
        if count is not None and count < 0:
            self.note(row, column, f"{count} taken as 0")
            return 0
        return count

    def address(self, row: Row, column: str, value: str) -> str:
        """The address of a picture, kept and never fetched; "" where empty or rejected."""
        reason = _wrong_with_address(value)
        if reason:
            self.reject(row, column, reason)
            return ""
        return value

    def readable(self, rows: Sequence[Row], key_field: str) -> bool:
        """Whether the rows can be looked into at all; rejects those that can not.

        PostgreSQL holds text that is UTF-8 and has no NUL.
        """
        if len(rows) > ROWS_MAX:
            self.reject(rows[-1], key_field, f"has more than {ROWS_MAX} rows")
        for row in rows:
            if row.key.startswith("\n"):
                self.reject(row, key_field, "is empty, so the row belongs to no product")
            elif len(row.key) > SOURCE_ID_MAX:
                self.reject(row, key_field, f"is longer than {SOURCE_ID_MAX} characters")
            for column, value in row.fields.items():
                wrong = _NOT_UTF8.search(value)
                if column == PROBLEM:
                    self.reject(row, column, value)
                elif wrong:
                    self.reject(row, column, f"byte 0x{ord(wrong[0]) - 0xDC00:02x} is not UTF-8")
                elif "\0" in value:
                    self.reject(row, column, "contains a NUL character")
        return not self.bad


def unique(items: Iterable[str]) -> list[str]:
    """The items that are not empty, each once, in order."""
    return list(dict.fromkeys(item for item in items if item))


def _wrong_with_address(value: str) -> str:
    if not value:
        return ""
    if len(value) > URL_MAX:
        return f"is longer than {URL_MAX} characters"
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and not _SPACE.search(value)
    except ValueError:
        usable = False
    return "" if usable else f"{value[:60]!r} is not an http or https address"
