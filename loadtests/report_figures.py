"""How the report writes numbers and moments."""

from __future__ import annotations

from datetime import datetime
from typing import Final

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
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
