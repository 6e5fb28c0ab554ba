"""Doing a whole transaction again where PostgreSQL rolled it back in favour of another one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg

from services.problems import Unavailable

T = TypeVar("T")

# Where one in five is rolled back, one in 125 is three times; more attempts would feed the crowd.
ATTEMPTS: Final = 3
PAUSE_S: Final = 0.01  # the other one is a transaction of some milliseconds


async def retried(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns: one transaction and nothing else that can be seen from outside.

    Done again, ATTEMPTS times in all, after a serialization failure or a deadlock (40001, 40P01):
    the server has said that nothing of it happened. Any other error comes as it is.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return await work()
        except Unavailable as refused:
            if not rolled_back(refused):
                raise
        # Two that met would meet again, had they the same pause.
        await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))  # noqa: S311 - jitter
    return await work()


def rolled_back(error: BaseException) -> bool:
    """Whether PostgreSQL said that it undid the transaction because of another one."""
    return isinstance(error.__cause__, asyncpg.TransactionRollbackError)
