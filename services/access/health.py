"""/live and /ready: whether this process runs, and whether business would answer."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from services.balance import Balance
from services.deadline import Deadline
from services.keepalive import ExchangeError

ASK_S: Final = 0.5  # business asks its own parts within this
HELD_S: Final = 0.5  # probes come every second or so; many probes cost one question


class Readiness:
    """The last answer of business to /ready, held for a moment; false while stopping."""

    def __init__(self, pool: Balance) -> None:
        self._pool = pool
        self._lock = asyncio.Lock()
        self._ready = False
        self._asked_at = 0.0
        self.stopping = False

    async def ready(self) -> bool:
        if self.stopping:
            return False
        if not self._fresh():
            async with self._lock:
                if not self._fresh():
                    self._ready = await self._ask()
                    self._asked_at = time.monotonic()
        return self._ready and not self.stopping

    def _fresh(self) -> bool:
        return time.monotonic() - self._asked_at < HELD_S

    async def _ask(self) -> bool:
        try:
            answer = await self._pool.request(b"GET", b"/ready", deadline=Deadline.after(ASK_S))
        except ExchangeError:
            return False
        return answer.status == 200
