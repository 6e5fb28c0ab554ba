"""A release that dies at its start: the one before goes on serving, and is not tried for ever.

What is bad about it here is that its secrets can not be read: each new process ends with exit code
78 before it is ready, as one would that can not even be imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.access.conftest import request
from tests.failures.access_process import children, rolled
from tests.failures.swarm import Swarm
from tests.faults import figures
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books

TIERS: Final = ("access", "business")
DIED: Final = "a process exited before it was ready"
EXIT_BAD_SETTINGS: Final = 78


@contextmanager
def unreadable(secrets: Path) -> Iterator[None]:
    away = secrets.with_name("secrets-away")
    secrets.rename(away)
    try:
        yield
    finally:
        away.rename(secrets)


def deaths(log: Path, since: int) -> list[dict[str, Any]]:
    """What the parent has said of children that died, in what was logged after so many bytes."""
    lines = log.read_bytes()[since:].splitlines()
    told = [json.loads(line) for line in lines if line.startswith(b"{")]
    return [line for line in told if line.get("event") == DIED]


async def bad_release(
    stack: RunningStack, books: Books, *, attempts: int, within_s: float
) -> tuple[dict[str, list[float]], list[Swarm]]:
    """Roll one out to access and business under load; returns their waits, and the clients."""
    page = request(f"/products/{(await books.goods()).slug}/stock")
    order = request("/orders", "content-type: application/json", method="POST", body=b"{}")
    pids = {name: stack.part(name)["pid"] for name in TIERS}
    logs = {name: stack.folder.log / f"{name}.log" for name in TIERS}
    sizes = {name: log.stat().st_size for name, log in logs.items()}
    before = {name: children(pid) for name, pid in pids.items()}
    port = int(stack.url.rpartition(":")[2])

    def tried() -> bool:
        return all(len(deaths(logs[name], sizes[name])) >= attempts for name in TIERS)

    async with Swarm(port, page, 4) as readers, Swarm(port, order, 4) as buyers:
        with unreadable(stack.folder.secrets):
            for pid in pids.values():
                os.kill(pid, signal.SIGHUP)
            await until(tried, within_s=within_s, what=f"{attempts} attempts of each")
            for name, pid in pids.items():
                assert before[name] <= children(pid), "the old release is gone"
        seen = {name: deaths(logs[name], sizes[name])[:attempts] for name in TIERS}
        answered = readers.answered + buyers.answered
        await asyncio.gather(*map(rolled, pids.values()))  # the next release is a good one
    assert answered > 100
    assert {line["code"] for lines in seen.values() for line in lines} == {EXIT_BAD_SETTINGS}
    waits = {name: [line["next_start_s"] for line in lines] for name, lines in seen.items()}
    return waits, [readers, buyers]


def check(swarms: list[Swarm]) -> None:
    assert [swarm.lost for swarm in swarms] == [[], []]
    assert [swarm.refused for swarm in swarms] == [0, 0]
    assert [swarm.statuses for swarm in swarms] == [{200}, {400}]


async def test_a_release_that_dies_at_its_start_costs_nobody_a_request(
    broken_stack: RunningStack, books: Books
) -> None:
    waits, swarms = await bad_release(broken_stack, books, attempts=2, within_s=30)
    check(swarms)
    assert waits == {name: [1, 2] for name in TIERS}


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_bad_release_is_tried_again_after_1_to_30_seconds(
    broken_stack: RunningStack, books: Books
) -> None:
    waits, swarms = await bad_release(broken_stack, books, attempts=7, within_s=200)
    lost = sum(len(swarm.lost) + swarm.refused for swarm in swarms)
    passed = lost == 0 and set(map(tuple, waits.values())) == {(1, 2, 4, 8, 16, 30, 30)}
    figures.record(
        38,
        "a rolling restart of access and business to a release that dies at its start",
        passed,
        answered=sum(swarm.answered for swarm in swarms),
        lost=lost,
        waits_s=waits["access"],
    )
    check(swarms)
    assert passed, waits
