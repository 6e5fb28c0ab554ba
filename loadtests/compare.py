"""`make load ARGS="--compare A B"`: the figures of two results beside each other."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtests.report import print_table

OVER_TIME: Final = {"req/s": "answers/s", "ms": "ms", "errors/s": "errors/s"}
FEWEST: Final = 4  # seconds, below which quartiles say nothing


class NotComparableError(Exception):
    """A file is no result, or two have nothing in common; the message says which."""


def compare(first: Path, second: Path) -> int:
    """Print the ratios of the second to the first, and how far they spread within the runs."""
    ours, theirs = _read(first), _read(second)
    rows = [*_over_time(ours, theirs), *_single(ours, theirs)]
    if not rows:
        raise NotComparableError(f"{first} and {second} have no figure in common")
    for name in ("commit", "machine", "settings"):
        if ours.get(name) != theirs.get(name):
            print(f"{name} differs: {_difference(ours.get(name), theirs.get(name))}")
    print_table(["figure", "unit", "A", "B", "B / A", "spread"], rows)
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NotComparableError(f"{path}: {error}") from None
    if not isinstance(document, dict) or "rows" not in document:
        raise NotComparableError(f"{path} is no result")
    return document


def _over_time(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[list[str]]:
    """Medians over the seconds of both runs. Spread: the upper quartile of one to the lower one
    of the other and the other way round, so what is within it may be chance."""
    rows = []
    others = {(one["name"], one["unit"]): one for one in theirs.get("series", [])}
    for one in ours.get("series", []):
        other = others.get((one["name"], one["unit"]))
        if other is None or one["unit"] not in OVER_TIME:
            continue
        a, b = ([value for _, value in side["points"]] for side in (one, other))
        if len(a) < FEWEST or len(b) < FEWEST or not statistics.median(a):
            continue
        low, high = _spread(a, b)
        rows.append(
            [
                f"{one['name']}, by second",
                OVER_TIME[one["unit"]],
                f"{statistics.median(a):,.2f}",
                f"{statistics.median(b):,.2f}",
                f"{statistics.median(b) / statistics.median(a):.2f}",
                f"{low:.2f}-{high:.2f}",
            ]
        )
    return rows


def _spread(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    (a_low, _, a_high), (b_low, _, b_high) = statistics.quantiles(a), statistics.quantiles(b)
    return b_low / a_high if a_high else 0.0, b_high / a_low if a_low else float("inf")


def _single(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[list[str]]:
    """Figures of which each run has one; where it has rounds against a peer, ratios of these."""
    rows = []
    others = {(row["work"], row["unit"], row.get("peer")): row for row in theirs["rows"]}
    for row in ours["rows"]:
        other = others.get((row["work"], row["unit"], row.get("peer")))
        if other is None or not row["value"]:
            continue
        spread = ""
        if len(row["runs"]) > 1 and len(other["runs"]) > 1:
            low = min(other["runs"]) / max(row["runs"])
            spread = f"{low:.2f}-{max(other['runs']) / min(row['runs']):.2f}"
        rows.append(
            [
                row["work"],
                row["unit"],
                f"{row['value']:,.2f}",
                f"{other['value']:,.2f}",
                f"{other['value'] / row['value']:.2f}",
                spread,
            ]
        )
    return rows


def _difference(ours: Any, theirs: Any) -> str:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return f"{ours} and {theirs}"
    names = [name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name}: {ours.get(name)} and {theirs.get(name)}" for name in sorted(names))
