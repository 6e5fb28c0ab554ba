"""Connections to PostgreSQL: who answers a read, what bounds a statement, what a lost COMMIT is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from infra.local.addresses import free_port
from services.data.db import Database, Reads
from services.data.pool import Pool
from services.data.sources import Primary, Replica
from services.data.standbys import Watch
from services.data.store import Store, open_store
from services.deadline import Deadline, current_deadline
from services.problems import GatewayTimeout, OutcomeUnknown, Unavailable
from tests.faults.proxy import Accept, Direction, FaultProxy
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books, business_settings

PORT = "select inet_server_port()"
RUNNING = "select count(*) from pg_stat_activity where state = 'active' and query like $1"
SETTLED_WITHIN_S = 5.0
COMMIT_LOST = (
    "the answer is lost",
    "the connection is reset",
    "it hangs",
    "the request's time is over",
)


def address(dsn: str) -> tuple[str, int]:
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def pool_of(dsn: str, *, size: int = 4, timeout_ms: int = 2000) -> Pool:
    return Pool(
        "test",
        dsn,
        password=urlsplit(dsn).password or "",
        size=size,
        statement_timeout_ms=timeout_ms,
        wait_s=5.0,
    )


@asynccontextmanager
async def primary_at(dsn: str, *, size: int = 4, timeout_ms: int = 2000) -> AsyncIterator[Primary]:
    primary = Primary(pool_of(dsn, size=size, timeout_ms=timeout_ms))
    try:
        yield primary
    finally:
        await primary.pool.close()


@asynccontextmanager
async def proxied_primary(dsn: str) -> AsyncIterator[tuple[FaultProxy, Primary]]:
    """The primary behind a proxy that makes faults, with statements of 0.5 s at most."""
    async with (
        FaultProxy(*address(dsn)) as proxy,
        primary_at(through(dsn, proxy), timeout_ms=500) as primary,
    ):
        yield proxy, primary


def insert(table: str, number: int) -> str:
    return f"insert into {table} values ({number})"  # noqa: S608 - both are the test's own


def count(table: str, number: int) -> str:
    return f"select count(*) from {table} where n = {number}"  # noqa: S608 - the same


def through(dsn: str, proxy: FaultProxy) -> str:
    """The same server, by way of the proxy."""
    host, port = address(dsn)
    return dsn.replace(f"@{host}:{port}", f"@{proxy.host}:{proxy.port}") + "?sslmode=disable"


@pytest_asyncio.fixture(scope="module")
async def table(books: Books) -> AsyncIterator[str]:
    """A table of the test's own, that the application may write."""
    name = f"db_test_{uuid4().hex}"
    await books.rows(f"create table {name} (n int)")
    await books.rows(f"grant select, insert on {name} to tercet_app")
    yield name
    await books.rows(f"drop table {name}")


async def test_reads_are_answered_by_the_standby_and_writes_by_the_primary(
    stack: RunningStack, store: Store
) -> None:
    await until(lambda: len(store.database.readers()) == 2, within_s=5.0, what="standby is fit")
    read_at = await store.database.reads.fetchval(PORT)
    async with store.database.primary.transaction() as tx:
        written_at = await tx.fetchval(PORT)
    assert read_at == int(stack.part("standby")["address"].split(":")[1])
    assert written_at == int(stack.part("primary")["address"].split(":")[1])


async def test_connections_say_who_they_are_and_have_their_limits(store: Store) -> None:
    sql = """
        select current_user, current_setting('application_name') as name,
            current_setting('statement_timeout') as statement,
            current_setting('lock_timeout') as lock,
            current_setting('idle_in_transaction_session_timeout') as idle
    """
    primary = await store.database.primary.fetchrow(sql)
    standby = await store.database.replicas[0].fetchrow(sql)
    assert primary is not None
    assert standby is not None
    assert tuple(primary) == ("tercet_app", "tercet primary", "2s", "1s", "5s")
    assert tuple(standby)[:2] == ("tercet_read", "tercet standby-1")


