"""Any interleaving of calls, errors, locks and cancellations equals the calls done one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.batch import Batcher, Locked
from services.problems import OutcomeUnknown, OutOfStock

UNITS: Final = 12  # there are too few for all, so that order matters
CALLS: Final = 30


@dataclass(frozen=True)
class Row:
    """Somebody who wants units. bad: the statement fails for it; number is not what is asked."""

    number: int = field(compare=False)
    key: str | None
    units: int
    bad: bool


@dataclass
class World:
    """What a database would hold: units, who has been served under which key, in which order."""

    left: int = UNITS
    kept: dict[str, str] = field(default_factory=dict)
    served: list[Row] = field(default_factory=list)

    def serve(self, row: Row) -> str | Exception:
        if row.key in self.kept:
            return self.kept[row.key]
        if row.bad:
            raise ValueError("it can not be written")
        self.served.append(row)
        if row.units > self.left:
            return OutOfStock()
        self.left -= row.units
        answer = f"{row.number} has {row.units}, {self.left} left"
        if row.key is not None:
            self.kept[row.key] = answer
        return answer

    def copy(self) -> World:
        return World(self.left, dict(self.kept), list(self.served))


class Database:
    """Batches of it are atomic; what is in `locked` can not be had, and COMMITs may be lost."""

    def __init__(self) -> None:
        self.world = World()
        self.locked: set[int] = set()
        self.lose_next_commit = False
        self.unknown: set[int] = set()
        self.pace = asyncio.Semaphore(0)

    async def work(self, rows: Sequence[Row], patient: bool) -> list[str | Exception]:
        await self.pace.acquire()
        places = [place for place, row in enumerate(rows) if row.number in self.locked]
        if places:
            raise Locked([] if patient else places)
        world = self.world.copy()
        outcomes = [world.serve(row) for row in rows]
        self.world = world  # the commit
        if self.lose_next_commit:
            self.lose_next_commit = False
            self.unknown |= {row.number for row in rows}
            raise OutcomeUnknown
        return outcomes


row_texts = st.builds(
    lambda key, units, bad: (key, units, bad),
    st.sampled_from([None, None, "k1", "k2"]),
    st.integers(1, 4),
    st.sampled_from([False] * 5 + [True]),
)
steps = st.one_of(
    st.tuples(st.just("call"), row_texts),
    st.tuples(st.just("call"), row_texts),
    st.tuples(st.just("cancel"), st.integers(0, CALLS)),
    st.tuples(st.just("lock"), st.integers(0, CALLS)),
    st.tuples(st.just("unlock"), st.just(0)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("go"), st.integers(1, 3)),
)


async def play(
    script: list[tuple[str, object]], lanes: int, rows_max: int
) -> tuple[Database, list[Row], list[str | BaseException]]:
    database = Database()
    batcher = Batcher(
        "world", database.work, lanes=lanes, rows_max=rows_max, key_of=lambda row: row.key
    )
    rows: list[Row] = []
    calls: list[asyncio.Task[str]] = []
    for verb, what in script:
        if verb == "call" and isinstance(what, tuple):
            rows.append(Row(len(rows), *what))
            calls.append(asyncio.create_task(batcher.call(rows[-1])))
        elif verb == "cancel" and isinstance(what, int) and what < len(calls):
            calls[what].cancel()
        elif verb == "lock" and isinstance(what, int):
            database.locked.add(what)
        elif verb == "unlock":
            database.locked.clear()
        elif verb == "lose":
            database.lose_next_commit = True
        elif verb == "go" and isinstance(what, int):
            for _ in range(what):
                database.pace.release()
        for _ in range(3):  # tasks get to where they wait
            await asyncio.sleep(0)
    database.locked.clear()
    for _ in range(20 * CALLS):
        database.pace.release()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    await batcher.close()
    assert batcher.waiting == 0
    return database, rows, outcomes


@settings(max_examples=150, deadline=None)
@given(
    st.lists(steps, max_size=CALLS),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([1, 3, 100]),
)
def test_batches_equal_the_calls_done_one_by_one(
    script: list[tuple[str, object]], lanes: int, rows_max: int
) -> None:
    database, rows, outcomes = asyncio.run(play(script, lanes, rows_max))
    # One by one, in the order in which the database served them, everybody gets the same.
    alone = World()
    expected = {row.number: alone.serve(row) for row in database.world.served}
    assert (alone.left, alone.kept) == (database.world.left, database.world.kept)
    assert len({row.number for row in database.world.served}) == len(database.world.served)
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, asyncio.CancelledError):
            continue  # its caller has left; it is served once or not at all
        if row.number in database.unknown or isinstance(outcome, OutcomeUnknown):
            assert isinstance(outcome, OutcomeUnknown)
        elif isinstance(outcome, ValueError):
            assert row.bad
            assert row.number not in expected
        elif row.number in expected and isinstance(outcome, OutOfStock):
            assert isinstance(expected[row.number], OutOfStock)
        elif row.number in expected:
            assert outcome == expected[row.number]
        elif isinstance(outcome, OutOfStock):  # what the equal row got that it was merged into
            refused = [other for other in expected if isinstance(expected[other], OutOfStock)]
            assert any(rows[other] == row for other in refused)
        else:  # the answer of whoever used its key before
            assert outcome == alone.kept[str(row.key)]


@settings(max_examples=50, deadline=None)
@given(st.lists(row_texts.filter(lambda row: not row[2]), max_size=CALLS), st.integers(1, 10))
def test_in_one_lane_nobody_is_served_before_those_who_came_earlier(
    wanted: list[tuple[str | None, int, bool]], rows_max: int
) -> None:
    script: list[tuple[str, object]] = [("call", (None, units, bad)) for _, units, bad in wanted]
    database, rows, _ = asyncio.run(play(script, 1, rows_max))
    assert [row.number for row in database.world.served] == [row.number for row in rows]
