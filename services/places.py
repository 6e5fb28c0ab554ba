"""The places of a bounded number of connections, and the requests that wait for one."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from services.connection import Connection
from services.deadline import Deadline
from services.exchange import Patience, PoolClosed, PoolTimedOut


class Places:
    """At most `size` connections, those being made among them; who finds none free waits.

    Who has waited longest is given the next connection that is free, or the place of one that
    ended. Whoever ends a connection passes its place on.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.open = 0
        self.closed = False
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self.waiters)

    async def wait(self, deadline: Deadline, patience: Patience) -> Connection | None:
        """A connection that became free, or None: a place in which to make one."""
        if self.open < self.size:
            self.open += 1
            return None
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self.waiters.append(waiter)
        wait_s = min(deadline.left_s(), patience.pool_s)
        timer = None if wait_s == math.inf else loop.call_later(wait_s, self._give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._unwait(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def give(self, connection: Connection) -> bool:
        """Give a free connection to whoever has waited longest; false: nobody waits."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def pass_on(self) -> None:
        """A place is free: it goes to whoever has waited longest."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.open -= 1

    def close(self) -> None:
        self.closed = True
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(PoolClosed("the pool was closed"))

    def _give_up(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            self.waiters.remove(waiter)
            waiter.set_exception(PoolTimedOut(f"all {self.size} connections stayed in use"))

    def _unwait(self, waiter: asyncio.Future[Connection | None]) -> None:
        """A waiter was cancelled: what it was given in the same turn goes to the next."""
        if waiter.cancelled():
            if waiter in self.waiters:
                self.waiters.remove(waiter)
        elif waiter.exception() is None:
            connection = waiter.result()
            if connection is None:
                self.pass_on()
            elif connection.alive:
                connection.owner.put_back(connection)
