"""Hashes: in few processes of their own, never on the loop, refused where there are too many."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from argon2 import extract_parameters
from argon2.exceptions import VerifyMismatchError

from services.business import hasher
from services.business.hasher import HASHER, NICE, NOBODYS
from services.business.hashers import COMMAND, Hashers
from services.business.passwords import WAITING_MAX, Passwords
from services.problems import Overloaded, Unavailable

# A parent that says which hasher it has, and then does nothing until it is killed.
PARENT = """
import asyncio
from services.business.passwords import Passwords

async def main():
    passwords = Passwords()
    await passwords.hash("a password")
    print(*passwords.hashers.pids(), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def passwords() -> AsyncIterator[Passwords]:
    found = Passwords()
    yield found
    await found.aclose()


async def test_the_loop_turns_while_a_password_is_hashed(passwords: Passwords) -> None:
    with passwords.place():
        hashing = asyncio.create_task(passwords.hash("a password"))
        turns = 0
        while not hashing.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 10


async def test_a_hasher_gives_way_to_everybody_else(passwords: Passwords) -> None:
    await passwords.hash("a password")
    (pid,) = passwords.hashers.pids()
    assert os.getpriority(os.PRIO_PROCESS, pid) == NICE
    # Time is shared out between sessions first: its niceness would count for nothing in ours.
    assert os.getsid(pid) == pid
    assert _group_of(pid).endswith(f"nice {NICE}\n") or not _group_of(os.getpid())


async def test_what_does_not_fit_is_refused_at_once(passwords: Passwords) -> None:
    with contextlib.ExitStack() as places:
        for _ in range(1 + WAITING_MAX):
            places.enter_context(passwords.place())
        began_at = time.monotonic()
        with pytest.raises(Overloaded) as refused:
            places.enter_context(passwords.place())
        assert time.monotonic() - began_at < 0.1
        assert refused.value.headers()["retry-after"] == "1"
        assert (passwords.in_hand, passwords.refused_total) == (1 + WAITING_MAX, 1)
    assert passwords.in_hand == 0
    with passwords.place():
        assert passwords.in_hand == 1


async def test_who_leaves_takes_its_work_along(passwords: Passwords) -> None:
    async def one() -> None:
        with passwords.place():
            await passwords.hash("a password")

    tasks = [asyncio.create_task(one()) for _ in range(1 + WAITING_MAX)]
    await asyncio.sleep(0.001)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (passwords.in_hand, passwords.hashes_total) == (0, 1)


def test_nobodys_hash_is_compared_like_one_of_today() -> None:
    """It is read as a hash, and differs from those of today in salt and digest only."""
    today = HASHER.hash(b"a password")
    assert extract_parameters(NOBODYS) == extract_parameters(today)
    assert not hasher.matches(NOBODYS, b"a password")
    with pytest.raises(VerifyMismatchError):
        HASHER.verify(NOBODYS, b"a password")


async def test_no_hash_is_nobodys(passwords: Passwords) -> None:
    with passwords.place():
        assert not await passwords.matches(None, "a password")
        assert not await passwords.matches("", "a password")
        assert not await passwords.matches("not a hash", "a password")
        stored = await passwords.hash("a password")
        assert await passwords.matches(stored, "a password")
        assert not passwords.is_old(stored)


async def test_a_killed_hasher_costs_nobody_a_hash(passwords: Passwords) -> None:
    """Neither between two hashes nor in the middle of one."""
    stored = await passwords.hash("a password")
    (first,) = passwords.hashers.pids()
    os.kill(first, signal.SIGKILL)
    assert await passwords.matches(stored, "a password")
    (second,) = passwords.hashers.pids()
    hashing = asyncio.create_task(passwords.hash("a password"))
    while psutil.Process(second).status() != psutil.STATUS_RUNNING:  # noqa: ASYNC110  # a process sets no asyncio.Event
        await asyncio.sleep(0)
    os.kill(second, signal.SIGKILL)
    assert await passwords.matches(await hashing, "a password")
    (third,) = passwords.hashers.pids()
    assert len({first, second, third}) == 3
    assert passwords.hashers.lost_total in {1, 2}  # the idle one may have been seen to end


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((sys.executable, "-S", "-c", ""), id="ends"),
        pytest.param((sys.executable, "-S", "-c", "import time; time.sleep(60)"), id="is stuck"),
        pytest.param(("/nothing/of/the/kind",), id="can not be started"),
    ],
)
async def test_where_none_answers_who_asks_is_told_so_and_so_is_the_next(
    command: tuple[str, ...],
) -> None:
    hashers = Hashers(1, command, answer_s=0.2)
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            await hashers.ask({"password": "a password"})
        assert refused.value.headers()["retry-after"] == "1"
        assert hashers.pids() == []
    assert hashers.lost_total == 4


async def test_an_answer_is_never_that_of_the_one_before_who_left(passwords: Passwords) -> None:
    stored = await passwords.hash("a password")
    leaving = asyncio.create_task(passwords.matches(stored, "a password"))
    await asyncio.sleep(0.005)
    leaving.cancel()
    assert not await passwords.matches(stored, "another password")
    assert passwords.hashers.lost_total == 0


async def test_a_hasher_ends_with_its_parent_however_that_ends() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    orphan = psutil.Process(pid)
    assert orphan.cmdline() == list(COMMAND)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110  # a process sets no asyncio.Event
            await asyncio.sleep(0.01)


async def test_none_is_left_when_it_is_over() -> None:
    passwords = Passwords(processes=2)
    hashing = [asyncio.create_task(passwords.hash("a password")) for _ in range(3)]
    while len(passwords.hashers.pids()) < 2:  # noqa: ASYNC110  # a process sets no asyncio.Event
        await asyncio.sleep(0.01)
    left = passwords.hashers.pids()
    for each in hashing:
        each.cancel()
    await passwords.aclose()
    assert not any(psutil.pid_exists(pid) for pid in left)


def _group_of(pid: int) -> str:
    """Its group of the kernel's autogroup (sched(7)); "" where there is none."""
    group = Path(f"/proc/{pid}/autogroup")
    return group.read_text() if group.exists() else ""
