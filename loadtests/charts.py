"""Charts as inline SVG: lines over time, by percentile, and along a curve.

Colours are classes, which the page's style sets for light and dark. A chart is made for its width,
since the text in an SVG shrinks with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from markupsafe import Markup

from loadtests.story import Point
from loadtests.svg import Scale, compact, decades, nice, same, stroke, tail, words

Axis = Literal["time", "percentile", "linear", "log"]
Size = tuple[int, int]
NARROW: Final[Size] = (360, 250)  # a phone
LABEL_GAP: Final = 14
BADGE_GAP: Final = 17
CHARACTER: Final = 7.0  # width of an average one at the font size of labels
LABEL_CHARACTERS: Final = 22
PERCENTILE_TICKS: Final = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
SPAN: Final = Markup('<rect class="span" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>')
LOG_FROM: Final = 30.0  # how many times the least value the greatest is, for a logarithmic axis


@dataclass(frozen=True, slots=True)
class Line:
    """name: written at its end. colour: 0 is ours."""

    name: str
    points: Sequence[Point]
    colour: int


@dataclass(frozen=True, slots=True)
class Span:
    """What is marked on a chart over time, by a number that a list explains."""

    number: int
    t_s: float
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines on axes. says: what is seen, for who can not see it."""

    says: str
    unit: str
    lines: Sequence[Line]
    axis: Axis = "time"
    x_unit: str = ""
    spans: Sequence[Span] = ()
    log_y: bool = False

    def svg(self, size: Size) -> Markup:
        return _Drawing(self, size).svg()


