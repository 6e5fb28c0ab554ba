"""How PostgreSQL finds what the shop reads, among 50,000 products: plans, not times.

What reads a whole table is quick as long as the table is small, and no other test would notice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from loadtests.grown import grow
from loadtests.plans import EXPECTED, Connection, Read, fault, faults, plan_of, reads
from tests.laboratory import migrated_database
from tests.running_stack import RunningStack

PRODUCTS = 50_000
ORDERS = 10_000
READS = reads(PRODUCTS)
HOT = [read for read in READS if read.only or read.by]
# Planted, and what has to notice.
LOSE = """
    drop index products_category_price_idx;
    alter table related_products drop constraint related_products_pkey
"""
LOST = {"category by price", "products.SELECT_RELATED"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def grown(stack: RunningStack) -> AsyncIterator[Connection]:
    async with migrated_database(stack) as database:
        await grow(database.superuser_dsn(), PRODUCTS, orders=ORDERS)
        connection = await asyncpg.connect(database.superuser_dsn())
        yield connection
        await connection.close()


async def test_no_statement_of_a_request_reads_a_whole_table(grown: Connection) -> None:
    found = {read.name: (await plan_of(grown, read.sql, *read.args)).whole for read in READS}
    assert {name: whole for name, whole in found.items() if whole} == {}
    assert set(EXPECTED) <= set(found)


@pytest.mark.parametrize("read", HOT, ids=[read.name for read in HOT])
async def test_what_the_hot_path_reads_is_found_by_its_index(read: Read, grown: Connection) -> None:
    """By key, in the order of a list however far behind, by words, by likeness, in a category."""
    assert await fault(grown, read) == ""


async def test_reads_that_have_lost_their_indexes_are_named(grown: Connection) -> None:
    """`make growth` fails with these lines."""
    assert await faults(grown, PRODUCTS) == []
    changes = grown.transaction()
    await changes.start()
    try:
        await grown.execute(LOSE)
        found = await faults(grown, PRODUCTS)
    finally:
        await changes.rollback()
    assert {line.partition(":")[0] for line in found} >= LOST, found


async def test_a_table_that_is_read_as_a_whole_is_noticed(grown: Connection) -> None:
    assert (await plan_of(grown, "select * from variants where title = $1")).whole == {"variants"}
