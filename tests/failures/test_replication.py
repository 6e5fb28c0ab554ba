"""A primary or a standby lost under writers and readers: nothing acknowledged goes with it.

Experiments 2, 3, 4, 5, 8 and 9. Each leaves both standbys following.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from services.data.db import Database
from services.data.session import NOTHING, Session, current_session
from services.data.sources import Primary
from services.data.standing import LONGEST_WAIT_S
from services.problems import Problem
from tests.data.test_db import address, pool_of
from tests.failures.replicated import Cluster, History, Verdict, are_fit
from tests.faults.figures import record
from tests.faults.parts import Parts
from tests.faults.proxy import Accept, FaultProxy
from tests.faults.waiting import until
from tests.running_stack import RunningStack, running_stack

pytestmark = pytest.mark.alone

RESUMED_WITHIN_S = 2.0
EJECTED_WITHIN_S = 1.0
# The short forms run beside other work of the machine; the long ones hold the numbers.
PATIENCE = 4.0
ROUNDS = 5


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    data_dir = tmp_path_factory.mktemp("replicated") / "data"
    with running_stack(data_dir, "--servers-only", "--standbys", "2") as running:
        yield running


@pytest.fixture
def parts(replicated: RunningStack) -> Parts:
    return Parts(replicated.data_dir)


@pytest_asyncio.fixture
async def cluster(replicated: RunningStack) -> AsyncIterator[Cluster]:
    made = Cluster(replicated)
    await made.whole()
    yield made


async def test_the_checker_finds_what_is_lost_and_who_lied(cluster: Cluster) -> None:
    async with cluster.opened() as store:
        async with cluster.history(store.database.primary) as history:
            await asyncio.sleep(0.1)
        lost, lied = sorted(history.acknowledged)[:2]
        async with cluster.superuser() as connection:
            await connection.execute(f"delete from {history.table} where n = {lost}")  # noqa: S608
        del history.acknowledged[lied]
        history.refused.add(lied)
        verdict = await cluster.judged(history)
        assert (verdict.lost, verdict.lied, verdict.honest) == ({lost}, {lied}, False)


async def kill_and_promote(cluster: Cluster, parts: Parts, history: History) -> float:
    """Seconds from the death of the primary until a write is acknowledged again."""
    await asyncio.sleep(0.3)
    parts.kill(cluster.leader)
    died_at = time.monotonic()
    answer = await cluster.promote()
    assert answer.done, answer.said
    return await history.written_since(died_at + 0.1, within_s=10.0) + 0.1


async def test_a_killed_primary_takes_nothing_acknowledged_with_it(
    cluster: Cluster, parts: Parts
) -> None:
    was = cluster.leader
    async with cluster.opened() as store:
        async with cluster.history(store.database.primary) as history:
            resumed_s = await kill_and_promote(cluster, parts, history)
        verdict = await cluster.judged(history)
    assert cluster.leader != was
    assert verdict.honest, verdict
    assert resumed_s <= RESUMED_WITHIN_S * PATIENCE


@pytest.mark.faults
async def test_rounds_of_killed_primaries_lose_nothing(cluster: Cluster, parts: Parts) -> None:
    gaps_s, figures, honest = [], [], True
    for _ in range(ROUNDS):
        await cluster.whole()
        async with cluster.opened() as store:
            async with cluster.history(store.database.primary, writers=8) as history:
                gaps_s.append(await kill_and_promote(cluster, parts, history))
            verdict = await cluster.judged(history)
        figures.append(verdict.figures())
        honest = honest and verdict.honest
    worst_ms = round(max(gaps_s) * 1000)
    passed = honest and max(gaps_s) <= RESUMED_WITHIN_S
    median_ms = round(sorted(gaps_s)[ROUNDS // 2] * 1000)
    record(
        2, "primary killed, standby promoted", passed,
        gap_median_ms=median_ms, gap_worst_ms=worst_ms, rounds=figures,
    )  # fmt: skip
    assert passed, (gaps_s, figures)


async def test_a_standby_that_does_not_stream_is_not_promoted(
    cluster: Cluster, parts: Parts
) -> None:
    """Frozen, it still says of itself that it streams: the primary knows better."""
    was = cluster.leader
    followers = cluster.names("standby")
    for name in followers:
        parts.pause(name, child="walreceiver")
    try:
        async with cluster.superuser() as connection:

            async def are_silent() -> bool:
                sql = "select min(now() - reply_time) > '3 s' from pg_stat_replication"
                return bool(await connection.fetchval(sql))

            await until(are_silent, within_s=10.0, what="no standby has reported for 3 s")
        answer = await cluster.promote()
        assert not answer.done
        assert "no standby was streaming" in answer.said
        assert cluster.leader == was
        async with cluster.superuser() as connection:
            assert not await connection.fetchval("select pg_is_in_recovery()")
    finally:
        for name in followers:
            parts.resume(name)


async def test_of_two_standbys_the_one_that_has_all_is_promoted_and_writes_wait_2_s_for_the_other(
    cluster: Cluster, parts: Parts, replicated: RunningStack
) -> None:
    frozen = random.choice(cluster.names("standby"))
    log = replicated.folder.log / "supervisor.log"
    before = len(log.read_text())
    async with cluster.opened() as store:
        parts.pause(frozen, child="walreceiver")
        try:
            async with cluster.history(store.database.primary) as history:
                await asyncio.sleep(0.2)
                parts.kill(cluster.leader)
                died_at = time.monotonic()
                answer = await cluster.promote()
                assert answer.done, answer.said
                assert cluster.leader != frozen
                await history.written_since(died_at + 0.1, within_s=10.0)
        finally:
            parts.resume(frozen)
        verdict = await cluster.judged(history)
    assert verdict.honest, verdict
    await cluster.whole()
    said = log.read_text()[before:]
    # The old primary may have come back as a standby before the two seconds were over.
    assert said.count("it acknowledges alone") == said.count("waits for one again")


async def test_ended_connections_never_report_what_was_committed_as_failed(
    cluster: Cluster,
) -> None:
    verdict = await end_connections(cluster, times=8, every_s=0.2)
    assert verdict.honest, verdict


@pytest.mark.faults
async def test_connections_ended_every_half_second(cluster: Cluster) -> None:
    verdict = await end_connections(cluster, times=20, every_s=0.5)
    passed = verdict.honest and verdict.acknowledged > 1000
    record(4, "all connections ended every 500 ms", passed, **verdict.figures())
    assert passed, verdict


async def end_connections(cluster: Cluster, *, times: int, every_s: float) -> Verdict:
    sql = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'tercet_app'"
    async with cluster.opened() as store, cluster.superuser() as connection:
        async with cluster.history(store.database.primary, writers=8) as history:
            for _ in range(times):
                await connection.fetch(sql)
                await asyncio.sleep(every_s)
            await history.written_since(time.monotonic(), within_s=5.0)
        return await cluster.judged(history)


@pytest.mark.faults
async def test_an_address_that_moves_to_the_new_primary_is_followed(
    cluster: Cluster, replicated: RunningStack
) -> None:
    """Experiment 5: behind one address the old primary is a standby for a while (25006)."""
    dsn = replicated.dsn("tercet_app", cluster.leader)
    async with FaultProxy(*address(dsn)) as proxy:
        host, port = address(dsn)
        by_proxy = dsn.replace(f"{host}:{port}", f"{proxy.host}:{proxy.port}")
        primary = Primary(pool_of(f"{by_proxy}?sslmode=disable&target_session_attrs=any"))
        old = cluster.leader
        async with cluster.history(primary) as history:
            assert (await cluster.promote()).done
            await until(lambda: replicated.part(old)["state"] == "running", within_s=40, what=old)
            pool = primary.pool
            await until(lambda: pool.idle + pool.busy >= 1, within_s=10, what="connected to it")
            lost, moved_at = pool.counts.lost, time.monotonic()
            proxy.point_to(*address(replicated.dsn("tercet_app", cluster.leader)))
            gap_s = await history.written_since(moved_at, within_s=10.0)
            # Refusals of an open breaker reach no server; those that did cost their connection.
            failed = pool.counts.lost - lost
        verdict = await cluster.judged(history)
        await pool.close()
    passed = verdict.honest and gap_s <= RESUMED_WITHIN_S and failed <= pool.size
    record(
        5, "an address that moved", passed,
        gap_ms=round(gap_s * 1000), failed_after_the_move=failed, connections=pool.size,
        **verdict.figures(),
    )  # fmt: skip
    assert passed, (gap_s, failed, verdict)


class Reading:
    """Readers at work, with how long each read took and how many failed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.took_s: list[float] = []
        self.failed = 0

    async def read(self) -> None:
        while True:
            started_at = time.monotonic()
            try:
                await self._database.reads.fetchval("select 1")
            except Problem:
                self.failed += 1
            self.took_s.append(time.monotonic() - started_at)
            await asyncio.sleep(0.002)

    def p99_s(self) -> float:
        return sorted(self.took_s)[int(len(self.took_s) * 0.99)]


