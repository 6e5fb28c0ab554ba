"""Batches: whatever waits when a lane is free goes into one call of the work, in order of arrival.

A crowd of small requests becomes a few large statements without anybody waiting for company: an
idle lane takes what there is, were it one row, and while it is busy the next batch gathers by
itself. The unit is a whole operation, one transaction for all its rows, and each caller has an
outcome of its own. docs/decisions has the reasons.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import asyncpg

from services.bulkhead import TRAFFIC, current_traffic
from services.consistency import Seen
from services.data.batch_counts import Counts
from services.data.batch_line import Call, Line
from services.data.retries import retried
from services.data.session import Session, current_session
from services.deadline import Deadline, current_deadline
from services.problems import GatewayTimeout, OutcomeUnknown, Overloaded, Problem, Unavailable
from services.tasks import end_tasks

Row = TypeVar("Row")
Out = TypeVar("Out")
Row_contra = TypeVar("Row_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

ROWS_MAX: Final = 500  # a bound on how long a batch takes, many times what usually waits
BYTES_MAX: Final = 2**20  # of rows by size_of; the same bound for rows that are large
WAITING_MAX: Final = 20_000  # calls; more than are done before their deadlines is no use to wait
TIMEOUT_S: Final = 5.0  # of a caller without a deadline, as a request has it
FIRST_PAUSE_S: Final = 0.002  # before rows locked elsewhere are tried again: about one batch
LONGEST_PAUSE_S: Final = 0.05
CLOSE_TIMEOUT_S: Final = 2.0  # the longest statement of a request

# These are never one row's fault, so the batch is not taken apart to find it: the problem is
# everybody's, and our own SQL is wrong for every row.
EVERYBODYS: Final = (Problem, asyncpg.SyntaxOrAccessError)


class Locked(Exception):
    """Rows that the batch needs are locked elsewhere; nothing of it was done.

    places: of the rows in the batch that have to wait, none where it is not known; the others are
    run again at once.
    """

    def __init__(self, places: Iterable[int] = ()) -> None:
        super().__init__("rows are locked elsewhere")
        self.places = frozenset(places)

    @staticmethod
    @contextmanager
    def among(rows: Sequence[object], all_rows: Sequence[object]) -> Iterator[None]:
        """Round work with some rows of a batch: makes their places those in the whole batch."""
        try:
            yield
        except Locked as locked:
            waiting = {id(rows[place]) for place in locked.places}
            places = [place for place, row in enumerate(all_rows) if id(row) in waiting]
            raise Locked(places) from None


class Work(Protocol[Row_contra, Out_co]):
    """What is done with the rows of a batch, all of it in one transaction.

    Returns an outcome for each row, in order; an exception there is that caller's alone. What it
    raises says that nothing was done, except for OutcomeUnknown. patient: whether it may wait for
    rows that are locked elsewhere; when it may not, or has waited in vain, it raises Locked.
    """

    async def __call__(
        self, rows: Sequence[Row_contra], patient: bool, /
    ) -> Sequence[Out_co | Exception]: ...


class Batcher(Generic[Row, Out]):
    """Calls of one operation, gathered.

    lanes: batches at the same time. key_of: of two rows of one key in a batch the later is merged
    into the first if it is equal, and else comes after it; with effects, two batches that run at
    the same time have no key in common.
    repeated: what the merged ones get, made of what the first got. names_of: texts by which
    PostgreSQL names a row when it breaks a constraint. size_of: about how many bytes it takes.
    effects: whether the work writes, so that who leaves while it runs can not know the outcome.
    """

    def __init__(
        self,
        name: str,
        work: Work[Row, Out],
        *,
        lanes: int = 1,
        key_of: Callable[[Row], Hashable | None] = lambda _: None,
        repeated: Callable[[Out], Out | Exception] = lambda outcome: outcome,
        names_of: Callable[[Row], Iterable[str]] = lambda _: (),
        size_of: Callable[[Row], int] = lambda _: 100,
        rows_max: int = ROWS_MAX,
        bytes_max: int = BYTES_MAX,
        effects: bool = True,
    ) -> None:
        self.name = name
        self.counts = Counts()
        self._work = work
        self._lanes_max = lanes
        self._key_of = key_of
        self._repeated = repeated
        self._names_of = names_of
        self._effects = effects
        self._line: Line[Row, Out] = Line(
            size_of, self.counts, rows_max=rows_max, bytes_max=bytes_max
        )
        self._running_keys: set[Hashable] = set()
        self._paused = 0
        self._asking: set[Call[Row, Out]] = set()
        self._looks_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._lanes: set[asyncio.Task[None]] = set()
        self._lanes_open = 0
        self._closed = False
        # A lane serves many requests: it must not have the deadline or the id of the first.
        self._context = copy_context()

    @property
    def waiting(self) -> int:
        """Calls that no batch has taken yet."""
        return len(self._line) + self._paused

    async def call(self, row: Row) -> Out:
        """Hand a row in and wait for its own outcome, at most until the caller's deadline.

        Raises what the work has for this row; GatewayTimeout when the deadline passed before its
        batch began, OutcomeUnknown when it passed while it ran; Overloaded when too many wait.
        """
        if self._closed:
            raise Unavailable(retry_after_s=1)
        if self.waiting >= WAITING_MAX:
            raise Overloaded(retry_after_s=1)
        loop, now, given = asyncio.get_running_loop(), time.monotonic(), current_deadline.get()
        at = now + TIMEOUT_S if given is None else given.at
        if at <= now:
            raise GatewayTimeout
        call: Call[Row, Out] = Call(row, self._key_of(row), loop.create_future(), now, at)
        self._line.append(call)
        self._open_lane()
        self._asking.add(call)
        if at < self._looks_at:
            self._look_at(at, now)
        try:
            outcome = await call.answer
        finally:
            self._asking.discard(call)
            session = current_session.get()
            if session is not None and call.seen is not None:
                session.saw(call.seen)  # a refusal has shown something, too
        return outcome

    def _look_at(self, at: float, now: float) -> None:
        """Have those told whose deadlines pass: by one timer for all, a fifth of a call cheaper."""
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = at
        self._timer = asyncio.get_running_loop().call_later(at - now, self._give_up)

    def _give_up(self) -> None:
        now = time.monotonic()
        for call in [call for call in self._asking if call.at <= now]:
            unknown = call.begun and self._effects
            call.end(OutcomeUnknown() if unknown else GatewayTimeout(), None)
            self._asking.discard(call)
        self._looks_at, self._timer = math.inf, None
        if self._asking:
            self._look_at(min(call.at for call in self._asking), now)

    async def close(self) -> None:
        """Take nothing more: what waits is refused, what runs is waited for."""
        self._closed = True
        self._refuse_all()
        if self._timer is not None:
            self._timer.cancel()
        if self._lanes:
            await asyncio.wait(self._lanes, timeout=CLOSE_TIMEOUT_S)
            await end_tasks(*self._lanes)

    def _refuse_all(self) -> None:
        for call in self._line.clear():
            self._end(call, Unavailable(retry_after_s=1))

    def _open_lane(self) -> None:
        # Counted by the lanes themselves: a task is done a moment after it has looked for the last
        # time, and whoever came in that moment would wait for ever.
        if self._lanes_open < self._lanes_max and self._line:
            self._lanes_open += 1
            lane = asyncio.create_task(self._run_lane(), context=self._context.copy())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _run_lane(self) -> None:
        try:
            while batch := self._line.take(self._running_keys):
                # Two that read the same do not get into each other's way.
                keys = {call.key for call in batch} - {None} if self._effects else set()
                self._running_keys |= keys
                try:
                    await self._run(batch)
                finally:
                    self._running_keys -= keys
        finally:
            self._lanes_open -= 1

    async def _run(self, batch: list[Call[Row, Out]]) -> None:
        """Run a batch, and what is left of it once rows that are in its way were taken out."""
        parts = [batch]
        while parts:
            now = time.monotonic()
            part = [call for call in parts.pop() if call.wanted(now)]
            if not part:
                continue
            self._begin(part, now)
            # What the batch has written or seen, each of its callers has.
            session = Session()
            current_session.set(session)
            try:
                rows, patient = [call.row for call in part], all(not call.skipped for call in part)
                outcomes = await retried(partial(self._work, rows, patient))
            except Locked as locked:
                parts.append(self._put_off(part, locked.places or range(len(part))))
            except EVERYBODYS as error:
                for call in part:
                    self._end(call, error, session.seen)
            except Exception as error:
                if len(part) > 1:
                    parts += reversed(self._taken_apart(part, error))
                else:
                    self.counts.failed_alone += 1
                    self._end(part[0], error)
            except BaseException:  # the process ends
                for call in part:
                    self._end(call, OutcomeUnknown() if self._effects else Unavailable())
                raise
            else:
                for call, outcome in zip(part, outcomes, strict=True):
                    self._end(call, outcome, session.seen)

    def _begin(self, part: list[Call[Row, Out]], now: float) -> None:
        for call in part:
            for caller in call.everyone() if call.repeats else (call,):
                caller.begun = True
                self.counts.waits.add(now - caller.since)
        self.counts.sizes.add(len(part))
        # As long as somebody waits: the deadline of one must not end the work of another.
        current_deadline.set(Deadline(max([call.latest() for call in part])))
        # The same for a place at the database: what matters most takes the others along.
        classes = {call.traffic for call in part}
        current_traffic.set(next(traffic for traffic in TRAFFIC if traffic in classes))

    def _put_off(self, part: list[Call[Row, Out]], places: Container[int]) -> list[Call[Row, Out]]:
        """Queue calls again after a pause, at the head of the line; returns the others."""
        put_off = [call for place, call in enumerate(part) if place in places]
        for call in put_off:
            call.skipped += 1
            for caller in call.everyone():
                caller.begun = False
        self.counts.again += len(put_off)
        self._paused += len(put_off)
        longest = max((call.skipped for call in put_off), default=1)
        pause_s = min(FIRST_PAUSE_S * 2 ** min(longest - 1, 10), LONGEST_PAUSE_S)
        asyncio.get_running_loop().call_later(pause_s, self._queue_again, put_off)
        return [call for place, call in enumerate(part) if place not in places]

    def _queue_again(self, calls: list[Call[Row, Out]]) -> None:
        self._paused -= len(calls)
        self._line.put_back(calls)
        if self._closed:
            self._refuse_all()
        self._open_lane()

    def _taken_apart(
        self, part: list[Call[Row, Out]], error: Exception
    ) -> list[list[Call[Row, Out]]]:
        """Parts in order of arrival: the row that PostgreSQL names alone, else two halves."""
        self.counts.taken_apart += 1
        detail = str(getattr(error, "detail", None) or "")
        for place, call in enumerate(part):
            if any(name in detail for name in self._names_of(call.row)):
                return [part[:place], [call], part[place + 1 :]]
        middle = len(part) // 2
        return [part[:middle], part[middle:]]

    def _end(
        self, call: Call[Row, Out], outcome: Out | Exception, seen: Seen | None = None
    ) -> None:
        call.end(outcome, seen)
        if call.repeats and not isinstance(outcome, Exception):
            outcome = self._repeated(outcome)
        for repeat in call.repeats:
            repeat.end(outcome, seen)
