"""The cache in `make bench-data`: a product from process memory, and many from Valkey."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis

from loadtests.callers import Ask
from loadtests.data_bench import CALLERS, Bench, compared
from loadtests.data_goods import fill
from loadtests.heartbeat import beating
from loadtests.programs import BrokenRunError
from loadtests.result import Aim, Row
from services.business.catalog import gather_product
from services.data.cache import Cache
from services.data.filling import Load
from services.data.pages import Page
from services.data.shared import SETTLED_S
from services.data.sources import Reader
from services.data.store import Store, open_store
from services.settings import DatabaseSettings
from services.valkey import close, connect

PAGES: Final = 2000
LIFETIME_S: Final = 3600.0  # nothing expires while it is measured
# What is measured is what a read costs, with a loop that is never idle: nobody gives up meanwhile.
PATIENT_MS: Final = 5000
LIMIT_US: Final = 2.0
# From memory, between two looks at the clock. A heartbeat takes some ten turns of the loop: with
# ten times as many loads it came late, and pages from Valkey were checked as by a new process.
LOADS: Final = 2000
HEARD_S: Final = 10.0  # the first heartbeats take a second
POLL_S: Final = 0.05
VALKEY_AIM: Final = Aim("at least", 3.0)
MEMORY_AIM: Final = Aim("at most", 1.0)


async def cache(bench: Bench) -> list[Row]:
    """Product pages: one again and again, and each of 2,000 by a process that has none yet."""
    await fill(bench.stack, PAGES)
    settings = bench.stack.settings(cache_timeout_ms=PATIENT_MS)
    async with open_store(settings) as store, _heartbeat(store, settings):
        slugs = [f"bench-{number}" for number in range(1, PAGES + 1)]
        pages = _cache(store)
        for begin in range(0, PAGES, CALLERS):
            await asyncio.gather(*(_page(pages, slug) for slug in slugs[begin : begin + CALLERS]))
        await pages.settled()  # all of them are in Valkey
        return [*await _from_memory(pages, bench), *await _from_valkey(store, slugs, bench)]


async def _from_memory(pages: Cache[Page], bench: Bench) -> list[Row]:
    slug, runs = "bench-1", []
    load = _load(slug)
    for _ in range(bench.rounds):
        taken_us, ends_at = [], time.perf_counter() + bench.seconds
        while time.perf_counter() < ends_at:
            began_at = time.perf_counter()
            for _ in range(LOADS):
                await pages.get(slug, load)
            taken_us.append((time.perf_counter() - began_at) * 1e6 / LOADS)
            await asyncio.sleep(0)  # heartbeats are heard between
        runs.append(statistics.median(taken_us))
    return [
        Row(
            "a product page from process memory",
            round(statistics.median(runs), 3),
            "us each",
            "limit",
            LIMIT_US,
            MEMORY_AIM,
            [round(run / LIMIT_US, 4) for run in runs],
        )
    ]


async def _from_valkey(store: Store, slugs: Sequence[str], bench: Bench) -> list[Row]:
    """Each page once by a cache with nothing in its memory, which is emptied after the last one."""
    ours = _every(store, slugs)
    keys = itertools.cycle(await _stored(store.valkey))

    async def theirs() -> None:
        if await store.valkey.get(next(keys)) is None:
            raise BrokenRunError("a page is not in Valkey")

    sides = {"ours": bench.calls(ours), "redis-py": bench.calls(theirs)}
    figures = await bench.turns(sides)
    work = f"product pages from Valkey, checked against purges and decoded, c={bench.callers}"
    peer = f"redis-py, GET of each, c={bench.callers}"
    return compared(
        work, figures["ours"], peer, figures["redis-py"], aim=VALKEY_AIM, unit="pages/s"
    )


def _every(store: Store, slugs: Sequence[str]) -> Ask:
    """Asks for the next page each time; after the last one nothing is in memory, and on it goes.

    It is one cache, as a process has one: those that came before would stay in the stream's hands,
    and the collector of garbage would walk through more pages in each round.
    """
    pages = _cache(store)
    left: list[str] = []

    async def ask() -> None:
        if not left:
            pages.memory.clear()
            left.extend(slugs)
        slug = left.pop()
        if await pages.get(slug, _not_there) is None:
            raise BrokenRunError(f"{slug} is not in Valkey")

    return ask


async def _not_there(_: Reader) -> None:
    raise BrokenRunError("a page was to come from Valkey, and the database was asked")


async def _stored(valkey: Redis) -> list[bytes]:
    return [key async for key in valkey.scan_iter(match="tercet:bench:*", count=1000)]


async def _page(pages: Cache[Page], slug: str) -> None:
    if await pages.get(slug, _load(slug)) is None:
        raise BrokenRunError(f"there is no product {slug}")


def _load(slug: str) -> Load[Page]:
    async def load(reader: Reader) -> tuple[Page, Sequence[str]] | None:
        found = await gather_product(reader, slug)
        return (found, found.tags) if found is not None else None

    return load


def _cache(store: Store) -> Cache[Page]:
    return Cache(
        "bench",
        Page,
        version=1,
        ttl_s=LIFETIME_S,
        size_of=lambda page: len(page.body),
        database=store.database,
        valkey=store.cached,
        stream=store.tags,
        loads=store.loads,
    )


@asynccontextmanager
async def _heartbeat(store: Store, settings: DatabaseSettings) -> AsyncIterator[None]:
    """A relay is heard; what is filled from now on is as in a process of a minute."""
    own = connect(settings, timeout_s=HEARD_S)
    try:
        async with beating(own):
            for _ in range(round(HEARD_S / POLL_S)):
                if store.tags.verified_since() is not None:
                    break
                await asyncio.sleep(POLL_S)
            else:
                raise BrokenRunError("no heartbeat is heard")
            await asyncio.sleep(SETTLED_S)
            yield
    finally:
        await close(own)
