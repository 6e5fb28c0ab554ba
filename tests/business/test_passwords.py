"""Hashes: in few threads of their own, never on the loop, refused where there are too many."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.business.passwords import WAITING_MAX, Passwords
from services.problems import Overloaded


@pytest_asyncio.fixture
async def passwords() -> AsyncIterator[Passwords]:
    found = Passwords(threads=1)
    yield found
    found.close()


async def test_the_loop_turns_while_a_password_is_hashed(passwords: Passwords) -> None:
    with passwords.place():
        hashing = asyncio.create_task(passwords.hash("a password"))
        turns = 0
        while not hashing.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 10
    assert threading.active_count() > 1


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


async def test_no_hash_is_nobodys(passwords: Passwords) -> None:
    with passwords.place():
        assert not await passwords.matches(None, "a password")
        assert not await passwords.matches("", "a password")
        assert not await passwords.matches("not a hash", "a password")
        stored = await passwords.hash("a password")
        assert await passwords.matches(stored, "a password")
        assert not passwords.is_old(stored)
