"""A bulkhead: so many calls at once, and some of the places kept for what matters more.

Classes of traffic stand in an order. Each may use a share of the places, and those below it count
against that share: so pages leave room for orders, and both of them for payments, whatever comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Literal

from services.deadline import Deadline

Traffic = Literal["payment", "order", "page"]
# Who goes first. Logins go with payments: nobody pays before it is known who it is.
TRAFFIC: Final[tuple[Traffic, ...]] = ("payment", "order", "page")
# What no request has asked for (workers, the watch, the settling of a payment) may use all places.
current_traffic: ContextVar[Traffic] = ContextVar("current_traffic", default="payment")

# With what it takes to say so, a refusal is out within 250 ms; a place that takes longer to become
# free is one of a dependency that can not keep up.
WAIT_S: Final = 0.2


class BulkheadFull(Exception):
    """As many calls as allowed were running, and none ended in time."""


class Bulkhead:
    """At most `places` calls at once; waiting for a place takes wait_s at the most.

    shares: the percentage of the places for a class together with those below it; a class that is
    not named may have them all. At least one place is everybody's.
    """

    def __init__(
        self,
        name: str,
        places: int,
        *,
        shares: Mapping[Traffic, int] | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self.name = name
        self.places = places
        percents = {"payment": 100, "order": 100, "page": 100} | dict(shares or {})
        self._limits = [max(1, places * percents[traffic] // 100) for traffic in TRAFFIC]
        self._wait_s = wait_s
        self._used = [0] * len(TRAFFIC)  # by the class and those below it
        self._lines: list[deque[asyncio.Future[None]]] = [deque() for _ in TRAFFIC]

    @property
    def in_use(self) -> int:
        return self._used[0]

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lines))

    def limit(self, traffic: Traffic) -> int:
        """The most places that a class has together with those below it."""
        return self._limits[TRAFFIC.index(traffic)]

    async def take(self, deadline: Deadline) -> int:
        """A place of the class that current_traffic names, to be given back; or BulkheadFull."""
        rank = TRAFFIC.index(current_traffic.get())
        if self._is_free(rank):
            self._take(rank)
        else:
            await self._wait(rank, deadline)
        return rank

    def give_back(self, rank: int) -> None:
        """The place goes to who has waited the longest, of the first class that may have it."""
        for n in range(rank + 1):
            self._used[n] -= 1
        for line_rank, line in enumerate(self._lines):
            while line and self._is_free(line_rank):
                place = line.popleft()
                if not place.done():  # else its caller is about to leave
                    self._take(line_rank)
                    place.set_result(None)

    async def _wait(self, rank: int, deadline: Deadline) -> None:
        place = asyncio.get_running_loop().create_future()
        self._lines[rank].append(place)
        try:
            async with asyncio.timeout(min(self._wait_s, deadline.left_s())):
                await place
        except BaseException as error:
            if not place.cancelled():  # it came in the very moment of leaving
                self.give_back(rank)
            elif place in self._lines[rank]:
                self._lines[rank].remove(place)
            if isinstance(error, TimeoutError):
                raise BulkheadFull(f"{self.name} has no free place") from None
            raise

    def _is_free(self, rank: int) -> bool:
        """Whether this class may have one more, and each class above it still has its share."""
        return all(self._used[n] < self._limits[n] for n in range(rank + 1))

    def _take(self, rank: int) -> None:
        for n in range(rank + 1):
            self._used[n] += 1
