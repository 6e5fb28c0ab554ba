"""Which addresses the benchmarks of access ask for."""

from __future__ import annotations

from typing import Final

HELD_TARGET: Final = "/products/red-shirt"
STOCK_TARGET: Final = "/products/red-shirt/stock"  # nobody may hold it
HELLO_TARGET: Final = "/"
