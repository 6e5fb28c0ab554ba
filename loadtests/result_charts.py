"""The charts of one result: from its members to lines, dots and small lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from loadtests.charts import NARROW, Axis, Chart, Line, Size, Span, is_wide
from loadtests.report_figures import figure
from loadtests.small_charts import Pair, pairs, sparkline

WIDE: Final[Size] = (1040, 300)  # the width of the page
HALF: Final[Size] = (510, 320)
OURS: Final = ("tercet", "access")
COLOURS: Final = 8  # 0 is ours
TITLES: Final[Mapping[str, str]] = {
    "req/s": "Answers a second",
    "errors/s": "Errors a second",
    "ms": "Latency",
    "cores": "CPU",
    "bytes": "Memory",
}
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart twice: for a page as wide as on a desk, and for a phone."""

    title: str
    wide: Markup
    narrow: Markup
    note: str = ""
    is_half: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the stack over time: both lines, and their highest values in words."""

    name: str
    cpu: Markup | None
    cpu_says: str
    memory: Markup | None
    memory_says: str


def distributions(document: Mapping[str, Any]) -> list[Drawn]:
    """Latency by percentile, those of a chart together."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for one in document.get("distributions") or ():
        if one["percentiles"]:
            grouped.setdefault(str(one.get("chart") or document["name"]), []).append(one)
    return [
        _drawn(
            title,
            f"Latency by percentile: {title}",
            "ms",
            [(str(one["name"]), one["percentiles"]) for one in ones],
            "percentile",
            x_unit="percentile",
            size=HALF,
        )
        for title, ones in grouped.items()
    ]


def over_time(document: Mapping[str, Any]) -> list[Drawn]:
    """A chart for each unit, of what is no part's; faults marked in each."""
    grouped: dict[str, list[tuple[str, Any]]] = {}
    for one in document.get("series") or ():
        if one.get("part") is None and one["points"]:
            grouped.setdefault(str(one["unit"]), []).append((str(one["name"]), one["points"]))
    marked = spans(document)
    palette = _palette([name for lines in grouped.values() for name, _ in lines])
    return [
        _drawn(
            TITLES.get(unit, unit),
            f"{TITLES.get(unit, unit)} over time",
            unit,
            lines,
            "time",
            marked=marked,
            size=WIDE,
            palette=palette,
        )
        for unit, lines in grouped.items()
        if unit != "errors/s" or any(y for _, points in lines for _, y in points)
    ]


def curves(document: Mapping[str, Any]) -> list[Drawn]:
    return [
        _drawn(
            str(one["name"]),
            f"{one['name']}: {one['y']} against {one['x']}",
            str(one["y"]),
            [(str(line["name"]), line["points"]) for line in one["lines"]],
            "log" if one.get("log_x") else "linear",
            x_unit=str(one["x"]),
            size=HALF,
            note=str(one.get("note") or ""),
        )
        for one in document.get("curves") or ()
        if any(line["points"] for line in one["lines"])
    ]


def parts(document: Mapping[str, Any]) -> list[Part]:
    """CPU and memory of each part, on one scale for all."""
    series = [one for one in document.get("series") or () if one.get("part") and one["points"]]
    marked = spans(document)
    seconds = max((one["points"][-1][0] for one in series), default=1.0)

    def drawn(part: str, unit: str) -> tuple[Markup | None, str]:
        same = [one for one in series if one["unit"] == unit]
        highest = max((y for one in same for _, y in one["points"]), default=0.0)
        own = [one["points"] for one in same if one["part"] == part]
        if not own:
            return None, ""
        peak = max(y for _, y in own[0])
        says = figure(peak, unit) if unit == "bytes" else f"{peak:.2f}"
        return sparkline(own[0], marked, seconds=seconds, highest=highest), says

    names = dict.fromkeys(str(one["part"]) for one in series)
    return [Part(name, *drawn(name, "cores"), *drawn(name, "bytes")) for name in names]


def ratios(load: str, tables: Sequence[Mapping[str, Any]]) -> Drawn | None:
    """The servers of the article's table, their rate to Tokio's, beside what the article found."""
    for table in tables:
        columns = list(table["columns"])
        ours = [at for at, head in enumerate(columns) if str(head).startswith("to ")]
        theirs = [at for at, head in enumerate(columns) if str(head).startswith("article's to ")]
        if not ours or not theirs:
            continue
        rows = [
            Pair(str(row[0]), row[ours[0]], row[theirs[0]], _is_ours(str(row[0])))
            for row in table["rows"]
        ]
        says = f"{load}: answers a second as a ratio to Tokio's"
        return Drawn(load, pairs(says, rows, HALF), pairs(says, rows, NARROW), table["title"])
    return None


def spans(document: Mapping[str, Any]) -> list[Span]:
    """The marks of a result, numbered as its list of them is."""
    return [
        Span(number, mark["t"], mark.get("until"))
        for number, mark in enumerate(document.get("marks") or (), start=1)
    ]


def _drawn(
    title: str,
    says: str,
    unit: str,
    lines: Sequence[tuple[str, Any]],
    axis: Axis,
    *,
    size: Size,
    x_unit: str = "",
    marked: Sequence[Span] = (),
    note: str = "",
    palette: Mapping[str, int] | None = None,
) -> Drawn:
    colours = palette or _palette([name for name, _ in lines])
    coloured = [Line(name, points, colours[_what(name)]) for name, points in lines]
    values = [y for _, points in lines for _, y in points]
    log_y = axis == "percentile" and is_wide(values)
    chart = Chart(says, unit, coloured, axis, x_unit, marked, log_y)
    return Drawn(title, chart.svg(size), chart.svg(NARROW), note, is_half=size == HALF)


def _palette(names: Sequence[str]) -> dict[str, int]:
    """A colour for each thing that is shown: 0 for ours, and for what stands alone."""
    found = {_what(name): 0 for name in names if _is_ours(name)}
    others = dict.fromkeys(_what(name) for name in names if not _is_ours(name))
    if not found and len(others) == 1:
        return dict.fromkeys(others, 0)
    return found | {what: at % (COLOURS - 1) + 1 for at, what in enumerate(others)}


def _what(name: str) -> str:
    """The same work has the same colour, whatever of it is shown: "pages, p99" are pages."""
    return name.partition(",")[0]


def _is_ours(name: str) -> bool:
    return name.lower().startswith(OURS)