async def standby_killed(cluster: Cluster, parts: Parts, *, go_on_s: float) -> dict[str, float]:
    name = random.choice(cluster.names("standby"))
    async with cluster.opened() as store:
        database = store.database
        await are_fit(database, 2)
        reading = Reading(database)
        readers = [asyncio.create_task(reading.read()) for _ in range(4)]
        async with cluster.history(database.primary) as history:
            await asyncio.sleep(0.3)
            parts.kill(name)
            died_at = time.monotonic()
            await until(lambda: len(database.readers()) < 3, within_s=10.0, what="it is ejected")
            ejected_s = time.monotonic() - died_at
            await asyncio.sleep(go_on_s)
            await are_fit(database, 2)
            returned_s = time.monotonic() - died_at
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        verdict = await cluster.judged(history)
    assert verdict.honest, verdict
    return {
        "reads": len(reading.took_s),
        "reads_failed": reading.failed,
        "ejected_ms": round(ejected_s * 1000),
        "write_stall_ms": round(verdict.longest_gap_s * 1000),
        "returned_ms": round(returned_s * 1000),
    }


async def test_a_killed_standby_costs_no_read_and_stops_no_write(
    cluster: Cluster, parts: Parts
) -> None:
    figures = await standby_killed(cluster, parts, go_on_s=0.3)
    assert figures["reads_failed"] == 0, figures
    assert figures["ejected_ms"] <= EJECTED_WITHIN_S * 1000 * PATIENCE
    assert figures["write_stall_ms"] <= 2000 * PATIENCE


