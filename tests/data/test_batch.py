"""Batches: who goes together, who fails alone, and who is not waited for. Pure: no server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import asyncpg
import pytest

from services.bulkhead import Traffic, current_traffic
from services.consistency import Seen
from services.data import batch as batch_module
from services.data.batch import Batcher, Locked
from services.data.session import Session, current_session
from services.deadline import Deadline, current_deadline
from services.problems import (
    GatewayTimeout,
    NotFound,
    OutcomeUnknown,
    OutOfStock,
    Overloaded,
    Problem,
    Unavailable,
)
from tests.faults.waiting import until

WITHIN_S: Final = 5.0


class Row(NamedTuple):
    """key: what may not be in two batches at once. text: what its caller gets back."""

    text: str
    key: str | None = None


class Gated:
    """Work that waits for the test before it ends each batch, and remembers every batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.patient: list[bool] = []
        self.deadlines: list[Deadline | None] = []
        self.traffic: list[Traffic] = []
        self.gate = asyncio.Semaphore(0)
        self.opened = False
        self.decide: Callable[[Sequence[Row]], Sequence[str | Exception]] = lambda rows: [
            row.text for row in rows
        ]

    async def __call__(self, rows: Sequence[Row], patient: bool) -> Sequence[str | Exception]:
        self.batches.append([row.text for row in rows])
        self.patient.append(patient)
        self.deadlines.append(current_deadline.get())
        self.traffic.append(current_traffic.get())
        if not self.opened:
            await self.gate.acquire()
        return self.decide(rows)

    def open(self) -> None:
        """From now on no batch waits, nor do those that have begun."""
        self.opened = True
        for _ in range(4):
            self.gate.release()

    async def begun(self, batches: int) -> None:
        await until(
            lambda: len(self.batches) >= batches, within_s=WITHIN_S, what="the batch has begun"
        )


def batcher(work: Gated, **options: object) -> Batcher[Row, str]:
    return Batcher("test", work, key_of=lambda row: row.key, **options)  # type: ignore[arg-type]  # each test's own


async def together(made: Batcher[Row, str], work: Gated, *rows: Row) -> list[asyncio.Task[str]]:
    """A first batch is under way, and these rows wait behind it."""
    first = asyncio.create_task(made.call(Row("first")))
    await work.begun(1)
    calls = [asyncio.create_task(made.call(row)) for row in rows]
    await until(lambda: made.waiting == len(rows), within_s=WITHIN_S, what="all of them wait")
    return [first, *calls]


async def outcomes(calls: Sequence[Awaitable[str]]) -> list[str | type[BaseException]]:
    return [
        type(outcome) if isinstance(outcome, BaseException) else outcome
        for outcome in await asyncio.gather(*calls, return_exceptions=True)
    ]


async def test_what_waits_while_a_lane_is_busy_goes_together_in_order_of_arrival() -> None:
    work = Gated()
    made = batcher(work)
    calls = await together(made, work, *(Row(str(number)) for number in range(5)))
    work.open()
    assert await outcomes(calls) == ["first", "0", "1", "2", "3", "4"]
    assert work.batches == [["first"], ["0", "1", "2", "3", "4"]]


async def test_an_idle_lane_waits_for_no_company() -> None:
    work = Gated()
    work.open()
    made = batcher(work)
    assert [await made.call(Row(text)) for text in "abc"] == ["a", "b", "c"]
    assert work.batches == [["a"], ["b"], ["c"]]
    assert made.counts.waits.sum_s < 0.5


async def test_a_batch_is_bounded_in_rows_and_in_bytes() -> None:
    work = Gated()
    made = batcher(work, rows_max=3, bytes_max=10, size_of=lambda row: len(row.text))
    calls = await together(made, work, *(Row(text) for text in ["a"] * 4 + ["x" * 50, "y" * 6] * 2))
    work.open()
    await asyncio.gather(*calls)
    sizes = [[len(text) for text in batch] for batch in work.batches]
    assert sizes == [[5], [1, 1, 1], [1], [50], [6], [50], [6]]


