"""How a work of `make bench-data` is measured: callers in this process and pgbench, by turns."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.callers import Ask, Called, call
from loadtests.comparison import ratio_row
from loadtests.data_stack import DataStack
from loadtests.pinning import Cores
from loadtests.result import NO_PEER, Aim, Row

CALLERS: Final = 64  # as many as pgbench has clients, and as in the measurements of the aims
CROWD: Final = 1000  # what waits at a peak: batches grow with it, a pool does not

Side = Callable[[], Awaitable[Called]]


@dataclass(frozen=True)
class Bench:
    """What every work needs to know."""

    stack: DataStack
    cores: Cores
    rounds: int
    seconds: float
    warm_up_s: float
    products: int  # of the large catalog
    callers: int = CALLERS

    def calls(self, ask: Ask, callers: int = 0) -> Side:
        """A side whose callers are tasks of this process: so many as always, if not said."""
        count = callers or self.callers
        return lambda: call(ask, callers=count, seconds=self.seconds, warm_up_s=self.warm_up_s)

    def pgbench(self, script: str) -> Side:
        """A side that is pgbench, on the core of the callers."""

        async def run() -> Called:
            tps = await self.stack.pgbench(
                script, clients=self.callers, seconds=self.seconds, core=self.cores.generator
            )
            return Called(tps, 0.0, 0.0, 0.0)

        return run

    async def turns(self, sides: Mapping[str, Side]) -> dict[str, list[Called]]:
        """Measure all sides one after the other, every other round backwards."""
        figures: dict[str, list[Called]] = {name: [] for name in sides}
        for number in range(self.rounds):
            names = list(sides)
            for name in reversed(names) if number % 2 else names:
                figures[name].append(await sides[name]())
        return figures


def compared(
    work: str,
    ours: Sequence[Called],
    peer: str,
    theirs: Sequence[Called],
    *,
    aim: Aim | None,
    unit: str = "reads/s",
    note: str | None = None,
) -> list[Row]:
    """Rate, 99th percentile and CPU time of both, where both are callers of this process."""
    ours_of, theirs_of = columns(ours), columns(theirs)
    return [
        ratio_row(work, unit, ours_of.rate, peer, theirs_of.rate, aim=aim, note=note),
        ratio_row(f"{work}, p99", "ms", ours_of.p99_ms, peer, theirs_of.p99_ms, aim=None),
        ratio_row(f"{work}, CPU", "us each", ours_of.cpu_us, peer, theirs_of.cpu_us, aim=None),
    ]


def against_pgbench(
    bench: Bench, work: str, figures: Mapping[str, Sequence[Called]], aim: Aim
) -> list[Row]:
    """Our callers and a crowd of them, against a transaction each of as many clients of pgbench."""
    peer = f"pgbench, a transaction each, c={bench.callers}"
    theirs = columns(figures["pgbench"])
    rows = []
    for name, callers, wanted in (("ours", bench.callers, aim), ("crowd", CROWD, None)):
        ours, label = columns(figures[name]), f"{work}, batched, c={callers}"
        rows += [
            ratio_row(label, "rows/s", ours.rate, peer, theirs.rate, aim=wanted),
            reported(f"{label}, p99", "ms", ours.p99_ms),
            reported(f"{label}, CPU of the callers' process", "us each", ours.cpu_us),
        ]
    return rows


def reported(work: str, unit: str, values: Sequence[float]) -> Row:
    return Row(work, round(statistics.median(values), 3), unit, note=NO_PEER)


@dataclass(frozen=True)
class Columns:
    """The figures of all rounds, one by one."""

    rate: list[float]
    cpu_us: list[float]
    p50_ms: list[float]
    p99_ms: list[float]


def columns(figures: Sequence[Called]) -> Columns:
    return Columns(*(list(column) for column in zip(*figures, strict=True)))
