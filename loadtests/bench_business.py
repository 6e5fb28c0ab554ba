"""`make bench-business`: business against the usual way to write it, each on one core, by turns.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtests.business_sides import Valkey, running_shop, shop_at
from loadtests.business_works import WORKS, Bench
from loadtests.measure import Meter, find_generator
from loadtests.options import names, not_negative, positive, setting, whole
from loadtests.pinning import choose, on_core
from loadtests.programs import BrokenRunError
from loadtests.report import conclude
from loadtests.result import RESULTS, Row
from loadtests.sides import scratch

PLACES: Final = ("results", "data_dir")  # of no interest to who reads a result
EXIT_INTERRUPTED: Final = 130  # what a shell says of a program that Ctrl-C ended
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 2, "seconds": 1.0, "warm_up_s": 0.5, "products": 1500}


async def run(options: argparse.Namespace, meter: Meter) -> tuple[list[Row], list[str]]:
    """The rows of the works that could be measured, and why others could not."""
    rows: list[Row] = []
    failures: list[str] = []
    task = asyncio.current_task()
    if task is not None:  # so that a SIGTERM ends what was started, as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with on_core(meter.cores.generator), scratch() as folder:
        async with _bench(options, meter, folder) as bench:
            for name in options.only:
                print(f"measuring: {name}", flush=True)
                try:
                    rows += await WORKS[name](bench)
                except (BrokenRunError, TimeoutError, OSError, ValueError) as error:
                    failures.append(f"{name}: {str(error) or type(error).__name__}")
    return rows, failures


@asynccontextmanager
async def _bench(options: argparse.Namespace, meter: Meter, folder: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        if options.data_dir is None:
            print("starting the stack", flush=True)
            starting = running_shop(meter.cores, folder, options.products)
            shop = await stack.enter_async_context(starting)
        else:
            shop = await shop_at(options.data_dir, options.products)
        valkey = Valkey(shop.valkey_url)
        stack.push_async_callback(valkey.close)
        settings = dict(options.setting)
        yield Bench(meter, options.rounds, options.connections, shop, valkey, folder, settings)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_business", description=__doc__)
    add = parser.add_argument
    add("--only", type=names(list(WORKS)), default=list(WORKS), metavar=",".join(WORKS))
    add("--rounds", type=whole, default=5)
    add("--seconds", type=positive, default=2.0, help="of each side in each round")
    add("--warm-up-s", type=not_negative, default=1.0, help="before each, not measured")
    add("--connections", type=whole, default=32)
    add("--products", type=whole, default=4000, help="in the catalog; each is cold only once")
    add("--generator", choices=["auto", "wrk", "own"], default="auto")
    add(
        "--setting",
        type=setting,
        action="append",
        default=[],
        metavar="TERCET_…=VALUE",
        help="of business instead of its default, recorded in the result; may be given again",
    )
    add("--data-dir", type=Path, help="of a running stack to use instead of a new one")
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    if os.environ.get("QUICK", "") not in ("", "0"):
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options, started_at = read_options(arguments), datetime.now(UTC)
    try:
        meter = Meter(
            find_generator(options.generator), choose(), options.seconds, options.warm_up_s
        )
        print(f"{meter.cores}; generator: {meter.generator}")
        rows, failures = asyncio.run(run(options, meter))
    except BrokenRunError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: nothing is written", file=sys.stderr)
        return EXIT_INTERRUPTED
    settings = {name: value for name, value in vars(options).items() if name not in PLACES} | {
        "generator": meter.generator,
        "setting": dict(options.setting),
        "server_core": meter.cores.server,
        "generator_core": meter.cores.generator,
    }
    return conclude(
        "bench-business",
        rows,
        failures,
        settings=settings,
        started_at=started_at,
        folder=options.results,
    )


if __name__ == "__main__":
    sys.exit(main())