async def test_reads_go_to_the_primary_while_there_is_no_standby(stack: RunningStack) -> None:
    nobody = f"postgresql://tercet_read@127.0.0.1:{free_port()}/tercet"
    async with open_store(business_settings(stack, standby_dsns=[nobody])) as store:
        assert await store.database.reads.fetchval("select 1") == 1
        assert store.database.replicas[0].lag_ms is None
        assert store.database.readers() == [store.database.primary]


async def test_a_read_goes_on_to_the_primary_when_its_standby_breaks(
    stack: RunningStack, read_dsn: str
) -> None:
    async with FaultProxy(*address(read_dsn)) as proxy:
        settings = business_settings(stack, standby_dsns=[through(read_dsn, proxy)])
        async with open_store(settings) as store:
            database = store.database
            await until(lambda: len(database.readers()) == 2, within_s=5.0, what="standby is fit")
            standby_port = await database.reads.fetchval(PORT)
            await proxy.accept(Accept.REFUSE)
            proxy.reset_all()
            # At once, before the watch has noticed: the read itself finds another server.
            database.replicas[0].lag_ms = 0.0
            assert await database.reads.fetchval(PORT) != standby_port
            await until(lambda: len(database.readers()) == 1, within_s=5.0, what="it is let go")
            await proxy.accept(Accept.FORWARD)
            await until(lambda: len(database.readers()) == 2, within_s=15.0, what="it is back")
            assert await database.reads.fetchval(PORT) == standby_port


async def test_a_standby_that_lags_is_not_read_from(stack: RunningStack, owner_dsn: str) -> None:
    settings = business_settings(stack, standby_lag_limit_ms=100)
    superuser = await asyncpg.connect(stack.dsn("postgres", "standby"))
    writer = await asyncpg.connect(owner_dsn)
    try:
        async with open_store(settings) as store:
            database = store.database
            await until(lambda: len(database.readers()) == 2, within_s=5.0, what="standby is fit")
            await superuser.execute("select pg_wal_replay_pause()")

            async def is_ejected() -> bool:
                await writer.execute("select pg_logical_emit_message(true, 'test', 'moves')")
                return database.readers() == [database.primary]

            await until(is_ejected, within_s=5.0, what="the late standby is not read from")
            lag_ms = database.replicas[0].lag_ms
            assert lag_ms is not None
            assert lag_ms > 100
            await superuser.execute("select pg_wal_replay_resume()")
            await until(lambda: len(database.readers()) == 2, within_s=5.0, what="it is back")
    finally:
        await superuser.execute("select pg_wal_replay_resume()")
        await superuser.close()
        await writer.close()


async def test_a_position_that_no_standby_has_is_read_from_the_primary(store: Store) -> None:
    await until(lambda: len(store.database.readers()) == 2, within_s=5.0, what="standby is fit")
    behind = store.database.replicas[0].position
    assert store.database.readers(behind)[0] is store.database.replicas[0]
    assert store.database.readers(2**60) == [store.database.primary]
    async with store.database.primary.transaction() as tx:
        primary_port = await tx.fetchval(PORT)
    assert await Reads(lambda: store.database.readers(2**60)).fetchval(PORT) == primary_port


async def test_a_server_that_is_no_standby_is_never_read_as_one(app_dsn: str) -> None:
    """One that was promoted, or named by mistake: it may be of another history."""
    async with primary_at(app_dsn) as primary:
        impostor = Replica(pool_of(app_dsn))
        database = Database(primary, [impostor], lag_limit_ms=1000)
        watch = Watch(database)
        await watch.look_once()
        assert database.readers() == [primary]
        watch.close()
        await impostor.pool.close()