@pytest.mark.faults
async def test_killed_standbys_in_a_row(cluster: Cluster, parts: Parts) -> None:
    rounds = []
    for _ in range(ROUNDS):
        await cluster.whole()
        rounds.append(await standby_killed(cluster, parts, go_on_s=1.0))
    passed = all(
        one["reads_failed"] <= one["reads"] * 0.001
        and one["ejected_ms"] <= EJECTED_WITHIN_S * 1000
        and one["write_stall_ms"] <= 2000
        for one in rounds
    )
    record(8, "standby killed", passed, rounds=rounds)
    assert passed, rounds


async def flapping(cluster: Cluster, *, times: int, every_s: float) -> dict[str, float]:
    """A standby that comes and goes, behind a proxy; the other one stays."""
    flaps, stays = cluster.names("standby")
    dsns = [cluster.stack.dsn("tercet_read", name) for name in (flaps, stays)]
    async with FaultProxy(*address(dsns[0])) as proxy:
        host, port = address(dsns[0])
        dsns[0] = dsns[0].replace(f"{host}:{port}", f"{proxy.host}:{proxy.port}")
        dsns[0] += "?sslmode=disable"
        async with cluster.opened(standby_dsns=dsns) as store:
            database = store.database
            await are_fit(database, 2)
            calm = Reading(database)
            await for_a_while(calm, every_s)
            rough = Reading(database)
            readers = [asyncio.create_task(rough.read()) for _ in range(4)]
            for _ in range(times):
                await proxy.accept(Accept.REFUSE)
                proxy.reset_all()
                await asyncio.sleep(every_s / 2)
                await proxy.accept(Accept.FORWARD)
                await asyncio.sleep(every_s / 2)
            well_at = time.monotonic()
            await are_fit(database, 2)
            banned_s = time.monotonic() - well_at + every_s / 2
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            ejections = database.replicas[0].standing.ejections_total
    limit_s = 2 * calm.p99_s()
    slow = sum(took > limit_s for took in rough.took_s)
    return {
        "reads": len(rough.took_s),
        "reads_failed": rough.failed,
        "slow_share": round(slow / len(rough.took_s), 4),
        "ejections": ejections,
        "flaps": times,
        "banned_s": round(banned_s, 1),
    }