class _Drawing:
    def __init__(self, chart: Chart, size: Size) -> None:
        self._chart, (self._width, self._height) = chart, size
        longest = max((len(_short(line.name)) for line in chart.lines), default=0)
        self._left, self._top, self._bottom = 46, 30, self._height - 26
        if self._chart.x_unit:
            self._bottom -= 14
        self._right = self._width - min(150, round(longest * CHARACTER) + 12)
        # The least and the greatest latency have no place on an axis of percentiles.
        ends = (0, 100) if chart.axis == "percentile" else ()
        points = [point for line in chart.lines for point in line.points if point[0] not in ends]
        self._xs = [x for x, _ in points] or [0.0, 1.0]
        self._ys = [y for _, y in points] or [0.0, 1.0]
        self._x, self._x_ticks = self._x_axis()
        self._y, self._y_ticks = self._y_axis()

    def svg(self) -> Markup:
        parts = [*self._grid(), *self._marks(), *self._lines(), *self._labels()]
        return Markup(
            '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="chart">{}</svg>'
        ).format(self._width, self._height, self._chart.says, Markup("").join(parts))

    def _x_axis(self) -> tuple[Scale, list[tuple[float, str]]]:
        low, high = min(self._xs), max(self._xs)
        kind = self._chart.axis
        if kind == "percentile":
            end = max((x for x in self._xs if x < 100), default=99.0)
            ticks = [(tick, f"{tick:g}") for tick in PERCENTILE_TICKS if tick <= end]
            return Scale(0, end, self._left, self._right, tail), ticks
        if kind == "log":
            scale = Scale(low, high, self._left, self._right, math.log10)
            return scale, [(tick, compact(tick)) for tick in decades(low, high, self._xs)]
        low = 0.0 if kind == "time" else low
        scale = Scale(low, high, self._left, self._right, same)
        suffix = " s" if kind == "time" else ""
        count = 5 if self._width < 500 else 9
        return scale, [(tick, compact(tick) + suffix) for tick in nice(low, high, count)]

    def _y_axis(self) -> tuple[Scale, list[tuple[float, str]]]:
        positive = [y for y in self._ys if y > 0]
        if self._chart.log_y and positive:
            low, high = min(positive), max(positive)
            low = 10 ** math.floor(math.log10(low))
            scale = Scale(
                low, high * 1.1, self._bottom, self._top, lambda y: math.log10(max(y, low))
            )
            return scale, [(tick, compact(tick)) for tick in decades(low, high, [])]
        high = max([*self._ys, 1e-9])
        ticks = nice(0, high, 4)
        scale = Scale(0, max(high, ticks[-1]), self._bottom, self._top, same)
        return scale, [(tick, compact(tick)) for tick in ticks]

    def _grid(self) -> list[Markup]:
        parts = [words(2, 14, self._chart.unit, "unit")]
        for value, label in self._y_ticks:
            y = self._y(value)
            parts.append(stroke(self._left, y, self._right, y, "grid"))
            parts.append(words(self._left - 6, y + 4, label, "tick", "end"))
        for value, label in self._x_ticks:
            x = self._x(value)
            parts.append(stroke(x, self._bottom, x, self._bottom + 4, "axis"))
            parts.append(words(x, self._bottom + 18, label, "tick", "middle"))
        if self._chart.x_unit:
            parts.append(words(self._right, self._bottom + 34, self._chart.x_unit, "unit", "end"))
        return parts

    def _marks(self) -> list[Markup]:
        parts = []
        wanted = [self._x(span.t_s) for span in self._chart.spans]
        badges = spread(wanted, BADGE_GAP, self._left, self._right)
        for span, x, badge in zip(self._chart.spans, wanted, badges, strict=True):
            if span.until_s is not None and span.until_s > span.t_s:
                width = min(self._x(span.until_s), self._right) - x
                parts.append(SPAN.format(x, self._top, width, self._bottom - self._top))
            parts.append(stroke(badge, self._top - 4, x, self._top, "mark"))
            parts.append(stroke(x, self._top, x, self._bottom, "mark"))
            parts.append(
                Markup('<circle class="badge" cx="{:.1f}" cy="{}" r="8"/>').format(badge, 18)
            )
            parts.append(words(badge, 22, str(span.number), "number", "middle"))
        return parts

    def _lines(self) -> list[Markup]:
        # Ours last: it lies on top.
        ordered = sorted(self._chart.lines, key=lambda line: line.colour == 0)
        return [self._path(line) for line in ordered if line.points]

    def _path(self, line: Line) -> Markup:
        points = line.points
        if self._chart.axis == "percentile":
            points = [(x, y) for x, y in points if 0 < x < 100]
        places = [(self._x(x), self._y(y)) for x, y in points]
        path = " ".join(
            f"{'M' if number == 0 else 'L'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(places)
        )
        drawn = Markup('<path class="line c{}" d="{}"/>').format(line.colour, path)
        if self._chart.axis in ("linear", "log"):
            dots = (
                Markup('<circle class="dot c{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
                    line.colour, x, y
                )
                for x, y in places
            )
            drawn += Markup("").join(dots)
        return drawn

    def _labels(self) -> list[Markup]:
        """The name of each line at its end, moved apart where lines end together."""
        wanted: list[tuple[float, Line]] = []
        for line in self._chart.lines:
            ends = [y for x, y in line.points if x < 100 or self._chart.axis != "percentile"]
            if ends:
                wanted.append((self._y(ends[-1]), line))
        wanted.sort(key=lambda place: place[0])
        places = spread([y for y, _ in wanted], LABEL_GAP, self._top, self._bottom)
        return [
            words(self._right + 7, y + 4, _short(line.name), f"label c{line.colour}")
            for y, (_, line) in zip(places, wanted, strict=True)
        ]


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted places moved apart by at least a gap, within bounds if they can be, in their order."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else max(place, low))
    limit = high
    for number in range(len(moved) - 1, -1, -1):
        moved[number] = min(moved[number], limit)
        limit = moved[number] - gap
    return moved


def is_wide(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) / min(positive) > LOG_FROM


def _short(name: str) -> str:
    """Without its middle where it is long: names differ at their ends."""
    if len(name) <= LABEL_CHARACTERS:
        return name
    kept = LABEL_CHARACTERS - 1
    return f"{name[: kept - kept // 2].rstrip()}…{name[-(kept // 2) :].lstrip()}"
