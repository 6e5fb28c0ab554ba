"""How long statements took, by name: `products.SELECT_PRODUCT` is the constant that holds it."""

from __future__ import annotations

import sys
from typing import Final

from services.histogram import Histogram

# A read by key takes some tenths of a millisecond; the timeout of a statement is some seconds.
STATEMENTS_S: Final = (0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0)
OTHER: Final = "other"  # text that is put together for its request, as that of a search
# Far more than there are constants: what is put together must not fill the memory.
TEXTS_KEPT: Final = 500

_PACKAGE: Final = "services.data."


class StatementTimes:
    """Seconds from handing a statement to its connection to its rows, failed ones too."""

    def __init__(self) -> None:
        self._by_text: dict[str, Histogram] = {}

    def add(self, sql: str, seconds: float) -> None:
        took = self._by_text.get(sql)
        if took is None:
            text = sql if len(self._by_text) < TEXTS_KEPT else OTHER
            took = self._by_text.setdefault(text, Histogram(STATEMENTS_S))
        took.add(seconds)

    def by_name(self) -> dict[str, list[float]]:
        """Histogram.numbers() of each name; statements of one name are taken together."""
        names, found = _names(), dict[str, list[float]]()
        for sql, took in self._by_text.items():
            name, numbers = names.get(sql, OTHER), took.numbers()
            before = found.get(name)
            found[name] = numbers if before is None else _sum(before, numbers)
        return found


def in_all(times: list[StatementTimes]) -> dict[str, list[float]]:
    """The same of several servers together."""
    found: dict[str, list[float]] = {}
    for one in times:
        for name, numbers in one.by_name().items():
            found[name] = _sum(found[name], numbers) if name in found else numbers
    return found


def _sum(some: list[float], more: list[float]) -> list[float]:
    return [one + another for one, another in zip(some, more, strict=True)]


def _names() -> dict[str, str]:
    """The names of all constants that hold texts, by what they hold; looked up at a scrape."""
    names: dict[str, str] = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(_PACKAGE):
            for name, value in vars(module).items():
                if name.isupper() and isinstance(value, str) and " " in value:  # a statement
                    names.setdefault(value, f"{module_name.removeprefix(_PACKAGE)}.{name}")
    return names
