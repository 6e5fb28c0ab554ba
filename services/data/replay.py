"""Waiting for a standby to replay a position: one question at a time serves all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from services.data.sources import STANDBY_POSITION, Replica
from services.problems import Problem
from services.telemetry import logger

log = logger(__name__)

# A commit is replayed 0.2 to 1 ms after its answer; asking more often would take the time it needs.
PAUSE_S: Final = 0.001


class Replay:
    """Asks one standby how far it is, for as long as somebody waits for it."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.questions = 0
        self._waiting: dict[asyncio.Future[Replica], int] = {}
        self._asking: asyncio.Task[None] | None = None

    def call(self, position: int, waiter: asyncio.Future[Replica]) -> None:
        """Give the waiter this standby once it has replayed the position; nothing, if it can not
        be asked.
        """
        self._waiting[waiter] = position
        if self._asking is None:
            # In a context of its own: the deadline of one request must not end it for the others.
            self._asking = asyncio.get_running_loop().create_task(self._ask(), context=Context())

    def forget(self, waiter: asyncio.Future[Replica]) -> None:
        self._waiting.pop(waiter, None)

    async def _ask(self) -> None:
        try:
            while self._waiting:
                self.questions += 1
                position = await self.replica.fetchval(STANDBY_POSITION)
                if position is None:  # it is no standby any more
                    return
                self.replica.position = max(self.replica.position, position)
                for waiter, needed in list(self._waiting.items()):
                    if needed <= position:
                        del self._waiting[waiter]
                        if not waiter.done():
                            waiter.set_result(self.replica)
                if self._waiting:
                    await asyncio.sleep(PAUSE_S)
        except Problem:
            pass  # the pool has said why; who waits goes elsewhere when its time is over
        except Exception:
            log.exception("standby can not be asked", standby=self.replica.name)
        finally:
            self._asking = None


async def first_to_replay(
    replays: Sequence[Replay], position: int, *, within_s: float
) -> Replica | None:
    """The first of the standbys that has replayed the position; None when none has in time."""
    waiter: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
    for replay in replays:
        replay.call(position, waiter)
    try:
        async with asyncio.timeout(within_s):
            return await waiter
    except TimeoutError:
        return None
    finally:
        for replay in replays:
            replay.forget(waiter)
