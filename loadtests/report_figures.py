"""How the report writes numbers and moments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
MOST_DIGITS: Final = 3
BYTES: Final = ("bytes", "bytes (PSS)")


def figure(value: object, unit: str = "") -> str:
    """A number to read: about four figures, thousands apart; MiB for bytes; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if unit in BYTES and abs(value) >= 10 * GIB:
        return f"{value / GIB:,.0f} GiB"
    if unit in BYTES and abs(value) >= MIB:
        return f"{value / MIB:,.1f} MiB"
    size = abs(value)
    if size >= 1000 or value == int(value):
        return f"{value:,.0f}"
    digits = 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def when(moment: str) -> str:
    """ISO 8601 as people write it."""
    return f"{datetime.fromisoformat(moment):%-d %B %Y, %H:%M} UTC"


def columns(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    """The cells of a table, each column with as many digits as its finest number needs."""
    if not rows:
        return []
    digits = [max(map(_digits, column)) for column in zip(*rows, strict=True)]
    return [
        [
            f"{cell:,.{digits[at]}f}" if _is_number(cell) else figure(cell)
            for at, cell in enumerate(row)
        ]
        for row in rows
    ]


def _digits(cell: object) -> int:
    """After the point, as the result has them."""
    if not _is_number(cell):
        return 0
    return len(f"{cell:.{MOST_DIGITS}f}".rstrip("0").partition(".")[2])


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)
