"""How much the caches may ask of the database at once: what protects it when they are empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.problems import Unavailable

# Half the time of a load: who waits longer for a place would not see the end of it either.
WAIT_S: Final = 1.0


class Loads:
    """Places for loads: at most `at_once` run, and who waits too long for one is refused."""

    def __init__(self, at_once: int) -> None:
        self._places = asyncio.Semaphore(at_once)
        self.running = 0
        self.waiting = 0
        self.refused = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[bool]:
        """One load: whether it had to wait. Raises Unavailable when no place was free in time."""
        waits = self._places.locked()
        await self._take()
        self.running += 1
        try:
            yield waits
        finally:
            self.running -= 1
            self._places.release()

    async def _take(self) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            self.refused += 1
            raise Unavailable(retry_after_s=1) from None
        finally:
            self.waiting -= 1
