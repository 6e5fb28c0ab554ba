"""What came of a run: on the terminal, and in the form of a result that `make report` draws."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from loadtests.crew import Ended
from loadtests.faults import Played
from loadtests.profiles import Run
from loadtests.recorder import PERCENTILES, Recorder
from loadtests.report import MIB, print_parts, print_table, print_works
from loadtests.result import NO_PEER, Row, write
from loadtests.story import Check, Curve, Distribution, Mark, Series, Story
from loadtests.usage import Usage
from loadtests.verdicts import print_checks

SOAK_GROWTH: Final = 1.2  # of a part's memory, above which a soak says so
LIMITED: Final = (
    "\n429 is no overload: a load comes from one address, and a shop lets no address have so much "
    "(TERCET_ADDRESS_RATES, TERCET_CUSTOMER_RATES). --own-stack has no such limits."
)
VERSIONS_OF: Final = ("tercet", "uvloop", "httptools", "asyncpg", "hdrhistogram")


@dataclass
class Outcome:
    """A run that is over. parts: what each took; grown: its memory once warm, and at last."""

    run: Run
    url: str
    processes: int
    ended: Ended
    parts: Sequence[Usage]
    series: Sequence[Series]
    grown: Mapping[str, tuple[float, float]]
    played: Sequence[Played]
    checks: Sequence[Check]
    command: str = ""

    @property
    def recorders(self) -> list[Recorder]:
        return self.ended.recorders

    @property
    def held(self) -> bool:
        return all(check.held for check in self.checks)

    @property
    def rate(self) -> float:
        """Arrivals a second that were asked for, of all traffic."""
        return sum(one.due for one in self.recorders) / self.run.seconds

    @property
    def missed(self) -> str:
        """The first target that was missed; empty where all held."""
        missed = [check for check in self.checks if not check.held]
        return f"{missed[0].what} ({missed[0].detail})" if missed else ""

    def print_step(self, then: str = "") -> None:
        """One line of a search for the knee; then: what is done about it."""
        words = f"missed: {self.missed}" if self.missed else "held"
        print(f"load {self.run.load:6.2f}: {self.rate:8.0f} arrivals/s  {words}{then}", flush=True)

    def rows(self) -> list[Row]:
        rows: list[Row] = []

        def add(work: str, value: float, unit: str) -> None:
            rows.append(Row(work, round(value, 3), unit, note=NO_PEER))

        for work in self.recorders:
            add(work.work, work.answered / self.run.seconds, "answers/s")
            for percentile in PERCENTILES:
                add(f"{work.work}, p{percentile:g}", work.percentile_ms(percentile), "ms")
            add(f"{work.work}, max", work.max_ms(), "ms")
            add(f"{work.work}, unsent", work.unsent, "requests")
            add(f"{work.work}, generator late by at most", work.late_us / 1000, "ms")
            for kind, count in work.errors.items():
                add(f"{work.work}, error: {kind}", count, "requests")
            for kind, count in work.refusals.items():
                add(f"{work.work}, refused: {kind}", count, "requests")
        for label, words in self.ended.said.items():
            for word, count in words.items():
                add(f"{label}, {word}", count, "in all")
        for part in self.parts:
            add(f"memory of {part.name}", part.memory_bytes, "bytes (PSS)")
            if part.cpu_s is not None:
                add(f"CPU of {part.name}", part.cpu_s, "s")
        if self.run.profile.name == "soak":
            for name, (first, last) in self.grown.items():
                add(f"memory of {name}, growth", last / first if first else 0.0, "times")
        add("CPU of the generator", self.ended.cpu_s, "s")
        return rows

    def story(self) -> Story:
        return Story(
            command=self.command,
            versions={name: version(name) for name in VERSIONS_OF},
            series=[*self._traffic_over_time(), *self.series],
            marks=self._marks(),
            distributions=[
                Distribution.of(one.work, one.histogram(), self.run.scenario.title)
                for one in self.recorders
                if one.histogram().get_total_count()
            ],
            checks=self.checks,
        )

    def _traffic_over_time(self) -> list[Series]:
        series = []
        for one in self.recorders:
            seconds = list(enumerate(one.timeline(round(self.run.seconds))))
            whole = [(float(at), float(second.answered + second.refused)) for at, second in seconds]
            failed = [(float(at), float(second.errors + second.unsent)) for at, second in seconds]
            slow = [(float(at), second.p99_ms) for at, second in seconds if second.p99_ms]
            series += [
                Series(one.work, "req/s", whole),
                Series(one.work, "errors/s", failed),
                Series(f"{one.work}, p99", "ms", slow),
            ]
        return series

    def _marks(self) -> list[Mark]:
        marks = [one.mark for one in self.played]
        sale = self.run.scenario.sale
        if sale is not None:
            marks.append(Mark(sale.opens_at_s * self.run.stretch, "the sale opens"))
        return sorted(marks, key=lambda mark: mark.t_s)


def print_outcome(outcome: Outcome) -> None:
    """Rates, percentiles, what did not go as planned, and what it cost each part."""
    print_works(outcome.recorders, outcome.run.seconds)
    for label, words in outcome.ended.said.items():
        print(f"{label}: " + ", ".join(f"{count:,} {word}" for word, count in words.items()))
    print()
    requests = sum(work.sent for work in outcome.recorders)
    print_parts(outcome.parts, outcome.ended.cpu_s, requests)
    if outcome.run.profile.name == "soak":
        _print_growth(outcome.grown)
    print()
    print_checks(outcome.checks)
    if any("status 429" in kind for work in outcome.recorders for kind in work.errors):
        print(LIMITED)


def _print_growth(grown: Mapping[str, tuple[float, float]]) -> None:
    print()
    rows = [
        [name, f"{first / MIB:.1f}", f"{last / MIB:.1f}", "GREW" if _grew(first, last) else ""]
        for name, (first, last) in grown.items()
    ]
    print_table(["part", "MiB once warm", "at last", ""], rows)


def _grew(first: float, last: float) -> bool:
    return last > first * SOAK_GROWTH


def knee(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The step with the highest load that held, of steps by their load."""
    held = [one for one in outcomes if one.held]
    return held[-1] if held else None


