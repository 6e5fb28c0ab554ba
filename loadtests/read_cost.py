"""What a point read costs a process: CPU microseconds by our pool and by asyncpg's, in turns.

By hand, on the servers of a running stack: python -m loadtests.read_cost [--data-dir .tercet]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import uvloop

from infra.local.folder import DEFAULT_DATA_DIR, DataFolder
from loadtests.result import Aim, Row
from services.data.pool import Pool
from services.data.sources import Source
from services.settings import DatabaseSettings, load

CALLERS: Final = 64
CONNECTIONS: Final = 8  # TERCET_PRIMARY_POOL_SIZE, and what asyncpg gets as well
SECONDS: Final = 1.0
ROUNDS: Final = 5
# By key, a row of a few columns: what a page or an order asks for most.
SQL: Final = "select variant_id, available, held, sold from stock where variant_id = $1"

Read = Callable[[object], Awaitable[object]]


class Cost(NamedTuple):
    """CPU microseconds of this process for one read, in each round."""

    ours: list[float]
    asyncpgs: list[float]


async def read_cost(
    dsn: str, password: str, *, rounds: int = ROUNDS, seconds: float = SECONDS
) -> Cost:
    """Both sides read the same row over as many connections with as many callers."""
    own = Pool(
        "bench",
        dsn,
        password=password,
        size=CONNECTIONS,
        statement_timeout_ms=2000,
        wait_s=2.0,
    )
    source = Source(own)
    theirs = await asyncpg.create_pool(
        dsn, password=password, min_size=CONNECTIONS, max_size=CONNECTIONS
    )
    try:
        variant_id = await source.fetchval("select variant_id from stock limit 1")
        cost = Cost([], [])
        for _ in range(rounds):
            cost.ours.append(
                await _cpu_us(lambda key: source.fetchrow(SQL, key), variant_id, seconds)
            )
            cost.asyncpgs.append(
                await _cpu_us(lambda key: theirs.fetchrow(SQL, key), variant_id, seconds)
            )
        return cost
    finally:
        await own.close()
        await theirs.close()


def read_cost_row(cost: Cost) -> Row:
    """The row of a result: ours against asyncpg's, less is better."""
    return Row(
        work="CPU of a point read, one by one",
        value=statistics.median(cost.ours),
        unit="CPU us",
        peer="asyncpg pool.fetchrow",
        peer_value=statistics.median(cost.asyncpgs),
        aim=Aim("at most", 1.0),
        runs=[ours / theirs for ours, theirs in zip(*cost, strict=True)],
    )


async def _cpu_us(read: Read, key: object, seconds: float) -> float:
    reads = 0
    end_at = time.monotonic() + seconds

    async def call() -> None:
        nonlocal reads
        while time.monotonic() < end_at:
            await read(key)
            reads += 1

    began = time.process_time()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return (time.process_time() - began) / reads * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.read_cost", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    os.environ.update(DataFolder.at(options.data_dir).running_state()["environment"])
    settings = load(DatabaseSettings)
    password = settings.app_password.get_secret_value()
    cost = uvloop.run(read_cost(settings.primary_dsn, password, rounds=options.rounds))
    for ours, theirs in zip(*cost, strict=True):
        print(f"{ours:6.1f} us by our pool, {theirs:6.1f} us by asyncpg's: {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
