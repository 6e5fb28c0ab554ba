"""Experiment 19: many readers of one key in two processes, when nobody has it any more."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.faults.figures import record
from tests.running_stack import RunningStack
from tests.shopping import Books, Goods

ANSWERED_WITHIN_S = 30.0
# Of a page, and of nothing else.
LOADS = "select coalesce(sum(calls), 0)::int from pg_stat_statements where query like $1"
OF_A_PAGE = "%v.compare_at_minor, v.image_url%"
EXPIRIES = 20
NAMES = {"forget": "which nobody has", "expire": "which both have, past its time"}


@dataclass(frozen=True)
class ReadingProcess:
    process: asyncio.subprocess.Process

    async def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        return await self.said()

    async def said(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            line = await self.process.stdout.readline()
        words: dict[str, Any] = orjson.loads(line)
        return words


@asynccontextmanager
async def reading_process(stack: RunningStack, slug: str) -> AsyncIterator[ReadingProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.data.reading_process", slug),
        env={**os.environ, **stack.environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield ReadingProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Servers:
    """Both servers, asked how often a page was loaded there."""

    def __init__(self, connections: list[asyncpg.Connection[asyncpg.Record]]) -> None:
        self._connections = connections

    async def loads(self) -> int:
        counts = [await one.fetchval(LOADS, OF_A_PAGE) for one in self._connections]
        return sum(counts)


@pytest_asyncio.fixture
async def servers(stack: RunningStack) -> AsyncIterator[Servers]:
    names = ("primary", "standby")
    connections = [await asyncpg.connect(stack.dsn("postgres", name)) for name in names]
    yield Servers(connections)
    for connection in connections:
        await connection.close()


@asynccontextmanager
async def two_processes(stack: RunningStack, goods: Goods) -> AsyncIterator[list[ReadingProcess]]:
    async with AsyncExitStack() as opened:
        both = [
            await opened.enter_async_context(reading_process(stack, goods.slug)) for _ in range(2)
        ]
        for process in both:
            assert await process.said() == {"ready": True}
        yield both


async def read(processes: list[ReadingProcess], readers: int) -> list[dict[str, Any]]:
    """All of them at the same time."""
    return list(await asyncio.gather(*(one.ask(f"read {readers}") for one in processes)))


async def lose(how: str, processes: list[ReadingProcess], valkey: Redis, goods: Goods) -> None:
    """In Valkey, and in memory: `forget`, or `expire`."""
    for process in processes:
        await process.ask(how)
    await valkey.delete(f"tercet:page:1:{goods.slug}")


async def test_two_thousand_readers_in_two_processes_cause_one_set_of_statements(
    stack: RunningStack, servers: Servers, books: Books, valkey_url: str
) -> None:
    goods = await books.goods()
    async with two_processes(stack, goods) as processes, Redis.from_url(valkey_url) as valkey:
        before = await servers.loads()
        cold = await read(processes, 1000)
        assert sum(answer["loads"] for answer in cold) == 1
        assert await servers.loads() - before == 1
        await lose("expire", processes, valkey, goods)
        expired = await read(processes, 1000)
        assert sum(answer["loads"] for answer in expired) == 1
        assert await servers.loads() - before == 2


@pytest.mark.faults
@pytest.mark.alone
@pytest.mark.parametrize("held", ["forget", "expire"])
async def test_a_hot_key_expires_under_five_hundred_readers(
    held: str, stack: RunningStack, servers: Servers, books: Books, valkey_url: str
) -> None:
    """First nobody has anything; then both have what is past its time."""
    goods, loads, slowest = await books.goods(), list[int](), list[float]()
    async with two_processes(stack, goods) as processes, Redis.from_url(valkey_url) as valkey:
        await read(processes, 1)
        for _ in range(EXPIRIES):
            await lose("forget", processes, valkey, goods)
            alone_ms = (await processes[0].ask("read 1"))["max_ms"]
            await lose("forget", processes, valkey, goods)
            await read(processes, 1)
            await lose(held, processes, valkey, goods)
            before = await servers.loads()
            answers = await read(processes, 250)
            loads.append(await servers.loads() - before)
            slowest.append(max(answer["max_ms"] for answer in answers) / alone_ms)
    median = sorted(slowest)[EXPIRIES // 2]
    passed = max(loads) <= 2 and median <= 1.5
    record(
        19,
        f"500 readers in two processes, {NAMES[held]}",
        passed,
        expiries=EXPIRIES,
        most_loads=max(loads),
        loads=sum(loads),
        slowest_reader_to_one_alone_median=round(median, 2),
        slowest_reader_to_one_alone_worst=round(max(slowest), 2),
    )
    assert max(loads) <= 2
    assert median <= 1.5 or held == "forget"