def worth_showing(outcomes: Sequence[Outcome]) -> Outcome:
    """The run; of steps the knee, else the one that came nearest to it."""
    return knee(outcomes) or outcomes[0]


def conclude(
    outcomes: Sequence[Outcome],
    name: str,
    *,
    settings: Mapping[str, Any],
    started_at: datetime,
    folder: Path,
) -> int:
    """Write the run, and where the knee is if it was looked for; the exit code."""
    shown = worth_showing(outcomes)
    story, rows = shown.story(), shown.rows()
    if shown.run.profile.name == "breakpoint":
        rate = shown.rate if shown.held else 0.0
        rows.insert(
            0, Row("the knee: arrivals at the last load that held", rate, "/s", note=NO_PEER)
        )
        story = Story(**{**_members(story), "curves": [_knee_curve(outcomes)]})
        print(f"\n{_knee_words(outcomes)}")
    path = write(
        name,
        rows,
        settings={**settings, "url": shown.url},
        started_at=started_at,
        folder=folder,
        story=story,
    )
    print(f"\nwritten to {path}")
    if not shown.held:
        missed = [check.what for check in shown.checks if not check.held]
        print(f"failed: {'; '.join(missed)}", file=sys.stderr)
    return 0 if shown.held else 1


def _knee_words(outcomes: Sequence[Outcome]) -> str:
    found = knee(outcomes)
    if found is None:
        first = outcomes[0]
        return f"no knee: not even {first.rate:.0f} arrivals/s, load {first.run.load:.2f}, held"
    where = f"{found.rate:.0f} arrivals/s, load {found.run.load:.2f}"
    if found is outcomes[-1]:
        return f"no knee up to {where}: every step held"
    above = outcomes[outcomes.index(found) + 1]
    return (
        f"the knee: {where}, is the last step that held; {above.rate:.0f}/s missed {above.missed}"
    )


def _members(story: Story) -> dict[str, Any]:
    return {name: getattr(story, name) for name in Story.__slots__}


def _knee_curve(outcomes: Sequence[Outcome]) -> Curve:
    """The 99th percentile of each kind of traffic against how much came."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        for one in outcome.recorders:
            lines.setdefault(one.work, []).append((outcome.rate, one.percentile_ms(99)))
    return Curve("up to the knee", "arrivals/s", "p99 ms", lines)
