"""What charts are drawn with: scales from values to places, their ticks, and pieces of SVG.

Everything that is put into it is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

Transform = Callable[[float], float]


class Scale:
    """From values to places."""

    def __init__(self, low: float, high: float, start: float, end: float, of: Transform) -> None:
        self._of, self._low = of, of(low)
        self._per = (end - start) / ((of(high) - self._low) or 1.0)
        self._start = start

    def __call__(self, value: float) -> float:
        return self._start + (self._of(value) - self._low) * self._per


def same(value: float) -> float:
    return value


def tail(percent: float) -> float:
    """HdrHistogram's axis: each step to the right has a tenth of the requests left."""
    return -math.log10(max(1e-9, 1 - percent / 100))


def compact(value: float) -> str:
    """A number of an axis: 1,500 is 1.5k."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def nice(low: float, high: float, count: int) -> list[float]:
    """About that many round numbers that cover the range."""
    step = (high - low) / max(1, count) or 1.0
    power = 10 ** math.floor(math.log10(step))
    step = next(times * power for times in (1, 2, 2.5, 5, 10) if times * power >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first) + 1)]


def decades(low: float, high: float, values: Sequence[float]) -> list[float]:
    """Powers of ten within the range; the values themselves where there are but a few."""
    distinct = sorted(set(values))
    if 0 < len(distinct) <= 6:
        return distinct
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)] or [low]


def words(x: float, y: float, said: str, kind: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, kind, anchor, said
    )


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(
        x1, y1, x2, y2, kind
    )


def spot(x: float, y: float, kind: str) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(kind, x, y)
