"""Growth in `make bench-data`: does a read by key cost the same in a large catalog?"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Final

from loadtests.data_bench import Bench, Side, compared
from loadtests.data_goods import drop_search, fill
from loadtests.data_stack import DataStack
from loadtests.programs import BrokenRunError
from loadtests.result import Aim, Row
from services.data.products import select_product
from services.data.store import open_primary

SMALL: Final = 1000
GROWTH_AIM: Final = Aim("at least", 0.8)


async def growth(bench: Bench) -> list[Row]:
    """Products by their slugs, any of them as likely as any other, from two databases by turns."""
    async with AsyncExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, products in (("small", SMALL), ("large", bench.products)):
            database = await bench.stack.copy(f"bench_{name}")
            await drop_search(database)
            await fill(database, products)
            await settle(database)
            side, alone = await _sides(bench, database, products, stack)
            sides |= {name: side, f"{name}, alone": alone}
        figures = await bench.turns(sides)
    rows = []
    for suffix, callers in (("", bench.callers), (", alone", 1)):
        work = f"a product by its slug of {bench.products:,}, not cached, c={callers}"
        ours, theirs = figures[f"large{suffix}"], figures[f"small{suffix}"]
        rows += compared(work, ours, f"the same of {SMALL:,}", theirs, aim=GROWTH_AIM)
    return rows


async def settle(database: DataStack) -> None:
    """What filling has left to do is done before anything is measured."""
    async with database.owner() as owner:
        for table in ("products", "product_images", "variants", "stock"):
            await owner.execute(f"vacuum analyze {table}", timeout=120)
        await owner.execute("set role none")
        await owner.execute("checkpoint", timeout=120)


async def _sides(
    bench: Bench, database: DataStack, products: int, stack: AsyncExitStack
) -> tuple[Side, Side]:
    primary = await stack.enter_async_context(open_primary(database.settings()))
    chance = random.Random(1)

    async def ask() -> None:
        if await select_product(primary, f"bench-{chance.randint(1, products)}") is None:
            raise BrokenRunError("a product was not found")

    return bench.calls(ask), bench.calls(ask, callers=1)
