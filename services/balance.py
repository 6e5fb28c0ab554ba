"""A keep-alive HTTP/1.1 client over several addresses: to the less loaded, never to the sick."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from random import random
from typing import Final

from services.addresses import Addresses
from services.client import Client
from services.connection import Connection
from services.connections import Connections
from services.deadline import Deadline
from services.exchange import (
    AnswerLimits,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    Patience,
)
from services.keepalive import IDLE_S, MAX_AGE_S
from services.members import RAMP_S, Member
from services.places import Places
from services.request import SAFE
from services.retry_budget import RetryBudget

# A tier next door answers a SYN within a millisecond. A lost one is repeated by the system after
# a second, by a retry at once.
CONNECT_S: Final = 0.5
FAILURES: Final = (ConnectionLost, BadAnswer)  # of the server; a deadline may just be short
PROBLEM: Final = b"application/problem+json"


class Balance(Client):
    """At most `size` connections to all addresses together, for one class of traffic.

    A request goes to the one of two addresses, chosen by chance among those used, that has
    fewer in flight. A request with a safe method that was lost before a byte of its answer, and
    any request that could not be sent, is sent once more or twice, to another address if there
    is one, within the retry budget and its own deadline.
    """

    repeatable = SAFE
    repeats = 2

    def __init__(
        self,
        addresses: Addresses,
        *,
        size: int,
        idle_s: float = IDLE_S,
        max_age_s: float = MAX_AGE_S,
        hop_ms: int | None = None,
        patience: Patience | None = None,
        limits: AnswerLimits | None = None,
    ) -> None:
        patience = patience or replace(Patience(), connect_s=CONNECT_S)
        super().__init__(size=size, hop_ms=hop_ms, patience=patience)
        self.budget = RetryBudget()
        self._addresses = addresses
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._limits = limits or AnswerLimits()
        self._by_member: dict[Member, Part] = {}
        self._leaving: list[Part] = []
        self._used: list[Part] = []
        self._ramps_until = 0.0
        self._chosen: Part | None = None  # that had no idle connection for the last request
        self._turn = 0  # whose it is among two that are equally loaded
        addresses.join(self)
        self.changed()

    @property
    def parts(self) -> Sequence[Part]:
        return [*self._by_member.values(), *self._leaving]

    async def aclose(self) -> None:
        self._addresses.leave(self)
        await super().aclose()

    # What the addresses say and ask

    def changed(self) -> None:
        """Have a part for each member; those that are not used any more give up what is idle."""
        members, now = self._addresses.members, time.monotonic()
        parts = {each: self._by_member.get(each) or self._part(each) for each in members.all}
        gone = [part for member, part in self._by_member.items() if member not in parts]
        self._leaving = [part for part in [*self._leaving, *gone] if part.busy or part.connecting]
        self._by_member = parts
        self._used = [parts[member] for member in members.used]
        if any(member.is_ramping(now) for member in members.used):
            self._ramps_until = now + RAMP_S
        for part in [*gone, *parts.values()]:
            if part not in self._used:
                part.retire()

    def in_flight_at(self, member: Member) -> int:
        part = self._by_member.get(member)
        return 0 if part is None else len(part.busy)

    def forsake(self, member: Member) -> None:
        part = self._by_member.get(member)
        if part is not None:
            for connection in list(part.busy):
                connection.give_up()

    # What a part says and asks

    def failed(self, member: Member) -> None:
        self._addresses.failed(member)

    def may_repeat(self) -> bool:
        return self.budget.take(time.monotonic(), self.requests_total)

    # The choice

    def _take_idle(
        self, now: float, *, repeatable: bool, avoid: Connection | None = None
    ) -> Connection | None:
        if now >= self.budget.turn_at:
            self.budget.turn(now, self.requests_total)
        if not self._used:
            return None
        if avoid is not None:
            part = self._other(now, avoid)
        elif len(self._used) == 1:
            part = self._used[0]
        else:
            part = self._choose(now)
        if avoid is not None and part is avoid.owner:
            if part.idle and self.open >= self.size:
                part.drop_oldest()  # the others may have been closed as well
            return None
        connection = part.take_idle(now, repeatable=repeatable)
        if connection is not None:
            self._turn = 1 - self._turn
            return connection
        if self._places.open < self.size:
            self._chosen = part
            return None
        return self._borrow(part, now, repeatable=repeatable)

    def _choose(self, now: float) -> Part:
        """The less loaded of two: nearly as even as the least of all, and no herd runs to it."""
        used = self._used
        count = len(used)
        if count == 1:
            return used[0]
        if count == 2:
            one, other = used[self._turn], used[1 - self._turn]
        else:
            first, second = int(random() * count), int(random() * (count - 1))  # noqa: S311
            one, other = used[first], used[second + (second >= first)]
        if now < self._ramps_until:
            one, other = _slowly(one, other, now), _slowly(other, one, now)
        one_load, other_load = len(one.busy) + one.connecting, len(other.busy) + other.connecting
        return one if one_load <= other_load else other

    def _other(self, now: float, avoid: Connection) -> Part:
        others = [part for part in self._used if part is not avoid.owner]
        return min(others, key=_load) if others else self._choose(now)

    def _borrow(self, chosen: Part, now: float, *, repeatable: bool) -> Connection | None:
        """All places are taken: use what another address has idle, or its place if it has many."""
        rich = max(self._used, key=lambda part: len(part.idle))
        if not rich.idle:
            return None
        if rich.open >= chosen.open + 2:
            rich.drop_oldest()
            return None
        return rich.take_idle(now, repeatable=repeatable)

    async def _connect(
        self, deadline: Deadline, patience: Patience, avoid: Connection | None
    ) -> Connection:
        await self._addresses.ready(deadline)
        now = time.monotonic()
        part = self._chosen
        if part is None or part not in self._used or (avoid and part is avoid.owner):
            part = self._choose(now) if avoid is None else self._other(now, avoid)
        self._chosen = None
        tried = [part]
        while True:
            try:
                connection = await part.connect(deadline, patience)
            except (ConnectFailed, ConnectTimedOut):
                if deadline.passed():
                    raise
                self.failed(part.address)
                others = [part for part in self._used if part not in tried]
                if not others or len(tried) > self.repeats or not self.may_repeat():
                    raise
                self.retried_total += 1
            else:
                self._turn = 1 - self._turn
                return connection
            part = min(others, key=_load)
            tried.append(part)

    def _part(self, member: Member) -> Part:
        return Part(
            self,
            member,
            self._places,
            idle_s=self._idle_s,
            max_age_s=self._max_age_s,
            limits=self._limits,
        )


class Part(Connections):
    """The connections of a Balance to one of its addresses."""

    address: Member

    def __init__(
        self,
        balance: Balance,
        member: Member,
        places: Places,
        *,
        idle_s: float,
        max_age_s: float,
        limits: AnswerLimits,
    ) -> None:
        super().__init__(member, places, idle_s=idle_s, max_age_s=max_age_s, limits=limits)
        self._balance = balance

    @property
    def open(self) -> int:
        return len(self.idle) + len(self.busy) + self.connecting

    def answered(self, connection: Connection) -> None:
        self.address.answered_total += 1
        if connection.status >= 500 and is_sick(connection):
            self._balance.failed(self.address)
        else:
            self.address.failures = 0

    def released(self, connection: Connection) -> None:
        if connection.status >= 500:
            self.answered(connection)
        else:
            address = self.address
            address.answered_total += 1
            address.failures = 0
        self.put_back(connection)

    def ended(self, connection: Connection, error: BaseException | None) -> None:
        super().ended(connection, error)
        if isinstance(error, FAILURES):
            self._balance.failed(self.address)

    def may_repeat(self, connection: Connection) -> bool:
        return self._balance.may_repeat()


def is_sick(connection: Connection) -> bool:
    """Whether an answer of 500 and above says that its server is not well.

    A problem that business names, or a time to come back at, is about the request, about what
    business depends on or about load; that leaves what a broken process or a proxy in front of
    it says.
    """
    if connection.answer_header(b"retry-after") is not None:
        return False
    content_type = connection.answer_header(b"content-type") or b""
    return not content_type.startswith(PROBLEM)


def _load(part: Part) -> int:
    return len(part.busy) + part.connecting


def _slowly(one: Part, other: Part, now: float) -> Part:
    """The other instead, as often as one that has just come back is to be spared."""
    return one if random() < one.address.share(now) else other  # noqa: S311
