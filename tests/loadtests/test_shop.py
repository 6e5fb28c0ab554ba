"""What the simulated shoppers do."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from loadtests.shop import NoShopError, Zipf, page_target, read_goods
from services.keepalive import Pool
from tests.loadtests.conftest import StartShop


def test_popularity_falls_off_with_the_rank() -> None:
    zipf = Zipf(1000, seed=1)
    picks = Counter(zipf.pick() for _ in range(50_000))
    assert min(picks) == 0
    assert max(picks) <= 999
    # 1 / n over a thousand ranks sums up to 7.485: the first has 13.4 %, the tenth a tenth of it.
    assert abs(picks[0] / 50_000 - 0.1336) < 0.01
    assert abs(picks[9] / 50_000 - 0.01336) < 0.004


def test_the_same_seed_picks_the_same() -> None:
    def picks(seed: int) -> list[int]:
        zipf = Zipf(100, seed=seed)
        return [zipf.pick() for _ in range(50)]

    assert picks(1) == picks(1) != picks(2)


def test_a_single_thing_is_always_picked() -> None:
    assert {Zipf(1, seed=seed).pick() for seed in range(50)} == {0}


def test_a_slug_is_made_safe_for_an_address() -> None:
    assert page_target("tee/é 1?") == "/products/tee%2F%C3%A9%201%3F"


async def test_goods_come_from_all_pages_without_what_is_sold_out(start_shop: StartShop) -> None:
    async with start_shop() as shop:
        pool = Pool.to(shop.url, size=2)
        goods = await read_goods(pool, products=100, variants_of=2)
        assert goods.slugs == ["red-shirt", "blue-shirt", "green-shirt"]
        assert goods.variant_ids == ["red-shirt-m", "blue-shirt-m"]
        assert len((await read_goods(pool, products=1, variants_of=2)).slugs) == 1
        await pool.aclose()


async def test_what_is_not_a_shop_is_refused_in_words() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1], size=1)
    with pytest.raises(NoShopError, match="GET /products answered 404: b'nope'"):
        await read_goods(pool, products=1, variants_of=1)
    await pool.aclose()
    server.close()
