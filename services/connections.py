"""The connections to one address: those that are idle, and those that carry an exchange."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from services.address import Address
from services.connection import Connection
from services.deadline import Deadline
from services.exchange import AnswerLimits, Patience, PoolClosed
from services.places import Places

AGE_JITTER: Final = 0.2  # of the age: what was opened in one burst is not replaced in one


class Connections:
    """Of the idle ones the one used last is used next, so that those not needed grow idle and
    close. One that is older than max_age_s is not used again."""

    def __init__(
        self,
        address: Address,
        places: Places,
        *,
        idle_s: float,
        max_age_s: float,
        limits: AnswerLimits,
    ) -> None:
        self.address = address
        self.idle: list[Connection] = []
        self.busy: set[Connection] = set()
        self.connecting = 0
        self.opened_total = self.reused_total = 0
        self._places = places
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._limits = limits
        self._sweeper: asyncio.TimerHandle | None = None

    def take_idle(self, now: float, *, repeatable: bool) -> Connection | None:
        """An idle connection that is fit for use, now busy."""
        while self.idle:
            connection = self.idle.pop()
            self.busy.add(connection)
            if now - connection.idle_since > self._idle_s or now >= connection.retire_at:
                connection.drop()
            elif repeatable or is_quiet(connection):
                self.reused_total += 1
                return connection
        return None

    async def connect(self, deadline: Deadline, patience: Patience) -> Connection:
        """A new connection, busy, in the place that was taken for it; or NotSent, and the place
        is still the caller's."""
        within_s = min(deadline.left_s(), patience.connect_s)
        self.connecting += 1
        try:
            connection = await self.address.connect(self._make, within_s)
        finally:
            self.connecting -= 1
        jitter = random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311 - no secret
        connection.retire_at = time.monotonic() + self._max_age_s * jitter
        self.busy.add(connection)
        self.opened_total += 1
        if self._places.closed:
            self.busy.discard(connection)
            connection.drop()
            raise PoolClosed("the pool was closed")
        return connection

    def _make(self) -> Connection:
        return Connection(self, self.address.host_line, self._limits)

    def drop_oldest(self) -> None:
        """End the connection that has been idle longest."""
        self.idle[0].drop()

    def retire(self) -> None:
        """Use no connection of now any more: each ends at once, or with its exchange."""
        for connection in list(self.idle):
            connection.drop()
        for connection in self.busy:
            connection.retire_at = 0.0

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in [*self.idle, *self.busy]:
            connection.drop()

    # What a connection says

    def answered(self, connection: Connection) -> None:
        self.address.answered_total += 1
        self.address.failures = 0

    def released(self, connection: Connection) -> None:
        self.address.answered_total += 1
        self.address.failures = 0
        self.put_back(connection)

    def put_back(self, connection: Connection) -> None:
        """To whoever has waited longest, else to the idle ones.

        One that is old ends instead, and its place is free for a fresh one.
        """
        now = time.monotonic()
        if now >= connection.retire_at:
            connection.drop()
        elif self._places.waiters and self._places.give(connection):
            self.reused_total += 1
        else:
            self.busy.discard(connection)
            connection.idle_since = now
            self.idle.append(connection)
            if self._sweeper is None:
                self._sweep()

    def ended(self, connection: Connection, error: BaseException | None) -> None:
        """One that never got out of connect() holds no place of its own."""
        if connection in self.busy:
            self.busy.remove(connection)
        elif connection in self.idle:
            self.idle.remove(connection)
        else:
            return
        self._places.pass_on()

    def may_repeat(self, connection: Connection) -> bool:
        """Once it has served, the server most likely closed it while it was idle."""
        return connection.served > 0

    def _sweep(self) -> None:
        """Close what has been idle too long; runs only while something is idle."""
        self._sweeper = None
        oldest_allowed = time.monotonic() - self._idle_s
        while self.idle and self.idle[0].idle_since <= oldest_allowed:
            self.idle[0].drop()
        if self.idle and not self._places.closed:
            wait_s = self.idle[0].idle_since + self._idle_s - time.monotonic()
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(max(wait_s, 0.01), self._sweep)


def is_quiet(connection: Connection) -> bool:
    """Whether it shows no sign of an end: what can not be repeated is sent into no other."""
    if connection.unread():
        connection.drop()
        return False
    return True
