"""`make article`: the article's four loads against its seven servers and Tercet's product page.

Exit code 0: what could be had was measured; 1: something broke; 2: an option makes no sense.
docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from infra.local.folder import NotRunningError
from loadtests import options
from loadtests.article_loads import LOADS, Load
from loadtests.article_sides import HELLO, PAGE, Sample, Side, Sides, Turn
from loadtests.article_tables import NOTES, Key, Measured, distributions, rows, tables
from loadtests.benchmark import PLACES, interrupted, stop_as_asked
from loadtests.options import names, not_negative, positive, whole
from loadtests.peers.rust import SEVEN, version
from loadtests.pinning import choose, on_core, raise_file_limit
from loadtests.programs import BrokenRunError
from loadtests.readings import Tool, available
from loadtests.report import print_table
from loadtests.result import write
from loadtests.sides import scratch
from loadtests.story import Story, Table

# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 1.0, "warm_up_s": 0.3}
KEYS: Final = [load.key for load in LOADS]
BODIES: Final = (HELLO, PAGE)
PROGRAMS: Final = {
    "wrk": ["wrk", "-v"],
    "ab": ["ab", "-V"],
    "Rust": ["rustc", "--version"],
    "Go std": ["go", "version"],
    "Node std": ["node", "--version"],
}


class Rounds:
    """What is measured in each round: every server by turns, load after load."""

    def __init__(self, chosen: argparse.Namespace, sides: Sides) -> None:
        self._chosen, self._sides = chosen, sides
        self._samples: dict[Key, dict[str, list[Sample]]] = {}
        self.failures: list[str] = []

    async def run(self) -> Measured:
        for number in range(self._chosen.rounds):
            print(f"round {number + 1} of {self._chosen.rounds}", flush=True)
            for load in LOADS:
                if load.key in self._chosen.only:
                    await self._load(load, backwards=number % 2 == 1)
        shop = self._sides.shop
        samples = {key: self._whole(sides) for key, sides in self._samples.items()}
        return Measured(samples, self._sides.absent, len(shop.page) if shop else 0)

    async def _load(self, load: Load, *, backwards: bool) -> None:
        """Every other round goes backwards, so that a machine that gets slower favours nobody."""
        for tool in dict.fromkeys((load.tool, "own")):
            if tool not in self._chosen.tools or not available(tool):
                continue
            for body in BODIES:
                # The page by one generator: by how much they differ the hello has told.
                if body == PAGE and tool != "own" and self._chosen.quick:
                    turns = [side for side in self._sides.sides if HELLO not in side.paths]
                else:
                    turns = [side for side in self._sides.sides if body in side.paths]
                for side in reversed(turns) if backwards else turns:
                    await self._turn(side, load, tool, body)

    async def _turn(self, side: Side, load: Load, tool: Tool, body: str) -> None:
        turn = Turn(load, body, tool, self._chosen.seconds, self._chosen.warm_up_s)
        try:
            sample = await self._sides.measure(side, turn)
        except (BrokenRunError, TimeoutError, OSError, ValueError) as error:
            self.failures.append(f"{side.name}, {load.key} by {tool}, {body}: {error}")
            return
        self._samples.setdefault((load.key, tool, body), {}).setdefault(side.name, []).append(
            sample
        )

    def _whole(self, sides: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
        """Those with a sample of every round: a ratio is taken within one."""
        return {name: all_ for name, all_ in sides.items() if len(all_) == self._chosen.rounds}


async def run(chosen: argparse.Namespace) -> tuple[Measured, list[str]]:
    """What was measured, and what broke."""
    stop_as_asked()
    cores = choose()
    print(cores)
    with scratch() as folder, on_core(cores.generator):
        async with Sides(cores, folder, chosen.products, chosen.data_dir) as sides:
            await sides.start([peer for peer in SEVEN if peer.key in chosen.peers])
            rounds = Rounds(chosen, sides)
            return await rounds.run(), rounds.failures


def print_tables(found: Sequence[Table]) -> None:
    for table in found:
        print(f"\n{table.title}\n")
        print_table(table.columns, [[_cell(cell) for cell in row] for row in table.rows])
        for note in table.notes:
            print(f"  {note}")
    print()
    for note in NOTES:
        print(note)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:,}".removesuffix(".0")


def versions() -> dict[str, str]:
    """Of what was measured and with what; those that are there."""
    found = {peer.name: said for peer in SEVEN if (said := version(peer))}
    for name, command in PROGRAMS.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            continue
        # wrk prints its version where others print errors, and exits with 1.
        first = (done.stdout or done.stderr).strip().splitlines()[:1]
        words = (first[0] if first else "").split()
        numbers = [word.strip(",") for word in words if any(sign.isdigit() for sign in word)]
        found[name] = numbers[0] if numbers else "?"
    return found


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("article", __doc__)
    add, keys = parser.add_argument, [peer.key for peer in SEVEN]
    add("--only", type=names(KEYS), default=KEYS, metavar=",".join(KEYS), help="which loads")
    add("--peers", type=names(keys), default=keys, metavar=",".join(keys))
    add("--tools", type=names(["wrk", "ab", "own"]), default=["wrk", "ab", "own"])
    add("--rounds", type=whole, default=3)
    add("--seconds", type=positive, default=5.0, help="of each; wrk and ab: whole ones")
    add("--warm-up-s", type=not_negative, default=1.0, help="before each, not measured")
    add("--products", type=whole, default=100, help="of the shop; one page is asked for")
    options.add_data_dir(parser)
    parser.set_defaults(quick=options.is_quick())
    return options.read(parser, arguments, QUICK)


def _name(chosen: argparse.Namespace) -> str:
    """A part of the loads is a result of its own, and does not take the place of all."""
    return "article" if chosen.only == KEYS else "-".join(["article", *chosen.only])


def main(arguments: Sequence[str] | None = None) -> int:
    chosen, started_at, began_at = read_options(arguments), datetime.now(UTC), time.monotonic()
    raise_file_limit()
    try:
        measured, failures = asyncio.run(run(chosen))
    except (BrokenRunError, NotRunningError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted()
    found, cores = tables(measured), choose()
    print_tables(found)
    settings: dict[str, Any] = {
        name: value for name, value in vars(chosen).items() if name not in PLACES
    } | {
        "server_core": cores.server,
        "generator_core": cores.generator,
        "page_bytes": measured.page_bytes,
        "took_s": round(time.monotonic() - began_at),
    }
    story = Story(
        command=f"make article{' QUICK=1' if chosen.quick else ''}",
        versions=versions(),
        distributions=distributions(measured),
        tables=[*found, Table("What the article's columns are", ["note"], [[n] for n in NOTES])],
    )
    path = write(
        _name(chosen),
        rows(measured),
        settings=settings,
        started_at=started_at,
        folder=chosen.results,
        story=story,
    )
    print(f"\nwritten to {path}")
    for failure in failures:
        print(f"broke: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
