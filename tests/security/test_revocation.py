"""S16: a session that has ended is refused by every process of access within a second, whatever
becomes of the way by which they hear of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.failures.access_process import free_port
from tests.faults.proxy import Accept, FaultProxy
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.security.processes import environment_of, process
from tests.security.revocation import Crowd, begin, end
from tests.shopping import Books, open_books

PROCESSES: Final = 2
SESSIONS: Final = 4
WITHIN_S: Final = 1.0
LATE_S: Final = 1.4  # less than what makes a gap for pages


@dataclass
class Entrances:
    """Processes of access before the stack's business, and what stands before their Valkey."""

    urls: list[str]
    valkey: FaultProxy


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def entrances(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Entrances]:
    folder: Path = tmp_path_factory.mktemp("revocation")
    host, _, port = stack.part("valkey")["address"].rpartition(":")
    async with FaultProxy(host, int(port)) as valkey:
        with ExitStack() as running:
            urls = []
            for number in range(PROCESSES):
                url, ready = f"http://127.0.0.1:{free_port()}", folder / f"ready-{number}"
                environment = environment_of(
                    stack,
                    TERCET_ACCESS_PORT=url.rpartition(":")[2],
                    TERCET_ACCESS_INTERNAL_PORT="0",
                    TERCET_VALKEY_URL=f"redis://{valkey.host}:{valkey.port}/0",
                    TERCET_READY_FILE=str(ready),
                )
                log = folder / f"access-{number}.log"
                running.enter_context(process("access", environment=environment, log=log))
                urls.append(url)
            for number in range(PROCESSES):
                ready = folder / f"ready-{number}"
                await until(ready.exists, within_s=30, what="access is ready")
            yield Entrances(urls, valkey)


@pytest_asyncio.fixture
async def owner_books(stack: RunningStack) -> AsyncIterator[Books]:
    async with open_books(stack.dsn("tercet_owner")) as opened:
        yield opened


@pytest.mark.parametrize("fault", ["none", "gone", "silent", "late"])
async def test_a_session_that_has_ended_is_refused_everywhere_within_a_second(
    fault: str, entrances: Entrances, owner_books: Books
) -> None:
    sessions = [await begin(owner_books) for _ in range(SESSIONS)]
    valkey = entrances.valkey
    valkey.set()
    await valkey.accept(Accept.FORWARD)
    async with Crowd(entrances.urls, sessions) as crowd:
        await until(crowd.all_were_let_in, within_s=10, what="all are let in")
        await asyncio.sleep(0.6)  # a heartbeat: what is known is believed by it from now on
        if fault == "gone":
            await valkey.accept(Accept.RESET)
            valkey.reset_all()
        elif fault == "silent":
            valkey.set(drop=True)
        elif fault == "late":
            valkey.set(latency_ms=1000 * LATE_S)
        ended_at = await end(owner_books, sessions)
        await until(crowd.all_are_refused, within_s=10, what="all are refused")
        if fault == "late":  # what was said before the end arrives now, and must vouch for nothing
            await asyncio.sleep(ended_at + LATE_S + 0.3 - time.monotonic())
    assert crowd.longest_s(ended_at) < WITHIN_S
    assert not crowd.others
