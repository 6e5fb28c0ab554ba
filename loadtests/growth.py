"""`make growth`: does a request cost the same in a large shop, and with many connections open?

CPU microseconds of a held page, of a page from Valkey and of one read from the database by its
key, at catalogs of growing size, and of a held page at growing numbers of connections. Of the
largest catalog the plans of all reads are looked at as well. Exit code 1: one of the curves is not
flat within 20 %, a read is not found by its index, or something broke.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import uvloop

from loadtests import options, peers
from loadtests.access_process import require_held, running_access
from loadtests.benchmark import PLACES, interrupted
from loadtests.data_stack import DataStack, running_data_stack
from loadtests.grown import grow
from loadtests.growth_sides import Cost, Sized, heard, sized
from loadtests.measure import Load, Meter, find_generator
from loadtests.options import positive, whole
from loadtests.pinning import Cores, choose, on_core, raise_file_limit
from loadtests.plans import faults
from loadtests.programs import BrokenRunError
from loadtests.report import print_table
from loadtests.result import NO_PEER, Row, write
from loadtests.sides import scratch
from loadtests.story import Check, Curve, Story
from loadtests.targets import HELD_TARGET
from loadtests.verdicts import print_checks
from services.data.shared import SETTLED_S
from services.keepalive import ExchangeError

FLAT_WITHIN: Final = 0.2
SIZES: Final = [1_000, 10_000, 100_000, 1_000_000]
# Of fewer products some tables are so small that to read them whole is right.
PLANS_FROM: Final = 50_000
PRODUCTS_AN_ORDER: Final = 10  # orders take most of the time, and their tables are large by then
CONNECTIONS: Final = [10, 100, 1000, 5000]
# Enough that the clock of a process, which ticks in hundredths of a second, is right to 3 %.
REQUESTS: Final = {"held page": 20_000, "from Valkey": 3_000, "cold, by key": 900, "mix": 3_000}
MIX: Final = "mix"
BY_CONNECTIONS: Final = "held page, by connections"
# What broke is told in words; everything else is a mistake of this program.
BROKEN: Final = (
    BrokenRunError,
    ExchangeError,
    OSError,
    TimeoutError,
    ValueError,
    asyncpg.PostgresError,
)

Costs = dict[str, dict[int, list[float]]]  # by path and size: of each round


@dataclass
class Grown:
    """costs: of all paths, by size or connections; hits: the hit rate of the mix, by size; plans:
    whether all reads are found by their indexes in the largest catalog, if it is large enough."""

    costs: Costs = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    hits: dict[int, float] = field(default_factory=dict)
    plans: list[Check] = field(default_factory=list)


async def growth(chosen: argparse.Namespace, cores: Cores) -> Grown:
    grown = Grown()
    with scratch() as folder, on_core(cores.generator):
        # First, since the kernel goes on writing for minutes after millions of rows were made.
        if chosen.connections:
            await _by_connections(chosen, cores, folder, grown.costs)
        if chosen.sizes:
            async with running_data_stack(folder, cores.server) as data:
                await _by_size(chosen, cores, folder, data, grown)
                if max(chosen.sizes) >= PLANS_FROM:
                    grown.plans.append(await check_plans(data, max(chosen.sizes)))
    return grown


async def _by_size(
    chosen: argparse.Namespace, cores: Cores, folder: Path, data: DataStack, grown: Grown
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(heard(data))
        shops = [
            await stack.enter_async_context(sized(data, products, number, cores, folder))
            for number, products in enumerate(chosen.sizes)
        ]
        await asyncio.sleep(SETTLED_S)  # what is filled from now on is as in a process of a minute
        for number in range(chosen.rounds):
            for shop in reversed(shops) if number % 2 else shops:
                for path, ask in _paths(shop, chosen.requests, seed=number).items():
                    cost = await ask()
                    grown.costs[path][shop.products].append(cost.cpu_us)
                    if path == MIX:
                        grown.hits[shop.products] = cost.hits
            print(f"round {number + 1} of {chosen.rounds}", flush=True)


async def check_plans(data: DataStack, products: int) -> Check:
    """Look at the plans of all reads, in a database that is filled for nothing else."""
    began_at = time.monotonic()
    database = await data.copy("bench_plans")
    dsn = database.dsn("postgres")
    await grow(dsn, products, orders=products // PRODUCTS_AN_ORDER)
    filled_s = time.monotonic() - began_at
    print(f"{products:>9,} products with orders: filled in {filled_s:.1f} s", flush=True)
    connection = await asyncpg.connect(dsn)
    try:
        wrong = await faults(connection, products)
    finally:
        await connection.close()
    what = f"every read is found by its index, of {products:,} products"
    return Check(what, not wrong, "; ".join(wrong))


def _paths(shop: Sized, share: float, *, seed: int) -> Mapping[str, Callable[[], Awaitable[Cost]]]:
    """share: of the usual number of requests."""
    count = {path: max(1, round(requests * share)) for path, requests in REQUESTS.items()}
    return {
        "held page": lambda: shop.held(count["held page"]),
        "from Valkey": lambda: shop.from_valkey(count["from Valkey"]),
        "cold, by key": lambda: shop.cold(count["cold, by key"], seed),
        MIX: lambda: shop.mix(count[MIX], seed),
    }


async def _by_connections(
    chosen: argparse.Namespace, cores: Cores, folder: Path, costs: Costs
) -> None:
    """Held pages before the stand-in for business, in a closed loop."""
    raise_file_limit()
    meter = Meter(find_generator("auto"), cores, chosen.seconds, warm_up_s=chosen.seconds / 4)
    behind = await peers.PYTHON.launch(folder)
    async with running_access(behind, cores, folder, {}) as access:
        await require_held(access, HELD_TARGET)
        for number in range(chosen.rounds):
            in_turn = chosen.connections
            for connections in reversed(in_turn) if number % 2 else in_turn:
                figures = await meter.measure(access, Load(HELD_TARGET, connections))
                costs[BY_CONNECTIONS][connections].append(figures.cpu_us)


def verdicts(costs: Costs) -> list[Check]:
    """Whether each curve is flat: ratios to its first point, round by round, and their median."""
    found = []
    for path, by_size in costs.items():
        if path == MIX:
            continue
        ratios = relative(by_size)
        spread = max(ratios.values()) / min(ratios.values()) - 1
        worst = ", ".join(f"{size:,}: {ratio:.2f}" for size, ratio in ratios.items())
        what = f"{path}: flat within {FLAT_WITHIN:.0%}"
        found.append(Check(what, spread <= FLAT_WITHIN, f"{spread:.0%} apart; {worst}"))
    return found


def relative(by_size: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """Of each size, the median of the rounds' ratios to the first size."""
    first = next(iter(by_size.values()))
    return {
        size: statistics.median(cost / begun for cost, begun in zip(each, first, strict=True))
        for size, each in by_size.items()
    }


