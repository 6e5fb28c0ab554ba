"""What the article's columns need of one run, by each generator: our own loop, wrk, and ab."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from loadtests import ab, wrk
from loadtests.programs import BrokenRunError, output_of
from loadtests.story import Point

Tool = Literal["own", "wrk", "ab"]
COLUMNS: Final = (50.0, 90.0, 99.0, 99.9)
NEAR: Final = 0.05  # percentiles this close are the same
MANY: Final = 1_000_000_000  # failures of a peer are a column here, and no reason to stop


@dataclass(frozen=True, slots=True)
class Reading:
    """One run as its generator saw it. None: this generator can not tell."""

    answers: int  # good ones
    seconds: float
    errors: Mapping[str, int]
    mean_ms: float
    percentiles: Sequence[Point]  # [(percent, ms), …]
    received_bytes_s: float
    connect_ms: float | None = None  # mean, from connect() to established
    reused: float | None = None  # share of the answers on a connection that had one before
    own_cpu_share: float | None = None  # of its core; near 1: it was the limit

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    @property
    def error_rate(self) -> float:
        failed = sum(self.errors.values())
        return failed / max(1, failed + self.answers)

    def percentile_ms(self, percent: float) -> float | None:
        """None where the generator tells none so high."""
        at = [ms for known, ms in self.percentiles if known >= percent and known < percent + NEAR]
        return at[0] if at else None


@dataclass(frozen=True, slots=True)
class Run:
    """What to ask: one of the article's loads, of one address."""

    url: str
    connections: int
    close: bool
    seconds: float
    core: int | None  # of the generator
    folder: Path


def available(tool: Tool) -> bool:
    return tool == "own" or shutil.which(tool) is not None


async def take(tool: Tool, run: Run) -> Reading:
    """Run it. BrokenRunError where nothing was answered, or the tool failed."""
    reading = await {"own": _by_own, "wrk": _by_wrk, "ab": _by_ab}[tool](run)
    if not reading.answers:
        raise BrokenRunError(f"{run.url}: nothing was answered: {dict(reading.errors)}")
    return reading


async def _by_own(run: Run) -> Reading:
    """Short connections are closed by this side: the server is not told to."""
    command = [
        *(sys.executable, "-m", "loadtests.closed", "--url", run.url),
        *("--connections", str(run.connections), "--seconds", str(run.seconds)),
        *("--failures-allowed", str(MANY), *(["--close", "--silently"] if run.close else [])),
    ]
    outcome = json.loads(await output_of(command, run.core))
    exact = [(percent, outcome[name]) for percent, name in zip(COLUMNS, NAMES, strict=True)]
    return Reading(
        answers=outcome["answers"],
        seconds=outcome["seconds"],
        errors=outcome["errors"],
        mean_ms=outcome["mean_ms"],
        percentiles=sorted({*exact, *((percent, ms) for percent, ms in outcome["percentiles"])}),
        received_bytes_s=outcome["received_bytes"] / outcome["seconds"],
        connect_ms=outcome["connect_mean_ms"],
        reused=max(0.0, 1 - outcome["connections_made"] / max(1, outcome["answers"])),
        own_cpu_share=outcome["own_cpu_share"],
    )


NAMES: Final = ("p50_ms", "p90_ms", "p99_ms", "p999_ms")


async def _by_wrk(run: Run) -> Reading:
    command = wrk.command(
        run.url, connections=run.connections, seconds=run.seconds, close=run.close, in_full=True
    )
    found = wrk.read_in_full(await output_of(command, run.core))
    return Reading(
        answers=found["answers"] - found["errors"].get("not 2xx", 0),
        seconds=found["seconds"],
        errors=found["errors"],
        mean_ms=found["mean_ms"],
        percentiles=found["percentiles"],
        received_bytes_s=found["bytes"] / found["seconds"],
    )


async def _by_ab(run: Run) -> Reading:
    csv = run.folder / "ab.csv"
    csv.unlink(missing_ok=True)
    command = ab.command(
        run.url, connections=run.connections, seconds=run.seconds, close=run.close, csv=csv
    )
    printed = await output_of(command, run.core)
    found = ab.read(printed, csv.read_text() if csv.exists() else "")
    answers = int(found["answers"])
    return Reading(
        answers=answers - min(answers, sum(found["errors"].values())),
        seconds=found["seconds"],
        errors=found["errors"],
        mean_ms=found["mean_ms"],
        percentiles=found["percentiles"],
        received_bytes_s=found["received_kib_s"] * ab.KIB,
        connect_ms=found.get("connect_mean_ms"),
        reused=found.get("kept", 0.0) / max(1, answers),
    )
