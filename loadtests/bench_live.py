"""`make bench-live`: ten thousand live streams on access, what a change takes to reach them, pages.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from loadtests import options
from loadtests.benchmark import Found, by_turns, measured, stop_as_asked
from loadtests.live_works import MANY_FILES, WORKS, Bench
from loadtests.measure import Meter, find_generator
from loadtests.options import not_negative, positive, whole
from loadtests.pinning import choose, on_core, raise_file_limit
from loadtests.programs import BrokenRunError

# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 1.0, "warm_up_s": 0.5, "streams": 1000, "many": 2000}


async def run(bench: Bench, works: Sequence[str]) -> Found:
    """The rows of the works that could be measured, and why others could not."""
    stop_as_asked()
    with on_core(bench.meter.cores.generator):
        return await by_turns(WORKS, works, bench)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("bench_live", __doc__)
    options.add_works(parser, WORKS, rounds=3)
    add = parser.add_argument
    add("--seconds", type=positive, default=3.0, help="of pages, each side in each round")
    add("--warm-up-s", type=not_negative, default=1.0, help="before each, not measured")
    add("--connections", type=whole, default=64, help="that ask for pages beside the streams")
    add("--streams", type=whole, default=10_000)
    add("--many", type=whole, default=100_000, help="streams of all processes of the last work")
    add("--settle-s", type=not_negative, default=1.0, help="before memory is read")
    options.add_generator(parser)
    return options.read(parser, arguments, QUICK)


def _bench(chosen: argparse.Namespace) -> Bench:
    files = raise_file_limit()
    streams = min(chosen.streams, files - 2 * MANY_FILES)
    if streams < chosen.streams:
        print(f"this user may open {files} files: {streams} streams instead of more")
    meter = Meter(find_generator(chosen.generator), choose(), chosen.seconds, chosen.warm_up_s)
    print(f"{meter.cores}; generator: {meter.generator}; files of a process: {files}")
    return Bench(
        meter=meter,
        rounds=chosen.rounds,
        connections=chosen.connections,
        streams=streams,
        many=chosen.many,
        files=files,
        settle_s=chosen.settle_s,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = read_options(arguments)
    try:
        bench = _bench(chosen)
    except BrokenRunError as error:
        print(error, file=sys.stderr)
        return 1
    settings = {
        "generator": bench.meter.generator,
        "streams": bench.streams,
        "files": bench.files,
        "server_core": bench.meter.cores.server,
        "generator_core": bench.meter.cores.generator,
    }
    return measured("bench-live", chosen, run(bench, chosen.only), settings)


if __name__ == "__main__":
    sys.exit(main())