async def test_each_lane_takes_a_batch() -> None:
    work = Gated()
    made = batcher(work, lanes=2)
    calls = [asyncio.create_task(made.call(Row("a")))]
    await work.begun(1)
    calls += [asyncio.create_task(made.call(Row(text))) for text in "bc"]
    await work.begun(2)
    calls += [asyncio.create_task(made.call(Row(text))) for text in "de"]
    await until(lambda: made.waiting == 2, within_s=WITHIN_S, what="both lanes are busy")
    work.gate.release()
    await work.begun(3)
    work.open()
    assert await outcomes(calls) == [*"abcde"]
    assert work.batches == [["a"], ["b", "c"], ["d", "e"]]


async def test_a_refusal_is_its_callers_alone() -> None:
    work = Gated()
    work.decide = lambda rows: [OutOfStock() if row.text == "b" else row.text for row in rows]
    made = batcher(work)
    calls = await together(made, work, *(Row(text) for text in "abc"))
    work.open()
    assert await outcomes(calls) == ["first", "a", OutOfStock, "c"]
    assert len(work.batches) == 2


async def test_a_bad_row_is_found_by_halves_and_fails_alone() -> None:
    work = Gated()

    def decide(rows: Sequence[Row]) -> Sequence[str]:
        if any(row.text in "cf" for row in rows):
            raise ValueError("one of them can not be written")
        return [row.text for row in rows]

    work.decide = decide
    made = batcher(work)
    calls = await together(made, work, *(Row(text) for text in "abcdefgh"))
    work.open()
    assert await outcomes(calls) == ["first", *"ab", ValueError, *"de", ValueError, *"gh"]
    applied = [text for batch in work.batches for text in batch if not set("cf") & set(batch)]
    assert applied == ["first", *"abdegh"]
    assert made.counts.failed_alone == 2


async def test_a_row_that_the_database_names_is_found_at_once() -> None:
    work = Gated()

    def decide(rows: Sequence[Row]) -> Sequence[str]:
        if any(row.text == "id-6" for row in rows):
            error = asyncpg.UniqueViolationError("duplicate key")
            error.detail = "Key (cause_id, cause)=(id-6, payment) already exists."
            raise error
        return [row.text for row in rows]

    work.decide = decide
    made = batcher(work, names_of=lambda row: [row.text])
    calls = await together(made, work, *(Row(f"id-{number}") for number in range(10)))
    work.open()
    found = await outcomes(calls)
    assert found[7] is asyncpg.UniqueViolationError
    assert [len(batch) for batch in work.batches] == [1, 10, 6, 1, 3]
    assert made.counts.taken_apart == 1


@pytest.mark.parametrize("error", [OutcomeUnknown(), Unavailable(), asyncpg.UndefinedColumnError()])
async def test_what_is_no_rows_fault_is_everybodys_and_nothing_is_run_again(
    error: Exception,
) -> None:
    work = Gated()
    made = batcher(work)
    calls = await together(made, work, Row("a"), Row("b"))

    def decide(_: Sequence[Row]) -> Sequence[str]:
        raise error

    work.decide = decide
    work.open()
    assert await outcomes(calls) == [type(error)] * 3
    assert work.batches == [["first"], ["a", "b"]]


async def test_who_leaves_before_the_batch_begins_is_left_out() -> None:
    work = Gated()
    made = batcher(work)
    calls = await together(made, work, Row("a"), Row("b"), Row("c"))
    calls[2].cancel()
    work.open()
    assert await outcomes(calls) == ["first", "a", asyncio.CancelledError, "c"]
    assert work.batches == [["first"], ["a", "c"]]
    assert made.counts.left_out == 1


async def test_who_leaves_while_it_runs_touches_nobody_else() -> None:
    work = Gated()
    made = batcher(work)
    calls = await together(made, work, Row("a"), Row("b"))
    work.gate.release()
    await work.begun(2)
    calls[1].cancel()
    assert await outcomes(calls[:2]) == ["first", asyncio.CancelledError]
    work.gate.release()
    assert await outcomes(calls[2:]) == ["b"]
    assert work.batches == [["first"], ["a", "b"]]


