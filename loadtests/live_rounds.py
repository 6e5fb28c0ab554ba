"""How long a round of the worker `live` takes while many products are watched and few change.

python -m loadtests.live_rounds: a stack of its own, streams that watch so many products, some
orders, and the mean and the longest of the rounds by the worker's own metrics. Exit code 0: the
mean is within the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import urllib.request
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import uvloop

from loadtests import options
from loadtests.generator import Start
from loadtests.own_stack import Shop, own_shop
from loadtests.programs import BrokenRunError
from loadtests.recorder import Recorder
from loadtests.scenario import Stack
from loadtests.shop import Checkouts, Goods, read_goods
from services.deadline import Deadline
from services.keepalive import Patience, Pool

PRODUCTS_A_STREAM: Final = 50  # as many as one may ask for
VARIANTS_OF: Final = 20  # products that are bought
SETTLE_S: Final = 6.0  # until the worker has told all of them once
ORDER_EVERY_S: Final = 0.5
ORDER_S: Final = 5.0
LIMIT_S: Final = 0.3
SUM: Final = re.compile(r"^tercet_worker_round_seconds_sum\S* (\S+)$", re.MULTILINE)
COUNT: Final = re.compile(r"^tercet_worker_round_seconds_count\S* (\S+)$", re.MULTILINE)


async def measure(products: int, seconds: float) -> float:
    """Mean seconds of a round."""
    async with own_shop(Stack(products=products)) as shop:
        pool = Pool.to(shop.url, size=2)
        goods = await read_goods(pool, products=products, variants_of=VARIANTS_OF)
        writers = await _listen(shop.url, goods.slugs)
        ordering = asyncio.create_task(_order(pool, goods))
        try:
            await asyncio.sleep(SETTLE_S)
            before_s, before = await _rounds(shop)
            await asyncio.sleep(seconds)
            after_s, after = await _rounds(shop)
        finally:
            ordering.cancel()
            await asyncio.gather(ordering, return_exceptions=True)
            for writer in writers:
                writer.close()
            await pool.aclose()
        rounds = after - before
        if not rounds:
            raise BrokenRunError(f"no round ended within {seconds:g} s")
        mean_s = (after_s - before_s) / rounds
        print(f"{len(goods.slugs):,} products: {rounds} rounds, {mean_s * 1000:.0f} ms each")
        return mean_s


async def _listen(url: str, slugs: Sequence[str]) -> list[asyncio.StreamWriter]:
    """Streams that stay open and are not read: what they are told fits into the socket."""
    address = urlsplit(url)
    writers = []
    for at in range(0, len(slugs), PRODUCTS_A_STREAM):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        products = ",".join(slugs[at : at + PRODUCTS_A_STREAM])
        writer.write(f"GET /live?products={products} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        writers.append(writer)
    return writers


async def _order(pool: Pool, goods: Goods) -> None:
    buy = Checkouts(pool, goods, Recorder("payment"), seed=1)
    while True:
        at = asyncio.get_running_loop().time()
        await buy(Start(at, Deadline.after(ORDER_S), Patience()))
        await asyncio.sleep(ORDER_EVERY_S)


async def _rounds(shop: Shop) -> tuple[float, int]:
    """Seconds of all rounds until now, and how many they were."""
    (part,) = [part for part in shop.parts() if part["name"] == "worker-live"]
    url = f"http://{part['internal_address']}/metrics"
    said = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    sums, counts = SUM.search(said), COUNT.search(said)
    if sums is None or counts is None:
        raise BrokenRunError("the worker says nothing of its rounds")
    return float(sums[1]), int(float(counts[1]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.live_rounds", description=__doc__)
    parser.add_argument("--products", type=options.whole, default=3000)
    parser.add_argument("--seconds", type=options.positive, default=15.0)
    chosen = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        mean_s = runner.run(measure(chosen.products, chosen.seconds))
    return 0 if mean_s <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
