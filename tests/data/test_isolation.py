"""Isolation as it is claimed: what locks first is serial, and no reader sees half of a transaction.

Clients lose their connections all the while, in COMMIT too: what its client does not know the
outcome of may have happened or not, and the history has to be sound either way.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import pytest_asyncio

from services.data.sources import Primary, Replica, Source, Transaction
from services.problems import GatewayTimeout, OutcomeUnknown, Unavailable
from tests.data.histories import Done, Values, anomalies, anomalies_of_two
from tests.data.test_db import address, pool_of
from tests.faults.figures import record
from tests.faults.proxy import FaultProxy
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase

CLIENTS = 8
KEYS = 6
RESET_EVERY_S = 0.25
TABLES = """
    create table history_lists (key int primary key, items int[] not null default '{}');
    create table bank_accounts (account int primary key, balance bigint not null);
    grant select, update on history_lists, bank_accounts to tercet_app;
    grant select on history_lists, bank_accounts to tercet_read
"""
ACCOUNTS = 5
EACH = 1_000
LOCK = "select key from history_lists where key = any($1::int[]) order by key for update"
APPEND = "update history_lists set items = items || $2::int where key = $1"
READ = "select items from history_lists where key = $1"
READ_ALL = "select key, items from history_lists"
LOCK_ACCOUNTS = """
    select account, balance from bank_accounts where account = any($1::int[])
    order by account for update
