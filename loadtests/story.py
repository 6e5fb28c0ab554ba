"""What a result says besides its rows: over time, by percentile, along a curve, and what held.

`make report` draws these; docs/benchmarks.md has the form. All of it is optional.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from hdrh.histogram import HdrHistogram

Point = tuple[float, float]
# Percentiles of a curve: half of what is left each time (1 - 1/2^n), four steps a halving, which
# is how HdrHistogram's own plotter spaces them. 2^-17 is one of 131,072: finer needs more requests.
STEPS_A_HALVING: Final = 4
HALVINGS: Final = 17


@dataclass(frozen=True, slots=True)
class Series:
    """One line over time: points are (seconds since the run began, value).

    unit says in which chart it is drawn: "req/s", "errors/s", "ms", "cores", "bytes", or any other,
    which gets a chart of its own. part: of a stack, whose CPU ("cores") or memory ("bytes") it is.
    """

    name: str
    unit: str
    points: Sequence[Point]
    part: str | None = None

    def __post_init__(self) -> None:
        _check_points(self.name, self.points)

    def document(self) -> dict[str, Any]:
        document = {"name": self.name, "unit": self.unit, "points": _rounded(self.points)}
        return document if self.part is None else document | {"part": self.part}


@dataclass(frozen=True, slots=True)
class Mark:
    """What happened at a moment, or from t_s until until_s: a fault, an opening, a recovery."""

    t_s: float
    what: str
    until_s: float | None = None

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"t": round(self.t_s, 3), "what": self.what}
        return document if self.until_s is None else document | {"until": round(self.until_s, 3)}


@dataclass(frozen=True, slots=True)
class Distribution:
    """Latencies of one work: [[percentile, ms], …] and how many they are of.

    chart: those with the same one are drawn together.
    """

    name: str
    count: int
    percentiles: Sequence[Point]
    chart: str = ""

    def __post_init__(self) -> None:
        _check_points(self.name, self.percentiles)

    @classmethod
    def of(cls, name: str, histogram: HdrHistogram, chart: str = "") -> Distribution:
        """Of a histogram in microseconds, as far as its count can tell percentiles apart."""
        count = histogram.get_total_count()
        points = [
            (percent, histogram.get_value_at_percentile(percent) / 1000)
            for percent in percentiles_of(count)
        ]
        return cls(name, count, points, chart)

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "chart": self.chart,
            "count": self.count,
            "percentiles": [[round(percent, 5), round(ms, 4)] for percent, ms in self.percentiles],
        }


def percentiles_of(count: int) -> list[float]:
    """Percentiles that `count` values can tell apart, 100 being the greatest value."""
    halvings = min(HALVINGS, max(0, count.bit_length() - 1))
    steps = (number / STEPS_A_HALVING for number in range(halvings * STEPS_A_HALVING + 1))
    return [100 * (1 - 0.5**step) for step in steps] + [100.0] if count else []


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure against another one that was changed step by step. lines: name -> [(x, y), …]."""

    name: str
    x: str  # with its unit: "products", "connections"
    y: str
    lines: Mapping[str, Sequence[Point]]
    log_x: bool = False
    note: str = ""

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "x": self.x,
            "y": self.y,
            "log_x": self.log_x,
            "note": self.note,
            "lines": [
                {"name": name, "points": _rounded(points)} for name, points in self.lines.items()
            ],
        }


@dataclass(frozen=True, slots=True)
class Check:
    """A target or a rule, and whether it held: an SLO, an invariant, a recovery within its time."""

    what: str
    held: bool
    detail: str = ""

    def document(self) -> dict[str, Any]:
        return {"what": self.what, "held": self.held, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a result's own. Cells are text, or numbers, which are put to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: a row is not as long as the columns")

    def document(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Story:
    """All that a run has to tell. command: how to repeat it; versions: of what was run."""

    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    series: Sequence[Series] = ()
    marks: Sequence[Mark] = ()
    distributions: Sequence[Distribution] = ()
    curves: Sequence[Curve] = ()
    checks: Sequence[Check] = ()
    tables: Sequence[Table] = ()

    def document(self) -> dict[str, Any]:
        """The members of the result, without those that are empty."""
        document: dict[str, Any] = {"command": self.command, "versions": dict(self.versions)}
        for name in ("series", "marks", "distributions", "curves", "checks", "tables"):
            document[name] = [one.document() for one in getattr(self, name)]
        return {name: value for name, value in document.items() if value}


def _check_points(name: str, points: Sequence[Point]) -> None:
    if not all(math.isfinite(number) for point in points for number in point):
        raise ValueError(f"{name}: a point is not a number")
    if any(here[0] > there[0] for here, there in pairwise(points)):
        raise ValueError(f"{name}: points are not in order")


def _rounded(points: Sequence[Point]) -> list[list[float]]:
    return [[round(x, 3), round(y, 4)] for x, y in points]
