"""`make load`: product pages and payments against a running stack, by an open loop.

Exit code 0: every arrival was sent and answered; 1: some were not; 69: there is nothing to load.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop

from infra.local.folder import DEFAULT_DATA_DIR, DataFolder, NotRunningError
from loadtests import schedule
from loadtests.generator import Send, open_loop
from loadtests.recorder import PERCENTILES, Recorder
from loadtests.report import Progress, print_parts, print_works
from loadtests.result import NO_PEER, RESULTS, Row, write
from loadtests.shop import Checkouts, Goods, NoShopError, ProductPages, read_goods
from loadtests.usage import Usage, UsageMeter
from services.keepalive import ExchangeError, Pool

VARIANTS_OF: Final = 50  # products whose variants are bought: enough that none sells out soon
WARM_UP_SEED: Final = 1_000_003  # other arrivals than those measured


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: recorders of the works, usage of the parts, seconds from first arrival to last."""

    works: list[Recorder]
    parts: list[Usage]
    own_cpu_s: float
    seconds: float


async def measure(
    options: argparse.Namespace, url: str, parts: Sequence[dict[str, Any]]
) -> Measured:
    """Read the catalog, warm up, run both loads at once."""
    pages = Pool.to(url, size=options.connections)
    checkouts = Pool.to(url, size=options.connections)
    try:
        goods = await read_goods(pages, products=options.products, variants_of=VARIANTS_OF)
        if not goods.variant_ids and options.payments_rate:
            raise NoShopError("everything in the shop is sold out")
        if options.warm_up_s:
            seed = options.seed + WARM_UP_SEED
            await run_works(options, (pages, checkouts), goods, options.warm_up_s, seed)
        meter, own_cpu_s, began_at = UsageMeter(parts), time.process_time(), time.monotonic()
        works = await run_works(
            options, (pages, checkouts), goods, options.seconds, options.seed, show=True
        )
        took_s = time.monotonic() - began_at
        return Measured(works, meter.read(), time.process_time() - own_cpu_s, took_s)
    finally:
        await pages.aclose()
        await checkouts.aclose()


async def run_works(
    options: argparse.Namespace,
    pools: tuple[Pool, Pool],
    goods: Goods,
    seconds: float,
    seed: int,
    *,
    show: bool = False,
) -> list[Recorder]:
    """One run of `seconds`; the recorders of what was asked for."""
    pages, checkouts, payments = (
        Recorder("product page"),
        Recorder("checkout (order, payment)"),
        Recorder("its payment alone"),
    )
    loads: list[tuple[Recorder, Send, Iterator[float]]] = []
    if options.rate:
        browse = ProductPages(pools[0], goods, seed=seed)
        loads.append((pages, browse, _arrivals(options, options.rate, seconds, seed)))
    if options.payments_rate:
        buy = Checkouts(pools[1], goods, payments, seed=seed)
        loads.append((checkouts, buy, _arrivals(options, options.payments_rate, seconds, seed + 1)))
    async with Progress([load[0] for load in loads], seconds, show=show):
        await asyncio.gather(
            *(
                open_loop(arrivals, send, recorder, timeout_s=options.timeout_s)
                for recorder, send, arrivals in loads
            )
        )
    return [recorder for recorder in (pages, checkouts, payments) if recorder.due]


def _arrivals(
    options: argparse.Namespace, rate: float, seconds: float, seed: int
) -> Iterator[float]:
    if options.arrivals == "constant":
        return schedule.constant(rate, seconds)
    return schedule.poisson(rate, seconds, seed=seed)


def rows_of(measured: Measured) -> list[Row]:
    """The figures of a run in the form of a result file."""
    rows: list[Row] = []

    def add(work: str, value: float, unit: str, note: str = NO_PEER) -> None:
        rows.append(Row(work, round(value, 3), unit, note=note))

    for work in measured.works:
        add(work.work, work.answered / measured.seconds, "answers/s")
        for percentile in PERCENTILES:
            add(f"{work.work}, p{percentile:g}", work.percentile_ms(percentile), "ms")
        add(f"{work.work}, max", work.max_ms(), "ms")
        add(f"{work.work}, unsent", work.unsent, "requests")
        add(f"{work.work}, generator late by at most", work.late_us / 1000, "ms")
        for kind, count in work.errors.items():
            add(f"{work.work}, error: {kind}", count, "requests")
        for kind, count in work.refusals.items():
            add(f"{work.work}, refused: {kind}", count, "requests")
    for part in measured.parts:
        add(f"memory of {part.name}", part.memory_bytes, "bytes (PSS)")
        if part.cpu_s is not None:
            add(f"CPU of {part.name}", part.cpu_s, "s")
    add("CPU of the generator", measured.own_cpu_s, "s")
    return rows


def find_stack(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """The address to load and the parts to measure; NotRunningError where there is neither.

    An address that was given may be anywhere: then only parts of a local stack with the same
    address are measured.
    """
    try:
        state = DataFolder.at(options.data_dir).running_state()
    except NotRunningError:
        if options.url is None:
            raise
        return options.url, []
    url = options.url or str(state["url"])
    return url, state["parts"] if url.rstrip("/") == state["url"] else []


def report(options: argparse.Namespace, url: str, measured: Measured, started_at: datetime) -> int:
    """Print and write the result; the exit code."""
    print_works(measured.works, measured.seconds)
    print()
    requests = sum(work.sent for work in measured.works)
    print_parts(measured.parts, measured.own_cpu_s, requests)
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if name not in ("data_dir", "results")
    }
    path = write(
        "load",
        rows_of(measured),
        settings=settings | {"url": url},
        started_at=started_at,
        folder=options.results,
    )
    print(f"\nwritten to {path}")
    failed = [work.work for work in measured.works if work.failed]
    if failed:
        print(f"failed: {', '.join(failed)}: arrivals unsent or errors, see above", file=sys.stderr)
    return 1 if failed else 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.load", description=__doc__)
    add = parser.add_argument
    add("--url", help="the shop; without it, the stack that runs on the data folder")
    add("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help="of the local stack")
    add("--rate", type=_not_negative, default=200.0, help="product pages a second")
    add("--payments-rate", type=_not_negative, default=10.0, help="orders placed and paid a second")
    add("--seconds", type=_positive, default=15.0)
    add("--warm-up-s", type=_not_negative, default=2.0, help="before it, not measured")
    add("--arrivals", choices=["poisson", "constant"], default="poisson")
    add("--seed", type=int, default=1)
    add("--products", type=int, default=1000, help="how many different pages at most")
    add("--connections", type=int, default=64, help="kept alive, for pages and checkouts each")
    add("--timeout-s", type=_positive, default=5.0, help="from the intended start")
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    options = parser.parse_args(arguments)
    if not options.rate and not options.payments_rate:
        parser.error("nothing to do: --rate and --payments-rate are 0")
    return options


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("can not be negative")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    started_at = datetime.now(UTC)
    try:
        url, parts = find_stack(options)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measured = runner.run(measure(options, url, parts))
    except (NotRunningError, NoShopError) as error:
        print(error, file=sys.stderr)
        return os.EX_UNAVAILABLE
    except ExchangeError as error:
        print(f"nothing to load at {url}: {error}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    return report(options, url, measured, started_at)


if __name__ == "__main__":
    sys.exit(main())