async def test_a_deadline_ends_the_waiting_of_its_caller_only() -> None:
    work = Gated()
    made = batcher(work)

    async def within(seconds: float, row: Row) -> str:
        current_deadline.set(Deadline.after(seconds))
        return await made.call(row)

    first = asyncio.create_task(within(0.05, Row("first")))
    await work.begun(1)
    late = asyncio.create_task(within(0.05, Row("late")))
    patient = asyncio.create_task(within(WITHIN_S, Row("patient")))
    # The one that runs may have happened; the one that waited certainly has not.
    assert await outcomes([first, late]) == [OutcomeUnknown, GatewayTimeout]
    assert not patient.done()
    work.open()
    assert await outcomes([patient]) == ["patient"]
    assert work.batches == [["first"], ["patient"]]


async def test_a_longer_deadline_is_not_cut_to_that_of_a_caller_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_module, "TIMEOUT_S", 0.05)
    work = Gated()
    made = batcher(work)

    async def within(seconds: float, row: Row) -> str:
        current_deadline.set(Deadline.after(seconds))
        return await made.call(row)

    patient = asyncio.create_task(within(WITHIN_S, Row("patient")))
    await work.begun(1)
    assert await outcomes([asyncio.create_task(made.call(Row("without")))]) == [GatewayTimeout]
    assert not patient.done()
    work.open()
    assert await outcomes([patient]) == ["patient"]


async def test_a_batch_has_the_time_of_its_most_patient_caller() -> None:
    work = Gated()
    made = batcher(work)
    first = asyncio.create_task(made.call(Row("first")))
    await work.begun(1)

    async def within(seconds: float) -> str:
        current_deadline.set(Deadline.after(seconds))
        return await made.call(Row("row"))

    calls = [asyncio.create_task(within(seconds)) for seconds in (1.0, 4.0, 2.0)]
    await until(lambda: made.waiting == 3, within_s=WITHIN_S, what="all of them wait")
    work.open()
    await asyncio.gather(first, *calls)
    deadline = work.deadlines[1]
    assert deadline is not None
    assert 2.0 < deadline.left_s() <= 4.0


async def test_a_batch_has_a_place_of_the_first_of_its_classes() -> None:
    work = Gated()
    made = batcher(work)
    first = asyncio.create_task(made.call(Row("first")))
    await work.begun(1)

    async def of(traffic: Traffic) -> str:
        current_traffic.set(traffic)
        return await made.call(Row(traffic))

    calls = [asyncio.create_task(of(traffic)) for traffic in ("page", "order", "page")]
    await until(lambda: made.waiting == 3, within_s=WITHIN_S, what="all of them wait")
    work.open()
    await asyncio.gather(first, *calls)
    assert work.traffic == ["payment", "order"]


async def test_the_same_thing_asked_for_twice_is_done_once() -> None:
    work = Gated()
    made = batcher(work, repeated=lambda text: f"{text} again")
    row = Row("a", key="k")
    calls = await together(made, work, row, row, Row("b", key="other"), row)
    calls[1].cancel()  # the first of them: the others are served all the same
    work.open()
    assert await outcomes(calls[2:]) == ["a", "b", "a again"]
    assert work.batches == [["first"], ["a", "b"]]


async def test_another_thing_under_the_same_key_comes_after_it() -> None:
    work = Gated()
    made = batcher(work, lanes=2)
    work.open()
    texts = ["a", "b", "c"]
    calls = [asyncio.create_task(made.call(Row(text, key="k"))) for text in texts]
    assert await outcomes(calls) == texts
    assert work.batches == [["a"], ["b"], ["c"]]


async def test_nothing_is_merged_past_another_thing_under_its_key() -> None:
    work = Gated()
    made = batcher(work)
    rows = [Row("a", key="k"), Row("b", key="k"), Row("a", key="k")]
    calls = await together(made, work, *rows)
    work.open()
    assert await outcomes(calls) == ["first", "a", "b", "a"]
    assert work.batches == [["first"], ["a"], ["b"], ["a"]]


async def test_no_two_lanes_run_the_same_key() -> None:
    work = Gated()
    made = batcher(work, lanes=2)
    calls = [asyncio.create_task(made.call(Row("a", key="k")))]
    await work.begun(1)
    calls += [asyncio.create_task(made.call(row)) for row in (Row("b", key="k"), Row("c"))]
    await work.begun(2)
    assert work.batches == [["a"], ["c"]]
    work.open()
    assert await outcomes(calls) == [*"abc"]