"""
MOVE = "update bank_accounts set balance = balance + $2 where account = $1"
TOTAL = "select sum(balance)::bigint from bank_accounts"


@dataclass
class Bench:
    """A primary behind a proxy that resets connections, the standby, and a way round the proxy."""

    primary: Primary
    replica: Replica
    proxy: FaultProxy
    direct: Primary


@pytest_asyncio.fixture
async def bench(laboratory: OwnDatabase) -> AsyncIterator[Bench]:
    host, port = address(laboratory.superuser_dsn())
    admin = Primary(pool_of(laboratory.superuser_dsn(), size=1))
    async with admin.transaction() as tx:
        for statement in TABLES.split(";"):
            await tx.execute(statement)
        await tx.execute("insert into history_lists (key) select generate_series(1, $1::int)", KEYS)
        await tx.execute(
            "insert into bank_accounts select n, $2 from generate_series(1, $1::int) n",
            ACCOUNTS,
            EACH,
        )
    async with FaultProxy(host, port) as proxy:
        dsn = laboratory.dsn("tercet_app").replace(f"@{host}:{port}", f"@{proxy.host}:{proxy.port}")
        primary = Primary(pool_of(f"{dsn}&sslmode=disable", size=CLIENTS, timeout_ms=2000))
        replica = Replica(pool_of(laboratory.dsn("tercet_read", "standby"), size=CLIENTS))
        await until(partial(has_tables, replica), within_s=10.0, what="the standby has the tables")
        primary.pool.upstream.breaker.force("closed")  # half of all connections break, on purpose
        yield Bench(primary, replica, proxy, admin)
        async with admin.transaction() as tx:
            await tx.execute("drop table history_lists")
            await tx.execute("drop table bank_accounts")
        for source in (primary, replica, admin):
            await source.by_key.close()
            await source.pool.close()


async def has_tables(replica: Replica) -> bool:
    return await replica.fetchval("select to_regclass('bank_accounts')") is not None


@asynccontextmanager
async def unreliable(proxy: FaultProxy, seed: int) -> AsyncIterator[None]:
    """Every connection is reset now and then, whatever it is in the middle of."""
    dice = random.Random(seed)

    async def reset() -> None:
        while True:
            await asyncio.sleep(RESET_EVERY_S * dice.uniform(0.5, 1.5))
            proxy.reset_all()

    resetting = asyncio.create_task(reset())
    try:
        yield
    finally:
        resetting.cancel()
        await asyncio.gather(resetting, return_exceptions=True)


Lock = Callable[[Transaction, Sequence[int]], Awaitable[None]]
Move = Callable[[Primary, random.Random], Awaitable[bool]]


async def locked(tx: Transaction, keys: Sequence[int]) -> None:
    await tx.fetch(LOCK, sorted(keys))


async def not_locked(_: Transaction, __: Sequence[int]) -> None:
    """The planted bug."""


async def read_and_append(
    primary: Primary, lock: Lock, values: Iterator[int], dice: random.Random
) -> Done:
    """Read some lists and append to them what no other transaction appends; maybe then give up."""
    done = Done()
    keys = dice.sample(range(1, KEYS + 1), dice.randint(1, 3))
    gives_up = dice.random() < 0.1
    try:
        async with primary.transaction() as tx:
            await lock(tx, keys)
            for key in keys:
                done.read[key] = tuple(await tx.fetchval(READ, key))
            for key in dice.choices(keys, k=dice.randint(1, 4)):
                value = next(values)
                done.appended.setdefault(key, []).append(value)
                await tx.execute(APPEND, key, value)
            if gives_up:
                raise InterruptedError
    except (Unavailable, GatewayTimeout, InterruptedError):
        done.outcome = "aborted"
    except OutcomeUnknown:
        done.outcome = "unknown"
    else:
        done.outcome = "committed"
    return done


async def look(source: Source) -> Done | None:
    """All lists in one statement; None where the server could not be asked."""
    try:
        rows = await source.fetch(READ_ALL)
    except (Unavailable, GatewayTimeout):
        return None
    return Done(read={row["key"]: tuple(row["items"]) for row in rows}, outcome="committed")


async def played(
    bench: Bench, seed: int, transactions: int, lock: Lock
) -> tuple[list[Done], dict[int, Values]]:
    """So many transactions by eight clients, what two readers saw, and the lists at the end."""
    history: list[Done] = []
    values, left = itertools.count(1), itertools.count(transactions, -1)
    over = asyncio.Event()

    async def client(number: int) -> None:
        dice = random.Random(seed * 100 + number)
        while next(left) > 0:
            history.append(await read_and_append(bench.primary, lock, values, dice))

    async def reader(source: Source) -> None:
        while not over.is_set():
            seen = await look(source)
            if seen is not None:
                seen.server = "standby" if source is bench.replica else "primary"
                history.append(seen)
            await asyncio.sleep(0.01)

    readers = [asyncio.create_task(reader(source)) for source in (bench.primary, bench.replica)]
    async with unreliable(bench.proxy, seed):
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    over.set()
    await asyncio.gather(*readers)
    rows = await bench.direct.fetch(READ_ALL)
    return history, {row["key"]: tuple(row["items"]) for row in rows}


async def check_history(bench: Bench, seed: int, transactions: int) -> None:
    history, final = await played(bench, seed, transactions, locked)
    found, forks = anomalies_of_two(history, final)
    by_outcome = {
        outcome: sum(done.outcome == outcome for done in history if done.appended)
        for outcome in ("committed", "aborted", "unknown")
    }
    record(
        57,
        "list-append",
        not found,
        anomalies=len(found),
        long_forks=len(forks),
        readers=len(history) - sum(by_outcome.values()),
        **by_outcome,
    )
    assert found == []
    assert min(by_outcome["committed"], by_outcome["aborted"]) > 0


async def test_what_locks_first_is_serial_though_connections_break_in_commit(bench: Bench) -> None:
    await check_history(bench, seed=1, transactions=150)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_the_same_for_ten_thousand_transactions(bench: Bench) -> None:
    await check_history(bench, seed=2, transactions=10_000)


@pytest.mark.faults
async def test_without_the_locks_lost_updates_are_found(bench: Bench) -> None:
    history, final = await played(bench, 3, 300, not_locked)
    assert any(name.startswith("lost update") for name in anomalies(history, final))


# The bank


async def transfer(primary: Primary, dice: random.Random) -> bool:
    """Move some money between two accounts in one transaction; False where nobody knows."""
    source, target = dice.sample(range(1, ACCOUNTS + 1), 2)
    try:
        async with primary.transaction() as tx:
            rows = await tx.fetch(LOCK_ACCOUNTS, sorted((source, target)))
            amount = min(dice.randint(1, 100), {row[0]: row[1] for row in rows}[source])
            await tx.execute(MOVE, source, -amount)
            await tx.execute(MOVE, target, amount)
    except (Unavailable, GatewayTimeout):
        pass
    except OutcomeUnknown:
        return False
    return True


async def wrong_totals(bench: Bench, reads: int, move: Move) -> tuple[int, int]:
    """Of so many reads on primary and standby, those of another total; and transfers unknown."""
    wrong, unknown, left = 0, 0, itertools.count(reads, -1)
    over = asyncio.Event()

    async def client(number: int) -> None:
        nonlocal unknown
        dice = random.Random(number)
        while not over.is_set():
            unknown += not await move(bench.primary, dice)

    async def reader(source: Source) -> None:
        nonlocal wrong
        while next(left) > 0:
            try:
                wrong += await source.fetchval(TOTAL) != ACCOUNTS * EACH
            except (Unavailable, GatewayTimeout):
                await asyncio.sleep(0.001)

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    async with unreliable(bench.proxy, 5):
        await asyncio.gather(
            *(reader(source) for source in (bench.primary, bench.replica) for _ in range(4))
        )
    over.set()
    await asyncio.gather(*clients)
    return wrong, unknown


async def test_no_reader_sees_money_between_two_accounts(bench: Bench) -> None:
    wrong, _ = await wrong_totals(bench, 1_000, transfer)
    assert wrong == 0


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_fifty_thousand_readers_of_the_bank_see_one_total(bench: Bench) -> None:
    wrong, unknown = await wrong_totals(bench, 50_000, transfer)
    record(56, "bank", wrong == 0, reads=50_000, wrong=wrong, unknown_transfers=unknown)
    assert wrong == 0


async def test_a_transfer_in_two_transactions_is_seen(bench: Bench) -> None:
    async def in_two(primary: Primary, dice: random.Random) -> bool:
        source, target = dice.sample(range(1, ACCOUNTS + 1), 2)
        for account, amount in ((source, -1), (target, 1)):
            try:
                async with primary.transaction() as tx:
                    await tx.execute(MOVE, account, amount)
            except (Unavailable, GatewayTimeout, OutcomeUnknown):
                return False
        return True

    wrong, _ = await wrong_totals(bench, 300, in_two)
    assert wrong > 0