def rows_of(costs: Costs, hits: Mapping[int, float]) -> list[Row]:
    rows = []
    for path, by_size in costs.items():
        of = "connections" if path == BY_CONNECTIONS else "products"
        first, begun = next(iter(by_size.items()))
        for size, each in by_size.items():
            work, value = f"{path}, {size:,} {of}", round(statistics.median(each), 2)
            if size == first:
                rows.append(Row(work, value, "CPU us each", note=NO_PEER))
                continue
            runs = [round(cost / base, 4) for cost, base in zip(each, begun, strict=True)]
            peer, theirs = f"{first:,} {of}", round(statistics.median(begun), 2)
            rows.append(Row(work, value, "CPU us each", peer, theirs, runs=runs))
    rows += [
        Row(f"{MIX}, {size:,} products, held", round(share, 3), "of answers", note=NO_PEER)
        for size, share in hits.items()
    ]
    return rows


def story(command: str, costs: Costs, checks: Sequence[Check]) -> Story:
    def lines(paths: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
        return {
            path: [(float(size), statistics.median(each)) for size, each in costs[path].items()]
            for path in paths
            if path in costs
        }

    by_size = lines([path for path in costs if path != BY_CONNECTIONS])
    curves = [
        Curve("cost of a request", "products", "CPU us", by_size, log_x=True),
        Curve("a held page", "connections", "CPU us", lines([BY_CONNECTIONS]), log_x=True),
    ]
    return Story(command, curves=[one for one in curves if one.lines], checks=checks)


def print_costs(costs: Costs, hits: Mapping[int, float]) -> None:
    for of, paths in (
        ("products", [path for path in costs if path != BY_CONNECTIONS]),
        ("connections", [path for path in costs if path == BY_CONNECTIONS]),
    ):
        if not paths:
            continue
        sizes = list(costs[paths[0]])
        rows = [
            [path, *(f"{statistics.median(costs[path][size]):.1f}" for size in sizes)]
            for path in paths
        ]
        if of == "products":
            rows.append(["(held, of the mix)", *(f"{hits[size]:.0%}" for size in sizes)])
        print()
        print_table([f"CPU us a request, by {of}", *(f"{size:,}" for size in sizes)], rows)


def sizes(text: str) -> list[int]:
    return [whole(word.replace("_", "")) for word in text.split(",") if word]


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = options.parser_of("growth", __doc__)
    add = parser.add_argument
    add("--sizes", type=sizes, default=SIZES, help="of the catalog, by commas; '' leaves it out")
    add("--connections", type=sizes, default=CONNECTIONS, help="by commas; '' leaves it out")
    add("--rounds", type=whole, default=3)
    add("--requests", type=positive, default=1.0, help="times the usual number of requests")
    add("--seconds", type=positive, default=2.0, help="of each number of connections")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    chosen, started_at, cores = read_options(arguments), datetime.now(UTC), choose()
    print(cores)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            grown = runner.run(growth(chosen, cores))
    except BROKEN as error:
        print(f"broke: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted()
    costs, hits = grown.costs, grown.hits
    checks = verdicts(costs) + grown.plans
    print_costs(costs, hits)
    print()
    print_checks(checks)
    settings: dict[str, Any] = {
        name: value for name, value in vars(chosen).items() if name not in PLACES
    }
    command = options.command("make growth", chosen, _parser(), without=PLACES)
    path = write(
        "growth",
        rows_of(costs, hits),
        settings={**settings, "server_core": cores.server},
        started_at=started_at,
        folder=chosen.results,
        story=story(command, costs, checks),
    )
    print(f"\nwritten to {path}")
    return 0 if all(check.held for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
