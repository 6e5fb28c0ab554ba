"""Connections that lie idle: looked at, replaced when broken, let go of when they do not write."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from services.data import pool as module
from services.data.link import Link
from services.data.pool import Pool
from services.data.sources import Primary
from services.problems import Unavailable
from tests.data.test_db import address, through
from tests.faults.proxy import FaultProxy
from tests.running_stack import RunningStack
from tests.shopping import open_books

PID = "select pg_backend_pid()"


@pytest.fixture(autouse=True)
def looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_LOOK_S", 0.0)


@asynccontextmanager
async def primary_by(dsn: str) -> AsyncIterator[Primary]:
    pool = Pool(
        "test",
        dsn,
        password=urlsplit(dsn).password or "",
        size=4,
        statement_timeout_ms=2000,
        writable=True,
    )
    try:
        yield Primary(pool)
    finally:
        await pool.close()


async def fill(primary: Primary, connections: int) -> None:
    """So many connections that lie idle."""
    sql = "select pg_sleep(0.05)"
    await asyncio.gather(*(primary.fetchval(sql) for _ in range(connections)))
    assert primary.pool.idle == connections


async def test_a_broken_idle_connection_is_replaced_before_anybody_asks(
    app_dsn: str, stack: RunningStack
) -> None:
    async with primary_by(app_dsn) as primary, open_books(stack.dsn("postgres")) as superuser:
        pid = await primary.fetchval(PID)
        await superuser.rows("select pg_terminate_backend($1)", pid)
        await primary.pool.look_at_idle()
        assert primary.pool.idle == 1
        assert primary.pool.counts.lost == 1
        opened = primary.pool.counts.opened
        assert await primary.fetchval(PID) != pid
        assert primary.pool.counts.opened == opened


async def test_a_look_keeps_what_is_well(app_dsn: str) -> None:
    async with primary_by(app_dsn) as primary:
        await fill(primary, 3)
        opened = primary.pool.counts.opened
        await primary.pool.look_at_idle()
        assert (primary.pool.idle, primary.pool.counts.opened) == (3, opened)


async def test_a_connection_that_is_cut_off_without_a_word_is_given_up(
    app_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        FaultProxy(*address(app_dsn)) as proxy,
        primary_by(through(app_dsn, proxy)) as primary,
    ):
        await fill(primary, 3)
        monkeypatch.setattr(module, "ANSWERS_WITHIN_S", 0.1)
        monkeypatch.setattr("services.data.link.CONNECT_TIMEOUT_S", 0.1)
        proxy.set(drop=True)
        await primary.pool.look_at_idle()
        assert primary.pool.idle == 0  # its neighbours went with it
        proxy.set()
        monkeypatch.undo()
        assert await primary.fetchval("select 1") == 1


async def test_one_that_is_old_is_replaced_alone(app_dsn: str) -> None:
    async with primary_by(app_dsn) as primary:
        await fill(primary, 3)
        primary.pool._idle[0].retire_at = 0.0
        await primary.pool.look_at_idle()
        assert (primary.pool.idle, primary.pool.counts.retired) == (3, 1)
        assert primary.pool.counts.opened == 4


async def test_pools_do_not_replace_all_their_connections_at_once(app_dsn: str) -> None:
    async with primary_by(app_dsn) as primary:
        await fill(primary, 4)
        ends = [link.retire_at for link in primary.pool._idle]
        assert max(ends) - min(ends) > 1.0


@pytest.mark.parametrize("noticed_by", ["a write", "a look"])
async def test_connections_to_a_primary_that_became_a_standby_are_let_go_of(
    noticed_by: str, app_dsn: str, read_dsn: str
) -> None:
    """A pooler or a moved address keeps them open: only what they answer tells."""
    async with FaultProxy(*address(read_dsn)) as proxy:
        dsn = through(app_dsn, proxy) + "&target_session_attrs=any"
        async with primary_by(dsn) as primary:
            await fill(primary, 4)
            proxy.point_to(*address(app_dsn))
            assert await primary.fetchval("select pg_is_in_recovery()") is True
            if noticed_by == "a look":
                await primary.pool.look_at_idle()
            else:
                with pytest.raises(Unavailable):
                    async with primary.transaction() as tx:
                        await tx.execute("select pg_advisory_xact_lock(1)")
                        await tx.execute("create temporary table t (n int)")
            for _ in range(4):
                assert await primary.fetchval("select pg_is_in_recovery()") is False


async def test_the_kernel_watches_the_peer_of_every_connection(app_dsn: str) -> None:
    async with primary_by(app_dsn) as primary, primary.pool.link() as link:
        assert option(link, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert option(link, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000


def option(link: Link, level: int, name: int) -> int:
    transport = link.connection._transport  # type: ignore[attr-defined]  # no public way
    return int(transport.get_extra_info("socket").getsockopt(level, name))


async def test_what_runs_and_what_waits_is_in_flight(app_dsn: str) -> None:
    async with primary_by(app_dsn) as primary:
        running = [asyncio.create_task(primary.fetchval("select pg_sleep(0.1)")) for _ in range(6)]
        await asyncio.sleep(0.05)
        assert primary.pool.in_flight == 6
        await asyncio.gather(*running)
        assert primary.pool.in_flight == 0
        assert primary.pool.counts.takes == 6
        assert primary.pool.counts.waited_s > 0.1  # two of them waited for the first four
