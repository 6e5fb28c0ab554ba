"""`make bench-data`: the data tier against pgbench, asyncpg's pool and redis-py, by turns.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

import asyncpg
import uvloop

from loadtests import options
from loadtests.benchmark import Found, by_turns, measured, stop_as_asked
from loadtests.data_bench import CALLERS, Bench
from loadtests.data_cache import cache
from loadtests.data_growth import growth
from loadtests.data_stack import running_data_stack
from loadtests.data_works import hot, insert, reads
from loadtests.options import not_negative, positive, whole
from loadtests.pinning import choose, on_core
from loadtests.programs import BrokenRunError
from loadtests.sides import scratch
from services.problems import Problem

# growth copies the empty database, so it comes before those that fill it.
WORKS: Final = {"growth": growth, "insert": insert, "hot": hot, "reads": reads, "cache": cache}
BROKEN: Final = (BrokenRunError, Problem, asyncpg.PostgresError, OSError, ExceptionGroup)
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 1.0, "warm_up_s": 0.2, "products": 10_000}


async def run(chosen: argparse.Namespace) -> Found:
    """The rows of the works that could be measured, and why others could not."""
    stop_as_asked()
    cores = choose()
    print(f"{cores}; callers and pgbench are on the generator's")
    with scratch() as folder, on_core(cores.generator):
        async with running_data_stack(folder, cores.server) as stack:
            bench = Bench(
                stack,
                cores,
                chosen.rounds,
                chosen.seconds,
                chosen.warm_up_s,
                chosen.products,
                chosen.callers,
            )
            return await by_turns(WORKS, sorted(chosen.only, key=list(WORKS).index), bench, BROKEN)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("bench_data", __doc__)
    options.add_works(parser, WORKS)
    add = parser.add_argument
    add("--seconds", type=positive, default=2.0, help="of each side in each round; pgbench: whole")
    add("--warm-up-s", type=not_negative, default=0.3, help="before each, not measured")
    add("--products", type=whole, default=100_000, help="of the large catalog of growth")
    add("--callers", type=whole, default=CALLERS, help="and clients of pgbench")
    return options.read(parser, arguments, QUICK)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = read_options(arguments)
    return measured("bench-data", chosen, run(chosen), {}, uvloop.run)


if __name__ == "__main__":
    sys.exit(main())
