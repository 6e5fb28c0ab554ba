"""`make bench-access`: access against Node, Go, Gin and nginx, each on one core, by turns.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from loadtests import options, peers
from loadtests.access_works import WORKS
from loadtests.benchmark import Found, by_turns, measured, stop_as_asked
from loadtests.measure import Meter, find_generator
from loadtests.options import names, not_negative, positive, whole
from loadtests.pinning import choose, on_core, raise_file_limit
from loadtests.programs import BrokenRunError
from loadtests.sides import Bench

SPARE_FILES: Final = 500  # open files of a server besides its clients'
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 2, "seconds": 1.0, "warm_up_s": 0.5, "idle_connections": 2000}


async def run(bench: Bench, works: Sequence[str]) -> Found:
    """The rows of the works that could be measured, and why others could not."""
    stop_as_asked()
    with on_core(bench.meter.cores.generator):
        return await by_turns(WORKS, works, bench)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("bench_access", __doc__)
    options.add_works(parser, WORKS)
    add, keys = parser.add_argument, [peer.key for peer in peers.ALL]
    add("--seconds", type=positive, default=3.0, help="of each side in each round")
    add("--warm-up-s", type=not_negative, default=1.0, help="before each, not measured")
    add("--connections", type=whole, default=360)
    add("--idle-connections", type=whole, default=10_000)
    add("--settle-s", type=not_negative, default=1.0, help="before memory is read")
    options.add_generator(parser)
    add("--peers", type=names(keys), default=keys[:-1], metavar=",".join(keys))
    options.add_setting(parser, "access")
    return options.read(parser, arguments, QUICK)


def _bench(chosen: argparse.Namespace) -> Bench:
    files = raise_file_limit()
    idle = min(chosen.idle_connections, files - SPARE_FILES)
    if idle < chosen.idle_connections:
        print(f"this user may open {files} files: {idle} idle connections instead of more")
    meter = Meter(find_generator(chosen.generator), choose(), chosen.seconds, chosen.warm_up_s)
    print(f"{meter.cores}; generator: {meter.generator}")
    wanted = [peer for peer in peers.ALL if peer.key in chosen.peers]
    return Bench(
        meter=meter,
        rounds=chosen.rounds,
        connections=chosen.connections,
        idle_connections=idle,
        settle_s=chosen.settle_s,
        peers=wanted,
        settings=dict(chosen.setting),
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
        "setting": dict(bench.settings),
        "idle_connections": bench.idle_connections,
        "server_core": bench.meter.cores.server,
        "generator_core": bench.meter.cores.generator,
    }
    return measured("bench-access", chosen, run(bench, chosen.only), settings)


if __name__ == "__main__":
    sys.exit(main())
