"""`make bench-live`: ten thousand live streams on access, what a change takes to reach them, pages.

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

from loadtests.bench_access import EXIT_INTERRUPTED
from loadtests.live_works import MANY_FILES, WORKS, Bench
from loadtests.measure import Meter, find_generator
from loadtests.options import names, not_negative, positive, whole
from loadtests.pinning import choose, on_core, raise_file_limit
from loadtests.programs import BrokenRunError
from loadtests.report import conclude
from loadtests.result import RESULTS, Row

# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 1.0, "warm_up_s": 0.5, "streams": 1000, "many": 2000}


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
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_live", description=__doc__)
    add = parser.add_argument
    add("--only", type=names(list(WORKS)), default=list(WORKS), metavar=",".join(WORKS))
    add("--rounds", type=whole, default=3)
    add("--seconds", type=positive, default=3.0, help="of pages, each side in each round")
    add("--warm-up-s", type=not_negative, default=1.0, help="before each, not measured")
    add("--connections", type=whole, default=64, help="that ask for pages beside the streams")
    add("--streams", type=whole, default=10_000)
    add("--many", type=whole, default=100_000, help="streams of all processes of the last work")
    add("--settle-s", type=not_negative, default=1.0, help="before memory is read")
    add("--generator", choices=["auto", "wrk", "own"], default="auto")
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    if os.environ.get("QUICK", "") not in ("", "0"):
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def _bench(options: argparse.Namespace) -> Bench:
    files = raise_file_limit()
    streams = min(options.streams, files - 2 * MANY_FILES)
    if streams < options.streams:
        print(f"this user may open {files} files: {streams} streams instead of more")
    meter = Meter(find_generator(options.generator), choose(), options.seconds, options.warm_up_s)
    print(f"{meter.cores}; generator: {meter.generator}; files of a process: {files}")
    return Bench(
        meter=meter,
        rounds=options.rounds,
        connections=options.connections,
        streams=streams,
        many=options.many,
        files=files,
        settle_s=options.settle_s,
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
        "streams": bench.streams,
        "files": bench.files,
        "server_core": bench.meter.cores.server,
        "generator_core": bench.meter.cores.generator,
    }
    return conclude(
        "bench-live",
        rows,
        failures,
        settings=settings,
        started_at=started_at,
        folder=options.results,
    )


if __name__ == "__main__":
    sys.exit(main())