async def test_the_watch_outlives_servers_that_answer_nonsense(app_dsn: str, read_dsn: str) -> None:
    """A primary that is a standby now can not say where it writes; a password may be wrong."""
    async with primary_at(read_dsn) as demoted:
        stranger = Pool(
            "test", read_dsn.replace(urlsplit(read_dsn).password or "", "wrong"),
            password="wrong", size=1, statement_timeout_ms=2000,
        )  # fmt: skip
        replicas = [Replica(stranger), Replica(pool_of(read_dsn))]
        watch = Watch(Database(demoted, replicas, lag_limit_ms=1000))
        await watch.look_once()
        assert replicas[0].lag_ms is None
        assert replicas[1].lag_ms == 0.0
        assert replicas[1].position > 0
        watch.close()
        for replica in replicas:
            await replica.pool.close()


async def test_a_write_needs_the_primary(read_dsn: str, store: Store) -> None:
    with pytest.raises((asyncpg.ReadOnlySQLTransactionError, Unavailable)):
        await store.database.replicas[0].fetch("insert into customers (kind) values ('guest')")
    assert not hasattr(store.database.replicas[0], "transaction")


@pytest.mark.parametrize("cut_after_ms", [100])
async def test_a_deadline_cancels_the_statement_in_the_server(
    cut_after_ms: int, app_dsn: str, books: Books
) -> None:
    mark = uuid4().hex

    async def slow(primary: Primary) -> None:
        current_deadline.set(Deadline.after(cut_after_ms / 1000))
        await primary.fetchval(f"select pg_sleep(5) /* {mark} */")

    async with primary_at(app_dsn) as primary:
        started_at = time.monotonic()
        with pytest.raises(GatewayTimeout):
            await asyncio.create_task(slow(primary))
        assert time.monotonic() - started_at < cut_after_ms / 1000 + 0.3

        async def is_cancelled() -> bool:
            return bool(await books.value(RUNNING, f"%{mark}%") == 0)

        await until(is_cancelled, within_s=0.2, what="PostgreSQL has stopped")


async def test_a_statement_that_takes_too_long_is_ended_by_the_server_too(app_dsn: str) -> None:
    async with primary_at(app_dsn, timeout_ms=100) as primary:
        with pytest.raises(GatewayTimeout):
            async with primary.transaction() as tx:
                await tx.fetchval("select pg_sleep(5)")
        assert await primary.fetchval("select 1") == 1


async def test_a_cancelled_connection_is_used_again(app_dsn: str) -> None:
    async with primary_at(app_dsn, size=1) as primary:
        pid = await primary.fetchval("select pg_backend_pid()")
        for _ in range(3):
            task = asyncio.create_task(primary.fetchval("select pg_sleep(5)"))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while primary.pool._recovering:
                await asyncio.wait(primary.pool._recovering)
        assert await primary.fetchval("select pg_backend_pid()") == pid


async def test_a_cancelled_transaction_leaves_nothing_behind(
    app_dsn: str, books: Books, table: str
) -> None:
    async with primary_at(app_dsn, size=1) as primary:

        async def write_and_hang() -> None:
            async with primary.transaction() as tx:
                await tx.execute(insert(table, 1))
                await tx.fetchval("select pg_sleep(5)")

        task = asyncio.create_task(write_and_hang())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while primary.pool._recovering:
            await asyncio.wait(primary.pool._recovering)
        assert await primary.fetchval("select pg_current_xact_id_if_assigned()") is None
    assert await books.value(count(table, 1)) == 0


