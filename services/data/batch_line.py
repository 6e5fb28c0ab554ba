"""The line before a batch: who waits, in order of arrival, and who goes into the next batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container, Hashable
from typing import Generic, TypeVar

from services.bulkhead import current_traffic
from services.consistency import Seen
from services.data.batch_counts import Counts
from services.problems import GatewayTimeout

Row = TypeVar("Row")
Out = TypeVar("Out")


class Call(Generic[Row, Out]):
    """One caller's row, and those who asked for the very same thing while it waited.

    at: the caller's deadline, and since: when it came, in seconds of the monotonic clock. begun:
    whether its batch runs. skipped: how often it was put off. seen: a place in the WAL behind it.
    traffic: the class of the caller's request.
    """

    __slots__ = (
        *("answer", "at", "begun", "key", "repeats", "row", "seen", "since", "skipped"),
        "traffic",
    )

    def __init__(
        self, row: Row, key: Hashable | None, answer: asyncio.Future[Out], since: float, at: float
    ) -> None:
        self.row = row
        self.key = key
        self.answer = answer
        self.since = since
        self.at = at
        self.begun = False
        self.skipped = 0
        self.traffic = current_traffic.get()
        self.seen: Seen | None = None
        self.repeats: list[Call[Row, Out]] = []

    def everyone(self) -> list[Call[Row, Out]]:
        return [self, *self.repeats]

    def wanted(self, now: float) -> bool:
        """Whether somebody waits for it; whose deadline has passed is told so."""
        if self.at <= now and not self.answer.done():
            self.answer.set_exception(GatewayTimeout())
        # Every repeat has to be asked, so that each whose time is over is told.
        asked = [repeat.wanted(now) for repeat in self.repeats]
        return not self.answer.done() or any(asked)

    def latest(self) -> float:
        """The latest deadline of those who wait for it."""
        if not self.repeats:
            return self.at
        return max(self.at, *(repeat.at for repeat in self.repeats))

    def end(self, outcome: Out | Exception, seen: Seen | None) -> None:
        """Give its caller the outcome, unless that one has left."""
        if self.answer.done():
            return
        self.seen = seen
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class Line(Generic[Row, Out]):
    """Calls that wait; size_of says about how many bytes a row takes.

    A batch is bounded by rows_max and bytes_max, but for a row that is larger by itself.
    """

    def __init__(
        self,
        size_of: Callable[[Row], int],
        counts: Counts,
        *,
        rows_max: int,
        bytes_max: int,
    ) -> None:
        self._counts = counts
        self._size_of = size_of
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._calls: deque[Call[Row, Out]] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def append(self, call: Call[Row, Out]) -> None:
        self._calls.append(call)

    def put_back(self, calls: list[Call[Row, Out]]) -> None:
        """To the head of the line, in their order: they came before all who wait."""
        self._calls.extendleft(reversed(calls))

    def clear(self) -> list[Call[Row, Out]]:
        """Let everybody go; returns who waited."""
        calls = list(self._calls)
        self._calls.clear()
        return calls

    def take(self, running: Container[Hashable]) -> list[Call[Row, Out]]:
        """The oldest calls that fit into a batch and do not get into each other's way.

        Those whose key is `running` wait, and so do those that differ under the key of another;
        those that are equal to another are merged into it.
        """
        now, size_bytes = time.monotonic(), 0
        batch: list[Call[Row, Out]] = []
        firsts: dict[Hashable, Call[Row, Out]] = {}
        waiting_keys: set[Hashable] = set()
        later: list[Call[Row, Out]] = []
        while self._calls and len(batch) < self._rows_max:
            call = self._calls.popleft()
            if not call.wanted(now):
                self._counts.left_out += 1
                continue
            key = call.key
            first = None if key is None else firsts.get(key)
            if first is not None and key not in waiting_keys and first.row == call.row:
                first.repeats += call.everyone()
                continue
            if first is not None or (key is not None and key in running):
                waiting_keys.add(key)
                later.append(call)
                continue
            size_bytes += self._size_of(call.row)
            if batch and size_bytes > self._bytes_max:
                later.append(call)
                break
            batch.append(call)
            if key is not None:
                firsts[key] = call
        self.put_back(later)
        return batch
