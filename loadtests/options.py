"""What the options of the benchmarks may be, as types for argparse."""

from __future__ import annotations

import argparse
from typing import Any


def names(known: list[str]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {known}")
        return names

    return parse


def setting(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given or not name.startswith("TERCET_"):
        raise argparse.ArgumentTypeError("must look like TERCET_PAGE_POOL_SIZE=8")
    return name, value


def whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("can not be negative")
    return value