async def test_no_more_connections_than_the_pool_has_and_waiting_ends_with_the_deadline(
    app_dsn: str, books: Books
) -> None:
    mark = uuid4().hex

    async def slow(primary: Primary) -> None:
        await primary.fetchval(f"select pg_sleep(0.2) /* {mark} */")

    async with primary_at(app_dsn, size=3) as primary:
        running = [asyncio.create_task(slow(primary)) for _ in range(12)]
        most = 0
        while not all(task.done() for task in running):
            most = max(most, await books.value(RUNNING, f"%{mark}%"))
        await asyncio.gather(*running)
        assert most == 3

        async def hurried() -> None:
            current_deadline.set(Deadline.after(0.05))
            await primary.fetchval("select 1")

        blocking = [asyncio.create_task(slow(primary)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await asyncio.create_task(hurried())
        await asyncio.gather(*blocking)


async def test_after_the_deadline_no_statement_is_begun(app_dsn: str, table: str) -> None:
    async with primary_at(app_dsn) as primary:

        async def late() -> None:
            current_deadline.set(Deadline.after(0))
            async with primary.transaction() as tx:
                await tx.execute(insert(table, 2))

        with pytest.raises(GatewayTimeout):
            await asyncio.create_task(late())
        assert await primary.fetchval(count(table, 2)) == 0


async def test_a_rule_that_is_broken_rolls_all_back_and_keeps_the_connection(
    app_dsn: str, books: Books, table: str
) -> None:
    async with primary_at(app_dsn, size=1) as primary:
        pid = await primary.fetchval("select pg_backend_pid()")
        with pytest.raises(asyncpg.CheckViolationError) as broken:
            async with primary.transaction() as tx:
                await tx.execute(insert(table, 3))
                await tx.execute("insert into customers (kind) values ('nobody')")
        assert broken.value.constraint_name == "customers_kind_known"
        assert await primary.fetchval("select pg_backend_pid()") == pid
    assert await books.value(count(table, 3)) == 0


async def test_a_row_that_is_locked_for_long_is_busy_and_nothing_is_done(
    app_dsn: str, books: Books
) -> None:
    goods = await books.goods()
    lock = "select from stock where variant_id = $1 for update"
    async with primary_at(app_dsn) as primary, primary.transaction() as first:
        await first.fetch(lock, goods.variant)
        with pytest.raises(Unavailable) as busy:
            async with primary.transaction() as second:
                await second.fetch(lock, goods.variant)
        assert busy.value.retry_after_s == 1


async def test_an_error_before_commit_was_sent_is_no_mystery(app_dsn: str, table: str) -> None:
    async with proxied_primary(app_dsn) as (proxy, primary):
        with pytest.raises(Unavailable):
            async with primary.transaction() as tx:
                await tx.execute(insert(table, 4))
                proxy.reset_all()
                await tx.execute("select 1")
    async with primary_at(app_dsn) as primary:
        assert await primary.fetchval(count(table, 4)) == 0


@pytest.mark.parametrize("way", COMMIT_LOST)
async def test_a_commit_whose_answer_is_lost_is_unknown_though_it_has_happened(
    way: str, app_dsn: str, books: Books, table: str
) -> None:
    number = 10 + COMMIT_LOST.index(way)
    committed = count(table, number)
    async with proxied_primary(app_dsn) as (proxy, primary):

        async def commit() -> None:
            # Shorter than the pool's own time: the request's ends first, by cancelling.
            async with asyncio.timeout(0.3 if way == "the request's time is over" else None):
                async with primary.transaction() as tx:
                    await tx.execute(insert(table, number))
                    proxy.set(Direction.TO_CLIENT, drop=True)

        async def is_committed() -> bool:
            return bool(await books.value(committed) == 1)

        committing = asyncio.create_task(commit())
        await until(is_committed, within_s=SETTLED_WITHIN_S, what="it is committed")
        if way in ("the answer is lost", "the connection is reset"):
            proxy.reset_all()
        with pytest.raises(OutcomeUnknown):
            await committing
    assert await books.value(committed) == 1


async def test_a_backend_that_is_terminated_in_its_commit_is_unknown(
    app_dsn: str, stack: RunningStack, table: str
) -> None:
    """The commit waits for a synchronous standby that there is not, and is then cut off."""
    superuser = await asyncpg.connect(stack.dsn("postgres"))
    try:
        async with primary_at(app_dsn) as primary:

            async def commit() -> None:
                async with primary.transaction() as tx:
                    await tx.execute("set local synchronous_commit = on")
                    await tx.execute(insert(table, 20))
                    await tx.fetchval("select pg_sleep(0)")

            pid = await primary.fetchval("select pg_backend_pid()")
            await superuser.execute("alter system set synchronous_standby_names = 'nobody'")
            await superuser.execute("select pg_reload_conf()")
            await until_setting(superuser, "synchronous_standby_names", "nobody")
            committing = asyncio.create_task(commit())

            async def is_waiting() -> bool:
                sql = "select wait_event = 'SyncRep' from pg_stat_activity where pid = $1"
                return bool(await superuser.fetchval(sql, pid))

            await until(is_waiting, within_s=SETTLED_WITHIN_S, what="the commit waits")
            await superuser.fetchval("select pg_terminate_backend($1)", pid)
            with pytest.raises(OutcomeUnknown):
                await committing
    finally:
        await superuser.execute("alter system reset synchronous_standby_names")
        await superuser.execute("select pg_reload_conf()")
        await until_setting(superuser, "synchronous_standby_names", "")
        await superuser.close()
    async with primary_at(app_dsn) as primary:
        assert await primary.fetchval(count(table, 20)) == 1


async def until_setting(
    connection: asyncpg.Connection[asyncpg.Record], name: str, value: str
) -> None:
    async def is_set() -> bool:
        sql = "select current_setting($1) = $2"
        return bool(await connection.fetchval(sql, name, value))

    await until(is_set, within_s=SETTLED_WITHIN_S, what=f"{name} is {value!r}")


async def test_connections_that_broke_while_idle_are_replaced(
    app_dsn: str, stack: RunningStack
) -> None:
    superuser = await asyncpg.connect(stack.dsn("postgres"))
    async with primary_at(app_dsn) as primary:
        pids = await asyncio.gather(
            *(primary.fetchval("select pg_backend_pid() from pg_sleep(0.05)") for _ in range(4))
        )
        assert len(set(pids)) == 4
        for pid in pids:
            await superuser.fetchval("select pg_terminate_backend($1)", pid)

        async def works() -> bool:
            try:
                return bool(await primary.fetchval("select 1") == 1)
            except Unavailable:
                return False

        await until(works, within_s=SETTLED_WITHIN_S, what="a new connection is made")
        assert await primary.fetchval("select pg_backend_pid()") not in pids
    await superuser.close()


async def test_an_old_connection_is_replaced_by_a_new_one(app_dsn: str) -> None:
    async with primary_at(app_dsn, size=1) as primary:
        pid = await primary.fetchval("select pg_backend_pid()")
        primary.pool._idle[0].retire_at = time.monotonic()
        assert await primary.fetchval("select pg_backend_pid()") != pid


async def test_a_statement_is_prepared_once_for_a_connection(app_dsn: str) -> None:
    async with primary_at(app_dsn, size=1) as primary:
        for _ in range(5):
            await primary.fetchval("select $1::int + 41", 1)
        sql = "select sum(generic_plans + custom_plans) from pg_prepared_statements where " \
              "statement = 'select $1::int + 41'"  # fmt: skip
        assert await primary.fetchval(sql) == 5


async def test_a_migration_under_way_costs_one_refusal_and_no_restart(
    books: Books, app_dsn: str
) -> None:
    """A statement prepared before returns columns that are not what they were."""
    name = f"migrated_{uuid4().hex}"
    await books.rows(f"create table {name} as select 1 as n")
    await books.rows(f"grant select on {name} to tercet_app")
    everything = f"select * from {name}"  # noqa: S608 - the test's own
    try:
        async with primary_at(app_dsn) as primary:
            assert await primary.fetchval(everything) == 1
            await books.rows(f"alter table {name} alter column n type text")
            with pytest.raises(Unavailable):
                await primary.fetchval(everything)
            assert await primary.fetchval(everything) == "1"
    finally:
        await books.rows(f"drop table {name}")


async def test_statements_that_are_long_are_no_server_that_hangs(store: Store) -> None:
    """What the watch hears of the server counts, though it asks by a connection of its own."""
    primary = store.database.primary
    running = [asyncio.create_task(primary.fetchval("select pg_sleep(1)")) for _ in range(4)]
    while not all(task.done() for task in running):
        primary.pool.upstream.breaker.check()
        await asyncio.sleep(0.05)
    await asyncio.gather(*running)