async def for_a_while(reading: Reading, seconds: float) -> None:
    readers = [asyncio.create_task(reading.read()) for _ in range(4)]
    await asyncio.sleep(seconds)
    for task in readers:
        task.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def test_a_standby_that_flaps_costs_no_read(cluster: Cluster) -> None:
    figures = await flapping(cluster, times=3, every_s=0.6)
    assert figures["reads_failed"] == 0, figures
    assert figures["banned_s"] <= LONGEST_WAIT_S * PATIENCE


@pytest.mark.faults
async def test_a_standby_that_flaps_ten_times_in_30_s(cluster: Cluster) -> None:
    figures = await flapping(cluster, times=10, every_s=3.0)
    passed = (
        figures["reads_failed"] == 0
        and figures["slow_share"] <= 0.01
        and figures["banned_s"] <= 10.0
        and figures["ejections"] < 10
    )
    record(9, "a standby that flaps", passed, **figures)
    assert passed, figures


async def looks_back(database: Database, table: str, *, looks: int, tokens: bool) -> int:
    """How often a customer who looks again and again is shown less than before."""
    sql = f"""
        select max(n) as newest, (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            else pg_current_wal_flush_lsn() end - '0/0'::pg_lsn)::bigint as position
        from {table}
    """  # noqa: S608 - the test's own
    times, newest, session = 0, 0, Session()
    for _ in range(looks):
        current_session.set(session)
        row = await database.own.fetchrow(sql)
        assert row is not None
        times += row["newest"] < newest
        newest = max(newest, row["newest"])
        session = Session(session.seen if tokens else NOTHING)
    current_session.set(None)
    return times


async def test_between_two_standbys_time_never_runs_backwards_for_who_has_looked(
    cluster: Cluster,
) -> None:
    """One has stopped replaying, so the two show two moments; without tokens it is seen."""
    late = cluster.names("standby")[0]
    async with (
        cluster.opened(standby_lag_limit_ms=8000) as store,
        cluster.superuser(late) as paused,
    ):
        database = store.database
        await are_fit(database, 2)
        async with cluster.history(database.primary, writers=1) as history:
            async with cluster.superuser() as connection:
                await connection.execute(f"grant select on {history.table} to tercet_read")
            await history.written_since(time.monotonic(), within_s=5.0)
            await asyncio.sleep(0.2)  # both have the grant
            await paused.execute("select pg_wal_replay_pause()")
            try:
                await history.written_since(time.monotonic() + 0.2, within_s=5.0)
                without = await looks_back(database, history.table, looks=200, tokens=False)
                at_standby = database.own.at_standby
                assert await looks_back(database, history.table, looks=200, tokens=True) == 0
                assert database.own.at_standby > at_standby
            finally:
                await paused.execute("select pg_wal_replay_resume()")
        assert without > 0


async def test_a_stack_with_one_standby_promotes_none(broken_stack: RunningStack) -> None:
    answer = await Cluster(broken_stack).promote()
    assert not answer.done
    assert "--standbys 2" in answer.said
    assert urlsplit(broken_stack.environment["TERCET_PRIMARY_DSN"]).port
