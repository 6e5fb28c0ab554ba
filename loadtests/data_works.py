"""The works of `make bench-data`: what the data tier does for many at once, and the usual way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from loadtests.data_bench import CROWD, Bench, against_pgbench, compared
from loadtests.data_goods import fill
from loadtests.data_stack import DataStack
from loadtests.programs import BrokenRunError
from loadtests.result import Aim, Row
from services.data.batch import Batcher
from services.data.sources import Primary
from services.data.stock import Quantity, hold_stock
from services.data.store import open_primary

STOCKED: Final = 2_000_000_000  # units of the hot variant: no run sells it out
LAST_UNITS: Final = 500  # and what is left when it is seen whether it ever goes below zero
READ_VARIANTS: Final = 1000
INSERT_LANES: Final = 2  # one is committing while the other is filled

MAKE_TABLE: Final = """
    create table bench_rows (row_id bigint generated always as identity primary key,
        customer_id uuid not null, amount_minor bigint not null, payload text not null,
        created_at timestamptz not null default now());
    grant select, insert on bench_rows to tercet_app
"""
INSERT_SCRIPT: Final = """
    insert into bench_rows (customer_id, amount_minor, payload)
    values (gen_random_uuid(), 1999, 'a row as small as a payment')
"""
INSERT_ROWS: Final = """
    insert into bench_rows (customer_id, amount_minor, payload)
    select * from unnest($1::uuid[], $2::bigint[], $3::text[])
"""
# What a buyer of one unit does to the row, and what hold_stock does for all of them.
HOLD_SCRIPT: Final = """
    update stock set available = available - 1, held = held + 1
    where variant_id = '{variant_id}' and available >= 1
"""
READ_ONE: Final = "select variant_id, available, held, sold from stock where variant_id = $1"
READ_MANY: Final = (
    "select variant_id, available, held, sold from stock where variant_id = any($1::uuid[])"
)

INSERTS_AIM: Final = Aim("at least", 2.0)
HOLDS_AIM: Final = Aim("at least", 20.0)
READS_AIM: Final = Aim("at least", 4.0)


class NewRow(NamedTuple):
    customer_id: UUID
    amount_minor: int
    payload: str


async def insert(bench: Bench) -> list[Row]:
    """Rows inserted one by one, by callers who know nothing of each other."""
    async with bench.stack.owner() as owner:
        await owner.execute(MAKE_TABLE)
    async with open_primary(bench.stack.settings()) as primary:

        async def insert_rows(rows: Sequence[NewRow], _: bool) -> Sequence[None]:
            async with primary.transaction() as tx:
                await tx.execute(INSERT_ROWS, *map(list, zip(*rows, strict=True)))
            return [None] * len(rows)

        batcher: Batcher[NewRow, None] = Batcher("insert", insert_rows, lanes=INSERT_LANES)
        row = NewRow(uuid4(), 1999, "a row as small as a payment")

        async def ask() -> None:
            await batcher.call(row)

        sides = {
            "ours": bench.calls(ask),
            "crowd": bench.calls(ask, CROWD),
            "pgbench": bench.pgbench(INSERT_SCRIPT),
        }
        return against_pgbench(bench, "inserts of one row", await bench.turns(sides), INSERTS_AIM)


async def hot(bench: Bench) -> list[Row]:
    """Buyers of one variant, each for one unit; at last of the last ones there are."""
    (variant_id,) = await fill(bench.stack, 1, available=STOCKED)
    async with open_primary(bench.stack.settings()) as primary:
        batcher = _holds(primary)

        async def ask() -> None:
            await batcher.call([Quantity(variant_id, 1)])

        sides = {
            "ours": bench.calls(ask),
            "crowd": bench.calls(ask, CROWD),
            "pgbench": bench.pgbench(HOLD_SCRIPT.format(variant_id=variant_id)),
        }
        figures = await bench.turns(sides)
        await _sell_out(bench.stack, primary)
        return against_pgbench(bench, "holds on one hot row", figures, HOLDS_AIM)


def _holds(primary: Primary) -> Batcher[list[Quantity], bool]:
    async def hold(baskets: Sequence[list[Quantity]], patient: bool) -> Sequence[bool]:
        async with primary.transaction() as tx:
            return [not short for short in await hold_stock(tx, baskets, patient=patient)]

    return Batcher("hold", hold)


async def _sell_out(stack: DataStack, primary: Primary) -> None:
    """Three times as many buyers as units: so many get one, and nothing is left or missing."""
    (variant_id,) = await fill(stack, 1, available=LAST_UNITS)
    batchers = [_holds(primary) for _ in range(3)]
    wanted = [Quantity(variant_id, 1)]
    held = await asyncio.gather(
        *(batchers[number % 3].call(wanted) for number in range(3 * LAST_UNITS))
    )
    row = await primary.fetchrow(READ_ONE, variant_id)
    if row is None or (sum(held), *row[1:]) != (LAST_UNITS, 0, LAST_UNITS, 0):
        raise BrokenRunError(f"of {LAST_UNITS} units {sum(held)} were held: {row}")


async def reads(bench: Bench) -> list[Row]:
    """Rows by key, by callers who know nothing of each other."""
    variants = await fill(bench.stack, READ_VARIANTS)
    settings, chance = bench.stack.settings(), random.Random(1)
    size = settings.primary_pool_size  # connections of both
    async with (
        open_primary(settings) as primary,
        asyncpg.create_pool(bench.stack.dsn("tercet_app"), min_size=size, max_size=size) as pool,
    ):

        async def joined() -> None:
            _found(await primary.find(READ_MANY, chance.choice(variants)))

        async def alone() -> None:
            _found(await primary.fetchrow(READ_ONE, chance.choice(variants)))

        async def theirs() -> None:
            _found(await pool.fetchrow(READ_ONE, chance.choice(variants)))

        sides = {"joined": joined, "alone": alone, "asyncpg": theirs}
        figures = await bench.turns({name: bench.calls(ask) for name, ask in sides.items()})
    peer, their = "asyncpg pool.fetchrow", figures["asyncpg"]
    by_key, by_itself = (
        f"reads by key, joined, c={bench.callers}",
        f"reads by key, each by itself, c={bench.callers}",
    )
    return [
        *compared(by_key, figures["joined"], peer, their, aim=READS_AIM),
        *compared(by_itself, figures["alone"], peer, their, aim=None),
    ]


def _found(rows: object) -> None:
    if not rows:
        raise BrokenRunError("a row was not found")
