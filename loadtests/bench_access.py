"""`make bench-access`: access against Node, Go, Gin and nginx, each on one core, by turns.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtests import peers
from loadtests.access_works import WORKS
from loadtests.measure import Meter, find_generator
from loadtests.options import names, not_negative, positive, setting, whole
from loadtests.pinning import choose, on_core, raise_file_limit
from loadtests.programs import BrokenRunError
from loadtests.report import conclude
from loadtests.result import RESULTS, Row
from loadtests.sides import Bench

EXIT_INTERRUPTED: Final = 130  # what a shell says of a program that Ctrl-C ended
SPARE_FILES: Final = 500  # open files of a server besides its clients'
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 2, "seconds": 1.0, "warm_up_s": 0.5, "idle_connections": 2000}


async def run(bench: Bench, works: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows of the works that could be measured, and why others could not."""
    rows: list[Row] = []
    failures: list[str] = []
    task = asyncio.current_task()
    if task is not None:  # so that a SIGTERM ends what was started, as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with on_core(bench.meter.cores.generator):
        for name in works:
            print(f"measuring: {name}", flush=True)
            try:
                rows += await WORKS[name](bench)
            except (BrokenRunError, TimeoutError, OSError, ValueError) as error:
                failures.append(f"{name}: {str(error) or type(error).__name__}")
    return rows, failures


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_access", description=__doc__)
    add, keys = parser.add_argument, [peer.key for peer in peers.ALL]
    add("--only", type=names(list(WORKS)), default=list(WORKS), metavar=",".join(WORKS))
    add("--rounds", type=whole, default=5)
    add("--seconds", type=positive, default=3.0, help="of each side in each round")
    add("--warm-up-s", type=not_negative, default=1.0, help="before each, not measured")
    add("--connections", type=whole, default=360)
    add("--idle-connections", type=whole, default=10_000)
    add("--settle-s", type=not_negative, default=1.0, help="before memory is read")
    add("--generator", choices=["auto", "wrk", "own"], default="auto")
    add("--peers", type=names(keys), default=keys[:-1], metavar=",".join(keys))
    add(
        "--setting",
        type=setting,
        action="append",
        default=[],
        metavar="TERCET_…=VALUE",
        help="of access instead of its default, recorded in the result; may be given again",
    )
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    if os.environ.get("QUICK", "") not in ("", "0"):
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def _bench(options: argparse.Namespace) -> Bench:
    files = raise_file_limit()
    idle = min(options.idle_connections, files - SPARE_FILES)
    if idle < options.idle_connections:
        print(f"this user may open {files} files: {idle} idle connections instead of more")
    meter = Meter(find_generator(options.generator), choose(), options.seconds, options.warm_up_s)
    print(f"{meter.cores}; generator: {meter.generator}")
    wanted = [peer for peer in peers.ALL if peer.key in options.peers]
    return Bench(
        meter=meter,
        rounds=options.rounds,
        connections=options.connections,
        idle_connections=idle,
        settle_s=options.settle_s,
        peers=wanted,
        settings=dict(options.setting),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options, started_at = read_options(arguments), datetime.now(UTC)
    try:
        bench = _bench(options)
    except BrokenRunError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        rows, failures = asyncio.run(run(bench, options.only))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: nothing is written", file=sys.stderr)
        return EXIT_INTERRUPTED
    settings = {name: value for name, value in vars(options).items() if name != "results"} | {
        "generator": bench.meter.generator,
        "setting": dict(bench.settings),
        "idle_connections": bench.idle_connections,
        "server_core": bench.meter.cores.server,
        "generator_core": bench.meter.cores.generator,
    }
    return conclude(
        "bench-access",
        rows,
        failures,
        settings=settings,
        started_at=started_at,
        folder=options.results,
    )


if __name__ == "__main__":
    sys.exit(main())
