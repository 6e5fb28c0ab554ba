"""`make bench-business`: business against the usual way to write it, each on one core, by turns.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from loadtests import options
from loadtests.benchmark import Found, by_turns, measured, stop_as_asked
from loadtests.business_sides import Valkey, running_shop, shop_at
from loadtests.business_works import WORKS, Bench
from loadtests.measure import Meter, find_generator
from loadtests.options import not_negative, positive, whole
from loadtests.pinning import choose, on_core
from loadtests.programs import BrokenRunError
from loadtests.sides import scratch

# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 2, "seconds": 1.0, "warm_up_s": 0.5, "products": 1500}


async def run(chosen: argparse.Namespace, meter: Meter) -> Found:
    """The rows of the works that could be measured, and why others could not."""
    stop_as_asked()
    with on_core(meter.cores.generator), scratch() as folder:
        async with _bench(chosen, meter, folder) as bench:
            return await by_turns(WORKS, chosen.only, bench)


@asynccontextmanager
async def _bench(chosen: argparse.Namespace, meter: Meter, folder: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        if chosen.data_dir is None:
            print("starting the stack", flush=True)
            starting = running_shop(meter.cores, folder, chosen.products)
            shop = await stack.enter_async_context(starting)
        else:
            shop = await shop_at(chosen.data_dir, chosen.products)
        valkey = Valkey(shop.valkey_url)
        stack.push_async_callback(valkey.close)
        settings = dict(chosen.setting)
        yield Bench(meter, chosen.rounds, chosen.connections, shop, valkey, folder, settings)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("bench_business", __doc__)
    options.add_works(parser, WORKS)
    add = parser.add_argument
    add("--seconds", type=positive, default=2.0, help="of each side in each round")
    add("--warm-up-s", type=not_negative, default=1.0, help="before each, not measured")
    add("--connections", type=whole, default=32)
    add("--products", type=whole, default=4000, help="in the catalog; each is cold only once")
    options.add_generator(parser)
    options.add_setting(parser, "business")
    options.add_data_dir(parser)
    return options.read(parser, arguments, QUICK)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = read_options(arguments)
    try:
        meter = Meter(find_generator(chosen.generator), choose(), chosen.seconds, chosen.warm_up_s)
    except BrokenRunError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{meter.cores}; generator: {meter.generator}")
    settings = {
        "generator": meter.generator,
        "setting": dict(chosen.setting),
        "server_core": meter.cores.server,
        "generator_core": meter.cores.generator,
    }
    return measured("bench-business", chosen, run(chosen, meter), settings)


if __name__ == "__main__":
    sys.exit(main())
