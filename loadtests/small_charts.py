"""Small charts as inline SVG: ratios on a scale, a ratio beside its aim, a line without axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from loadtests.charts import Size, Span
from loadtests.story import Point
from loadtests.svg import Scale, compact, nice, same, spot, stroke, words


@dataclass(frozen=True, slots=True)
class Pair:
    """Two ratios of one server: ours, and what somebody else found."""

    name: str
    ours: float | None
    theirs: float | None
    is_us: bool = False


def pairs(says: str, rows: Sequence[Pair], size: Size) -> Markup:
    """A row each on a common scale from 0: a filled dot for ours, a hollow one for theirs."""
    width, _ = size
    row_height, top = 24, 22
    height = top + row_height * len(rows) + 6
    left, right = 86, width - 46
    values = [v for row in rows for v in (row.ours, row.theirs) if v is not None]
    ticks = nice(0, max([1.0, *values]), 4)
    scale = Scale(0, max([1.0, *values, ticks[-1]]), left, right, same)
    parts = []
    for tick in ticks:
        x = scale(tick)
        parts.append(stroke(x, top - 4, x, height - 8, "base" if tick == 1 else "grid"))
        parts.append(words(x, 12, compact(tick), "tick", "middle"))
    for number, row in enumerate(rows):
        y = top + row_height * number + row_height / 2
        kind = "c0" if row.is_us else "c1"
        parts.append(words(left - 10, y + 4, row.name, f"label {kind if row.is_us else ''}", "end"))
        if row.ours is not None and row.theirs is not None:
            parts.append(stroke(scale(row.theirs), y, scale(row.ours), y, "between"))
        if row.theirs is not None:
            parts.append(spot(scale(row.theirs), y, "hollow"))
        if row.ours is not None:
            parts.append(spot(scale(row.ours), y, f"dot {kind}"))
            parts.append(words(width - 2, y + 4, f"{row.ours:.2f}", "value", "end"))
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="chart">{}</svg>'
    ).format(width, height, says, Markup("").join(parts))


def against_aim(ratio: float, runs: Sequence[float], aim: float, *, at_least: bool) -> Markup:
    """A ratio and its rounds beside its aim, which is in the middle; to the right is better."""
    width, height, reach = 120, 18, 4.0

    def place(value: float) -> float:
        times = value / aim if at_least else aim / max(value, 1e-9)
        steps = math.log(max(times, 1e-9)) / math.log(reach)
        return width / 2 + max(-1.0, min(1.0, steps)) * (width / 2 - 6)

    middle = height / 2
    spots = [place(run) for run in runs] or [place(ratio)]
    verdict = "good" if (ratio >= aim) == at_least or ratio == aim else "bad"
    parts = [
        stroke(4, middle, width - 4, middle, "grid"),
        stroke(width / 2, 2, width / 2, height - 2, "axis"),
        stroke(min(spots), middle, max(spots), middle, f"reach {verdict}"),
        Markup('<circle class="{}" cx="{:.1f}" cy="{}" r="4.5"/>').format(
            f"dot {verdict}", place(ratio), middle
        ),
    ]
    return Markup('<svg viewBox="0 0 {} {}" aria-hidden="true" class="aim">{}</svg>').format(
        width, height, Markup("").join(parts)
    )


def sparkline(
    points: Sequence[Point], spans: Sequence[Span], *, seconds: float, highest: float
) -> Markup:
    """A small line over time without axes; its row says the figures."""
    width, height = 220, 34
    x, y = (
        Scale(0, seconds or 1.0, 2, width - 2, same),
        Scale(0, highest or 1.0, height - 2, 3, same),
    )
    path = " ".join(
        f"{'M' if number == 0 else 'L'}{x(t):.1f} {y(value):.1f}"
        for number, (t, value) in enumerate(points)
    )
    marks = [stroke(x(span.t_s), 2, x(span.t_s), height - 2, "mark") for span in spans]
    return Markup(
        '<svg viewBox="0 0 {} {}" aria-hidden="true" class="spark">{}{}'
        '<path class="line c1" d="{}"/></svg>'
    ).format(
        width,
        height,
        stroke(2, height - 2, width - 2, height - 2, "axis"),
        Markup("").join(marks),
        path,
    )
