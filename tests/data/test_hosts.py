"""A DSN of several hosts: the one that takes writes is found, and a silent one keeps nobody."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from infra.local.addresses import free_port
from services.data.hosts import HEAD_START_S, Hosts, dsn_of_each
from services.data.link import LOST, Link, open_link
from services.data.pool import IN_RECOVERY
from tests.faults.proxy import Accept, FaultProxy


@pytest.mark.parametrize(
    ("dsn", "each"),
    [
        ("postgresql://me@a:1/d", ["postgresql://me@a:1/d"]),
        ("postgresql://me:x@a:1,b/d?x=y", [f"postgresql://me:x@{h}/d?x=y" for h in ("a:1", "b")]),
        ("postgresql://[::1]:5,[::2]:6/d", ["postgresql://[::1]:5/d", "postgresql://[::2]:6/d"]),
    ],
)
def test_each_host_gets_a_dsn_of_its_own(dsn: str, each: list[str]) -> None:
    assert dsn_of_each(dsn) == each


def several(dsn: str, *places: str) -> Hosts:
    """The DSN with these hosts in place of its own."""
    parts = urlsplit(dsn)
    return Hosts(dsn.replace(parts.netloc.rpartition("@")[2], ",".join(places)))


def place(dsn: str) -> str:
    return urlsplit(dsn).netloc.rpartition("@")[2]


async def opened(dsn: str) -> Link:
    password = urlsplit(dsn).password or ""
    return await open_link(
        dsn, password=password, application="test", statement_timeout_ms=1000, writable=True
    )


@asynccontextmanager
async def first(hosts: Hosts) -> AsyncIterator[Link]:
    link = await hosts.first(opened)
    try:
        yield link
    finally:
        await link.connection.close()


async def test_the_host_that_takes_writes_is_found_wherever_it_stands(
    app_dsn: str, read_dsn: str
) -> None:
    standby, primary = place(read_dsn), place(app_dsn)
    nobody = f"127.0.0.1:{free_port()}"
    for hosts in ([standby, primary], [primary, standby], [nobody, standby, primary]):
        async with first(several(app_dsn, *hosts)) as link:
            assert await link.connection.fetchval(IN_RECOVERY) is False


async def test_a_silent_host_costs_a_head_start_and_the_next_time_nothing(app_dsn: str) -> None:
    host, _, port = place(app_dsn).rpartition(":")
    async with FaultProxy(host, int(port)) as frozen:
        await frozen.accept(Accept.HALF_OPEN)
        hosts = several(app_dsn, f"{frozen.host}:{frozen.port}", place(app_dsn))
        started_at = time.monotonic()
        async with first(hosts):
            first_s = time.monotonic() - started_at
        asked = frozen.counts().connections_total
        async with first(hosts):
            pass
        assert HEAD_START_S <= first_s < HEAD_START_S + 0.7
        assert asked == 1
        assert frozen.counts().connections_total == 1


async def test_where_no_host_takes_writes_the_last_reason_is_told(
    app_dsn: str, read_dsn: str
) -> None:
    hosts = several(app_dsn, f"127.0.0.1:{free_port()}", place(read_dsn))
    with pytest.raises(LOST):
        await hosts.first(opened)
