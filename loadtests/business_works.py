"""The works of `make bench-business`: what is measured of business, and with which aim."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from loadtests.business_sides import (
    Lookups,
    Shop,
    Valkey,
    business,
    require_same,
    usual,
)
from loadtests.comparison import Measure, cpu_row, p99_row, rate_row, take_turns
from loadtests.measure import Figures, Load, Meter
from loadtests.programs import BrokenRunError, Program, output_of, running
from loadtests.result import NO_PEER, Aim, Row

OURS: Final = "business"
TWIN: Final = "Starlette, redis-py, asyncpg"
# Those who are asked for most: what a process holds anyway.
POPULAR: Final = 100
# More than are ever asked for at once, so that no two requests share a look into Valkey.
STORED: Final = 500
NO_MEMORY: Final = {"TERCET_CACHE_MEMORY_BYTES": "0"}
STAGE: Final = f"{NO_PEER}; loadtests/business_stages.py says how it is told apart"
# Of the answers: how many may, or have to be, what the work says. Others fill and expire.
SOME, MOST = 0.1, 0.9

Check = Callable[[Lookups, float], bool]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every work needs to know."""

    meter: Meter
    rounds: int
    connections: int
    shop: Shop
    valkey: Valkey
    folder: Path
    settings: Mapping[str, str]  # of business, instead of its defaults


async def memory(bench: Bench) -> list[Row]:
    """The page from process memory; the twin has it from Valkey, as it always has."""
    pages = bench.shop.pages[:POPULAR]
    work = f"product page from process memory, c={bench.connections}"
    aim = Aim("at least", 2.0)
    return await _compare(bench, work, pages, aim=aim, ours=_from_memory, theirs=_from_valkey)


async def valkey(bench: Bench) -> list[Row]:
    """The page from Valkey on both sides: business without process memory."""
    pages = bench.shop.pages[:STORED]
    work = f"product page from Valkey, c={bench.connections}"
    return await _compare(
        bench, work, pages, ours=_from_valkey, theirs=_from_valkey, settings=NO_MEMORY
    )


async def cold(bench: Bench) -> list[Row]:
    """The page from the database, by key: Valkey is asked in vain, and is given the page."""
    pages = bench.shop.pages
    work = f"product page from the database, c={bench.connections}"
    return await _compare(
        bench, work, pages, ours=_not_found, theirs=_not_found, settings=NO_MEMORY, empty=True
    )


async def lists(bench: Bench) -> list[Row]:
    """The first page of each category's list, from the cache of each side."""
    work = f"product list from the cache, c={bench.connections}"
    targets = bench.shop.lists
    return await _compare(bench, work, targets, ours=_from_memory, theirs=_from_valkey)


async def stages(bench: Bench) -> list[Row]:
    """What a page from process memory costs, by stage, and what of it all is spent elsewhere."""
    target, core = bench.shop.pages[0], bench.meter.cores.server
    load = Load(target, bench.connections, headers=bench.shop.headers)
    log_file = bench.folder / "business.log"
    async with running(business(bench.shop, bench.settings), core, log_file) as server:
        figures = [await bench.meter.measure(server, load) for _ in range(bench.rounds)]
    command = [sys.executable, "-m", "loadtests.business_stages", "--target", target]
    command += ["--data-dir", str(bench.shop.data_dir)]
    found: dict[str, float] = json.loads(await output_of(command, core))
    whole_us = statistics.median(one.cpu_us for one in figures)
    found |= {"event loop and kernel: waiting, reading, writing": whole_us - sum(found.values())}
    work = "product page from process memory, CPU of"
    return [
        Row(f"{work} {name}", round(value, 3), "us each", note=STAGE)
        for name, value in (*found.items(), ("all", whole_us))
    ]


WORKS: Final[dict[str, Callable[[Bench], Awaitable[list[Row]]]]] = {
    "memory": memory,
    "valkey": valkey,
    "cold": cold,
    "list": lists,
    "stages": stages,
}


async def _compare(
    bench: Bench,
    work: str,
    targets: Sequence[str],
    *,
    ours: Check,
    theirs: Check,
    aim: Aim | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
    empty: bool = False,
) -> list[Row]:
    """Start both, see that they answer alike, take turns, compare. empty: Valkey, each time."""
    listed = bench.folder / "targets"
    listed.write_text("".join(f"{target}\n" for target in targets))
    load = Load(targets[0], bench.connections, targets_file=listed)
    core = bench.meter.cores.server
    async with AsyncExitStack() as stack:
        launch = business(bench.shop, {**settings, **bench.settings})
        first = await stack.enter_async_context(
            running(launch, core, bench.folder / "business.log")
        )
        second = await stack.enter_async_context(
            running(usual(bench.shop), core, bench.folder / "usual.log")
        )
        await require_same(bench.shop, first, second, targets[:STORED])
        sides = {
            OURS: _side(bench, first, replace(load, headers=bench.shop.headers), ours, empty),
            TWIN: _side(bench, second, load, theirs, empty),
        }
        figures = await take_turns(sides, bench.rounds)
    a, b = figures[OURS], figures[TWIN]
    return [
        rate_row(work, a, TWIN, b, aim=aim, side=OURS),
        p99_row(work, a, TWIN, b, aim=None),
        cpu_row(work, a, TWIN, b),
    ]


def _side(bench: Bench, server: Program, load: Load, check: Check, empty: bool) -> Measure:
    """One measurement; BrokenRunError when the answers did not come from where they should."""
    meter = replace(bench.meter, warm_up_s=0)
    warm_up = replace(meter, seconds=bench.meter.warm_up_s)

    async def measure() -> Figures:
        # By two runs, because the first one stores what the second one must not find.
        for run in (warm_up, meter) if warm_up.seconds else (meter,):
            if empty:
                await bench.valkey.forget()
            before = await bench.valkey.lookups()
            figures = await run.measure(server, load)
        looked_up = (await bench.valkey.lookups()).since(before)
        answers = figures.rate * meter.seconds
        if not check(looked_up, answers):
            raise BrokenRunError(
                f"{server.url()}: {answers:.0f} answers, but Valkey found {looked_up.hits} keys"
                f" and missed {looked_up.misses}"
            )
        return figures

    return measure


def _from_memory(looked_up: Lookups, answers: float) -> bool:
    return looked_up.hits + looked_up.misses < SOME * answers


def _from_valkey(looked_up: Lookups, answers: float) -> bool:
    return looked_up.hits > MOST * answers


def _not_found(looked_up: Lookups, answers: float) -> bool:
    return looked_up.misses > MOST * answers
