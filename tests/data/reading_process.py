"""A process of business that reads product pages: python -m tests.data.reading_process SLUG

Each line on standard input is a round: `read N` has N readers at once, `expire` lets the time of
the page in memory run out, `forget` lets it go. Each is answered by one line of JSON. The
environment has the settings.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

import orjson
import uvloop

from services.business.catalog import gather_product
from services.business.shop import Shop, open_shop
from services.data.pages import Page
from services.data.sources import Reader
from services.settings import BusinessSettings, load
from services.telemetry import configure_logging
from tests.faults.waiting import until

READY_WITHIN_S = 20.0


async def main(slug: str) -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    settings = load(BusinessSettings)
    configure_logging("reading", settings)  # to standard error: the answers are on the other one
    async with open_shop(settings) as shop:
        await until(
            lambda: (
                shop.store.tags.verified_since() is not None and shop.database.primary.position > 0
            ),
            within_s=READY_WITHIN_S,
            what="changes are heard of, and the servers' positions are known",
        )
        say({"ready": True})
        while line := (await lines.readline()).split():
            if line[0] == b"expire":
                shop.pages.memory.entries[slug].expires_at = time.monotonic()
                say({})
            elif line[0] == b"forget":
                shop.pages.memory.clear()
                say({})
            else:
                say(await read(shop, slug, int(line[1])))


async def read(shop: Shop, slug: str, readers: int) -> dict[str, Any]:
    async def load(reader: Reader) -> tuple[Page, Sequence[str]] | None:
        page = await gather_product(reader, slug)
        return (page, page.tags) if page is not None else None

    async def one() -> float:
        began_at = time.monotonic()
        assert await shop.pages.get(slug, load) is not None
        return time.monotonic() - began_at

    before = shop.pages.counts.loads
    took_s = sorted(await asyncio.gather(*(one() for _ in range(readers))))
    await shop.pages.settled()
    loads = shop.pages.counts.loads - before
    return {"loads": loads, "median_ms": 1000 * took_s[readers // 2], "max_ms": 1000 * took_s[-1]}


def say(words: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(words).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))  # as business does
