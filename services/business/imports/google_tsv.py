"""Google's product feed as tab-separated text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from services.business.imports.google import KEYS, REQUIRED, our_name
from services.business.imports.rows import Row
from services.business.imports.tables import OnBytes, table_rows


def rows(path: Path, on_bytes: OnBytes) -> Iterator[Row]:
    return table_rows(path, "\t", our_name, required=REQUIRED, keys=KEYS, on_bytes=on_bytes)
