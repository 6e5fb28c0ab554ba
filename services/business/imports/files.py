"""Product files: telling the formats apart, and reading one as products or reasons why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from services.business.imports import google, google_tsv, google_xml, shopify
from services.business.imports.rows import FileProblem, Findings, Outcome, Read, Row, Skipped
from services.business.imports.together import together
from services.data.catalog_rows import Product

HEAD_BYTES: Final = 64 * 1024  # a first line with all of Shopify's columns has 2 kB
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")

OnProgress = Callable[[str, int, int], None]  # what is going on, how much is done, of how much


class Format(StrEnum):
    """The formats that can be imported."""

    SHOPIFY = "shopify"
    GOOGLE_TSV = "google-tsv"
    GOOGLE_XML = "google-xml"


class CatalogFile(NamedTuple):
    path: Path
    format: Format
    size_bytes: int


_ROWS: Final = {
    Format.SHOPIFY: shopify.rows,
    Format.GOOGLE_TSV: google_tsv.rows,
    Format.GOOGLE_XML: google_xml.rows,
}


def catalog_file(path: Path, chosen: Format | None = None) -> CatalogFile:
    """The file with its format, chosen or told by how it begins; FileProblem where it is none."""
    head = _head(path)
    if not head.strip():
        raise FileProblem(f"{path}: is empty")
    if head.startswith(b"PK"):
        raise FileProblem(f"{path}: is a zip or Excel file; export it as CSV or unpack it first")
    return CatalogFile(path, chosen or _format(path, head), path.stat().st_size)


def read(file: CatalogFile, currency: str, on_progress: OnProgress) -> Iterator[Outcome]:
    """Every product of a file, read or skipped; `currency` is that of a file that names none."""

    def on_bytes(done: int) -> None:
        on_progress(f"reading {file.path.name}", done, file.size_bytes)

    rows = 0

    def counted() -> Iterator[Row]:
        nonlocal rows
        for row in _ROWS[file.format](file.path, on_bytes):
            rows += 1
            yield row

    done = 0
    for group in together(counted()):
        yield _outcome(file, group, currency)
        done += len(group)
        on_progress("catalog", done, rows)


def _outcome(file: CatalogFile, group: Sequence[Row], currency: str) -> Outcome:
    found = Findings(file.path)
    product: Product | None
    if file.format is Format.SHOPIFY:
        product = shopify.product(group, currency, found)
    else:
        product = google.product(group, found)
    return Skipped(found.bad) if product is None else Read(product, found.notes)


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            reason = "is not a file" if path.exists() else "does not exist"
            raise FileProblem(f"{path}: {reason}")
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise FileProblem(f"{path}: {error.strerror or error}") from None


def _format(path: Path, head: bytes) -> Format:
    if head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<"):
        return Format.GOOGLE_XML
    if head.startswith(_UTF16):
        raise FileProblem(f"{path}: is UTF-16; save it as UTF-8")
    first_line = head.decode("utf-8-sig", errors="replace").splitlines()[0]
    columns = [name.strip(' "') for name in first_line.split("\t")]
    if len(columns) > 1 and "id" in map(google.our_name, columns):
        return Format.GOOGLE_TSV
    if "Handle" in (shopify.our_name(name.strip(' "')) for name in first_line.split(",")):
        return Format.SHOPIFY
    raise FileProblem(
        f"{path}: neither a Shopify product CSV (no column Handle) nor a Google product feed "
        "(no column id with tabs between, no XML); --format says which it is"
    )
