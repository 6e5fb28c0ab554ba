"""`make bench-data`: the data tier against pgbench, asyncpg's pool and redis-py, by turns.

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

import asyncpg
import uvloop

from loadtests.bench_access import EXIT_INTERRUPTED
from loadtests.data_bench import CALLERS, Bench
from loadtests.data_cache import cache
from loadtests.data_growth import growth
from loadtests.data_stack import running_data_stack
from loadtests.data_works import hot, insert, reads
from loadtests.options import names, not_negative, positive, whole
from loadtests.pinning import choose, on_core
from loadtests.programs import BrokenRunError
from loadtests.report import conclude
from loadtests.result import RESULTS, Row
from loadtests.sides import scratch
from services.problems import Problem

# growth copies the empty database, so it comes before those that fill it.
WORKS: Final = {"growth": growth, "insert": insert, "hot": hot, "reads": reads, "cache": cache}
BROKEN: Final = (BrokenRunError, Problem, asyncpg.PostgresError, OSError)
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 1.0, "warm_up_s": 0.2, "products": 10_000}


async def run(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """The rows of the works that could be measured, and why others could not."""
    rows: list[Row] = []
    failures: list[str] = []
    task = asyncio.current_task()
    if task is not None:  # so that a SIGTERM ends what was started, as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    cores = choose()
    print(f"{cores}; callers and pgbench are on the generator's")
    with scratch() as folder, on_core(cores.generator):
        async with running_data_stack(folder, cores.server) as stack:
            bench = Bench(
                stack,
                cores,
                options.rounds,
                options.seconds,
                options.warm_up_s,
                options.products,
                options.callers,
            )
            for name in sorted(options.only, key=list(WORKS).index):
                print(f"measuring: {name}", flush=True)
                try:
                    rows += await WORKS[name](bench)
                except (*BROKEN, ExceptionGroup) as error:
                    failures.append(f"{name}: {str(error) or type(error).__name__}")
    return rows, failures


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_data", description=__doc__)
    add = parser.add_argument
    add("--only", type=names(list(WORKS)), default=list(WORKS), metavar=",".join(WORKS))
    add("--rounds", type=whole, default=5)
    add("--seconds", type=positive, default=2.0, help="of each side in each round; pgbench: whole")
    add("--warm-up-s", type=not_negative, default=0.3, help="before each, not measured")
    add("--products", type=whole, default=100_000, help="of the large catalog of growth")
    add("--callers", type=whole, default=CALLERS, help="and clients of pgbench")
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    if os.environ.get("QUICK", "") not in ("", "0"):
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options, started_at = read_options(arguments), datetime.now(UTC)
    try:
        rows, failures = uvloop.run(run(options))
    except BrokenRunError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: nothing is written", file=sys.stderr)
        return EXIT_INTERRUPTED
    settings = {name: value for name, value in vars(options).items() if name != "results"}
    return conclude(
        "bench-data",
        rows,
        failures,
        settings=settings,
        started_at=started_at,
        folder=options.results,
    )


if __name__ == "__main__":
    sys.exit(main())
