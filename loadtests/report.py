"""What a load test says on the terminal: a line while it runs, tables when it is over."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from loadtests.recorder import PERCENTILES, Recorder
from loadtests.result import Row, write
from loadtests.story import Story
from loadtests.usage import Usage

MIB: Final = 1024 * 1024


class ProgressLine:
    """A line on a terminal that shows how far each kind of traffic is; nothing in a pipe."""

    def __init__(self, seconds: float, *, show: bool) -> None:
        self._seconds = seconds
        self._began_at = 0.0
        self._show = show and sys.stderr.isatty()

    def began(self, at: float) -> None:
        """at: time.monotonic() from which the seconds count."""
        self._began_at = at

    def heard(self, so_far: Sequence[Mapping[str, Any]]) -> None:
        """So many of each work are over, and so many of these failed or were never sent."""
        if not self._show:
            return
        passed_s = min(max(0.0, time.monotonic() - self._began_at), self._seconds)
        parts = [f"{passed_s:.0f} s of {self._seconds:.0f} s"]
        parts += [f"{one['work']}: {one['over']:,}, {one['failed']:,} failed" for one in so_far]
        line = "   ".join(parts)[: os.get_terminal_size(sys.stderr.fileno()).columns - 1]
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._show:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def print_works(works: Sequence[Recorder], seconds: float) -> None:
    """Rate, latencies from the intended start, and everything that did not go as planned."""
    heads = ["work", "QPS", *(f"p{percentile:g}" for percentile in PERCENTILES), "max"]
    rows = [
        [
            work.work,
            f"{work.answered / seconds:.1f}",
            *(f"{work.percentile_ms(percentile):.2f}" for percentile in PERCENTILES),
            f"{work.max_ms():.2f}",
        ]
        for work in works
    ]
    print_table([*heads[:2], *(f"{head} ms" for head in heads[2:])], rows)
    print()
    for work in works:
        print(f"{work.work}: {work.due} due, {work.sent} sent, {work.unsent} unsent{_whys(work)}")


def _whys(work: Recorder) -> str:
    kinds = [f"{count} x {kind}" for kind, count in work.refusals.most_common()]
    kinds += [f"{count} x error: {kind}" for kind, count in work.errors.most_common()]
    return "".join(f", {kind}" for kind in kinds)


def print_parts(parts: Sequence[Usage], own_cpu_s: float, requests: int) -> None:
    """Memory and CPU time of each part, and of the generator itself."""
    rows = [
        [
            part.name,
            f"{part.memory_bytes / MIB:.1f}",
            *_cpu_cells(part.cpu_s, requests),
        ]
        for part in parts
    ]
    rows.append(["(this generator)", "", *_cpu_cells(own_cpu_s, requests)])
    print_table(["part", "PSS MiB", "CPU s", "CPU us a request"], rows)


def conclude(
    name: str,
    rows: Sequence[Row],
    failures: Sequence[str],
    *,
    settings: Mapping[str, Any],
    started_at: datetime,
    folder: Path,
    story: Story | None = None,
) -> int:
    """The end of a benchmark: its table, its file, what broke; returns the exit code."""
    print()
    print_rows(rows)
    path = write(name, rows, settings=settings, started_at=started_at, folder=folder, story=story)
    print(f"\nwritten to {path}")
    for failure in failures:
        print(f"broke: {failure}", file=sys.stderr)
    return 1 if failures else 0


def print_rows(rows: Sequence[Row]) -> None:
    """A comparison: both sides, the median ratio with its spread over the rounds, and the aim."""
    heads = ["work", "value", "unit", "peer", "peer's", "ratio", "rounds", "aim", ""]
    print_table(heads, [_comparison_cells(row) for row in rows])
    noted: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            noted.setdefault(row.note, []).append(row.work)
    for note, works in noted.items():
        print(f"\n{works[0]}{' and others' if len(set(works)) > 1 else ''}:\n  {note}")


def _comparison_cells(row: Row) -> list[str]:
    spread = f"{min(row.runs):.2f}-{max(row.runs):.2f}" if row.runs else ""
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    return [
        row.work,
        f"{row.value:,.2f}".removesuffix(".00"),
        row.unit,
        row.peer or "",
        "" if row.peer_value is None else f"{row.peer_value:,.2f}".removesuffix(".00"),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        spread,
        "" if row.aim is None else str(row.aim),
        verdict,
    ]


def _cpu_cells(cpu_s: float | None, requests: int) -> list[str]:
    if cpu_s is None:
        return ["restarted", ""]
    return [f"{cpu_s:.2f}", f"{cpu_s * 1e6 / requests:.0f}" if requests else ""]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        first, *rest = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())
