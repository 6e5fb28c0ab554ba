"""What the catalog's commands show while they work."""

from __future__ import annotations

from pathlib import Path

from infra.catalog import _AllFiles
from services.business.imports.files import CatalogFile, Format


def test_progress_counts_the_bytes_of_all_files_together() -> None:
    told: list[tuple[str, int, int]] = []
    files = [CatalogFile(Path(name), Format.SHOPIFY, 2000) for name in ("a.csv", "b.csv")]
    progress = _AllFiles(files, lambda *news: told.append(news))
    progress("reading a.csv", 1000, 2000)
    progress("catalog", 7, 7)
    progress("reading b.csv", 1000, 2000)
    progress("reading b.csv", 2000, 2000)
    assert told == [("kB read", done, 4) for done in (1, 3, 4)]