async def test_rows_locked_elsewhere_are_tried_again_and_the_others_go_on() -> None:
    work = Gated()
    locked = {"b"}

    def decide(rows: Sequence[Row]) -> Sequence[str]:
        places = [place for place, row in enumerate(rows) if row.text in locked]
        if places:
            raise Locked(places)
        return [row.text for row in rows]

    work.decide = decide
    made = batcher(work)
    calls = await together(made, work, *(Row(text) for text in "abc"))
    work.open()
    assert await outcomes([calls[1], calls[3]]) == ["a", "c"]
    assert not calls[2].done()
    locked.clear()
    assert await outcomes([calls[2]]) == ["b"]
    assert work.patient[:2] == [True, True]
    assert not work.patient[-1]  # who has waited in vain once does not make others wait


async def test_a_row_that_stays_locked_is_given_up_at_its_deadline() -> None:
    work = Gated()

    def decide(_: Sequence[Row]) -> Sequence[str]:
        raise Locked

    work.decide = decide
    work.open()
    made = batcher(work)
    current_deadline.set(Deadline.after(0.2))
    with pytest.raises(GatewayTimeout):
        await made.call(Row("a"))
    current_deadline.set(None)
    assert 3 < len(work.batches) < 20  # ever less often
    await until(lambda: made.waiting == 0, within_s=WITHIN_S, what="it is tried no more")


async def test_every_caller_has_seen_what_its_batch_has_seen() -> None:
    """Also one whose row was refused: a refusal says something about the present."""

    async def work(rows: Sequence[Row], _: bool) -> list[str | Exception]:
        session = current_session.get()
        assert session is not None
        session.saw(Seen(1, 10 * len(rows)))
        return [NotFound() if row.text == "b" else row.text for row in rows]

    made: Batcher[Row, str] = Batcher("test", work)

    async def call(text: str) -> Seen:
        session = Session()
        current_session.set(session)
        with suppress(NotFound):
            await made.call(Row(text))
        return session.seen

    seen = [*await asyncio.gather(call("a"), call("b"))]
    assert seen == [Seen(1, 20), Seen(1, 20)]


async def test_more_than_can_be_done_in_time_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_module, "WAITING_MAX", 2)
    work = Gated()
    made = batcher(work)
    calls = await together(made, work, Row("a"), Row("b"))
    with pytest.raises(Overloaded):
        await made.call(Row("c"))
    work.open()
    assert await outcomes(calls) == ["first", "a", "b"]


async def test_at_the_end_what_waits_is_refused_and_what_runs_is_finished() -> None:
    work = Gated()
    made = batcher(work)
    calls = await together(made, work, Row("a"))
    closing = asyncio.create_task(made.close())
    assert await outcomes(calls[1:]) == [Unavailable]
    work.gate.release()
    await closing
    assert await outcomes(calls[:1]) == ["first"]
    with pytest.raises(Problem):
        await made.call(Row("b"))


async def test_a_lane_has_nothing_of_the_request_that_opened_it() -> None:
    """Its deadline and its log lines would be those of the first caller for ever."""
    work = Gated()
    work.open()
    made = batcher(work)
    short, long = Deadline.after(1.0), Deadline.after(3.0)
    current_deadline.set(short)
    await made.call(Row("a"))
    current_deadline.set(long)
    await made.call(Row("b"))
    assert work.deadlines == [short, long]
    assert current_deadline.get() is long
    current_deadline.set(None)


async def test_sizes_and_waits_are_counted() -> None:
    work = Gated()
    made = batcher(work)
    calls = await together(made, work, *(Row(str(number)) for number in range(7)))
    await asyncio.sleep(0.02)
    work.open()
    await asyncio.gather(*calls)
    counts = made.counts
    assert (counts.batches, counts.rows, counts.calls) == (2, 8, 8)
    assert [size for size in counts.sizes.slots if size] == [1, 1]
    assert counts.waits.sum_s > 7 * 0.02
