"""One way to call anything: what each end of a call is named, and what bounds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from services.breaker import MIN_CALLS
from services.deadline import Deadline, DeadlineExceeded
from services.upstream import (
    BulkheadFull,
    CircuitBreakerError,
    Failed,
    NotSent,
    Ok,
    Unknown,
    Upstream,
)
from tests.faults.waiting import until


class SaidNo(Exception):
    """An answer."""


def upstream(*, timeout_s: float = 1.0, max_concurrent: int = 4) -> Upstream:
    return Upstream("test", timeout_s=timeout_s, max_concurrent=max_concurrent, answers=(SaidNo,))


def raising(error: BaseException) -> Callable[[Deadline], Awaitable[str]]:
    async def work(_: Deadline) -> str:
        raise error

    return work


async def answer(_: Deadline) -> str:
    return "answer"


async def hang(_: Deadline) -> str:
    await asyncio.Event().wait()
    return "never"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SaidNo(), Failed),
        (ConnectionRefusedError(), NotSent),
        (ConnectionResetError(), Unknown),
        (TimeoutError(), Unknown),
        (ValueError(), Unknown),
        # Not our own refusals: the call had begun, so it may have happened.
        (DeadlineExceeded(), Unknown),
        (BulkheadFull(), Unknown),
    ],
)
async def test_each_end_of_a_call_has_its_name(error: Exception, kind: type) -> None:
    outcome = await upstream().call(raising(error), Deadline.after(1))
    assert type(outcome) is kind
    assert not isinstance(outcome, Ok)
    assert outcome.error is error


async def test_an_answer_is_ok() -> None:
    assert await upstream().call(answer, Deadline.after(1)) == Ok("answer")


async def test_after_the_deadline_nothing_is_sent() -> None:
    reached = False

    async def work(_: Deadline) -> None:
        nonlocal reached
        reached = True

    outcome = await upstream().call(work, Deadline.after(0))
    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert not reached


@pytest.mark.parametrize(("timeout_s", "left_s"), [(0.05, 5.0), (5.0, 0.05)])
async def test_a_call_is_cut_by_its_timeout_or_the_callers_deadline(
    timeout_s: float, left_s: float
) -> None:
    cut = asyncio.Event()
    given: list[float] = []

    async def work(deadline: Deadline) -> None:
        given.append(deadline.left_s())
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()

    started_at = time.monotonic()
    outcome = await upstream(timeout_s=timeout_s).call(work, Deadline.after(left_s))
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.error, TimeoutError)
    assert cut.is_set()
    assert 0 < given[0] <= 0.05
    assert time.monotonic() - started_at < 0.5


async def test_no_more_calls_run_at_once_than_allowed_and_waiting_ends_with_the_deadline() -> None:
    limited = upstream(max_concurrent=2)
    running = [asyncio.create_task(limited.call(hang, Deadline.after(1))) for _ in range(2)]
    await asyncio.sleep(0)
    started_at = time.monotonic()
    outcome = await limited.call(answer, Deadline.after(0.05))
    assert time.monotonic() - started_at < 0.5
    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.error, BulkheadFull)
    assert outcome.retry_after_s >= 1
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert await limited.call(answer, Deadline.after(1)) == Ok("answer")


async def test_who_waits_for_a_place_gets_the_next_free_one() -> None:
    limited = upstream(max_concurrent=1)
    go = asyncio.Event()

    async def first(_: Deadline) -> bool:
        return await go.wait()

    one = asyncio.create_task(limited.call(first, Deadline.after(5)))
    others = [asyncio.create_task(limited.call(answer, Deadline.after(5))) for _ in range(10)]
    await asyncio.sleep(0)
    go.set()
    assert await one == Ok(True)
    assert await asyncio.gather(*others) == [Ok("answer")] * 10


async def test_those_who_leave_while_they_wait_leave_no_place_behind() -> None:
    limited = upstream(max_concurrent=1)
    holding = asyncio.create_task(limited.call(hang, Deadline.after(5)))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(limited.call(answer, Deadline.after(5))) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    holding.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(result, Ok) for result in results] == [False, True] * 5
    assert await limited.call(answer, Deadline.after(1)) == Ok("answer")


async def test_the_call_that_trips_the_breaker_is_unknown_and_the_next_is_not_sent() -> None:
    tripped = upstream()
    work = raising(ConnectionResetError())
    outcomes = [await tripped.call(work, Deadline.after(1)) for _ in range(MIN_CALLS + 1)]
    assert [type(outcome) for outcome in outcomes] == [Unknown] * MIN_CALLS + [NotSent]
    refused = outcomes[-1]
    assert isinstance(refused, NotSent)
    assert isinstance(refused.error, CircuitBreakerError)
    assert 5 <= refused.retry_after_s <= 7
    started_at = time.monotonic()
    await tripped.call(hang, Deadline.after(1))
    assert time.monotonic() - started_at < 0.1


async def test_nobody_waits_for_a_place_at_a_dependency_that_is_given_up() -> None:
    given_up = upstream(timeout_s=5.0, max_concurrent=1)
    holding = asyncio.create_task(given_up.call(hang, Deadline.after(5)))
    await asyncio.sleep(0)
    given_up.breaker.force("open")
    started_at = time.monotonic()
    outcome = await given_up.call(answer, Deadline.after(5))
    assert time.monotonic() - started_at < 0.1
    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.error, CircuitBreakerError)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)


async def test_a_probe_that_fails_is_unknown_and_says_what_went_wrong() -> None:
    probed = upstream()
    probed.breaker.timeout_duration *= 0
    lost = ConnectionResetError()
    for _ in range(MIN_CALLS):
        await probed.call(raising(lost), Deadline.after(1))
    assert probed.breaker.current_state.name == "OPEN"
    outcome = await probed.call(raising(lost), Deadline.after(1))
    assert isinstance(outcome, Unknown)
    assert outcome.error is lost
    assert probed.breaker.current_state.name == "OPEN"


async def test_answers_and_lack_of_time_do_not_trip_the_breaker() -> None:
    steady = upstream(max_concurrent=1)
    for _ in range(2 * MIN_CALLS):
        await steady.call(raising(SaidNo()), Deadline.after(1))
        await steady.call(answer, Deadline.after(0))
    holding = asyncio.create_task(steady.call(hang, Deadline.after(0.2)))
    await asyncio.sleep(0)
    for _ in range(2 * MIN_CALLS):
        assert isinstance(await steady.call(answer, Deadline.after(0.001)), NotSent)
    await holding
    assert await steady.call(answer, Deadline.after(1)) == Ok("answer")


async def test_a_dependency_that_hangs_is_soon_not_asked_any_more() -> None:
    hanging = upstream(timeout_s=0.02, max_concurrent=20)
    await asyncio.gather(*(hanging.call(hang, Deadline.after(1)) for _ in range(MIN_CALLS)))
    assert isinstance(await hanging.call(hang, Deadline.after(1)), NotSent)


async def test_it_is_asked_again_when_it_may_have_recovered() -> None:
    healing = upstream()
    healing.breaker.timeout_duration *= 0
    for _ in range(MIN_CALLS):
        await healing.call(raising(ConnectionResetError()), Deadline.after(1))

    async def answers() -> bool:
        return isinstance(await healing.call(answer, Deadline.after(1)), Ok)

    await until(answers, within_s=1.0, what="a probe is let through")
    for _ in range(3):
        await healing.call(answer, Deadline.after(1))
    assert healing.breaker.current_state.name == "CLOSED"


async def test_cancelling_the_caller_cancels_the_call_and_is_no_outcome() -> None:
    calm = upstream()
    task = asyncio.create_task(calm.call(hang, Deadline.after(5)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calm.breaker.fail_counter == 0


async def test_a_guarded_block_is_cut_too_and_its_errors_are_its_own() -> None:
    guarded = upstream()
    with pytest.raises(SaidNo):
        async with guarded.guard(Deadline.after(1)):
            raise SaidNo
    with pytest.raises(TimeoutError):
        async with guarded.guard(Deadline.after(0.02)):
            await asyncio.Event().wait()
    with pytest.raises(DeadlineExceeded):
        async with guarded.guard(Deadline.after(0)):
            pytest.fail("must not begin")


async def test_what_became_of_every_call_is_counted() -> None:
    counted = upstream(max_concurrent=1)
    errors = (SaidNo(), ConnectionRefusedError(), ConnectionResetError())
    for work in (answer, *map(raising, errors)):
        await counted.call(work, Deadline.after(1))
    await counted.call(answer, Deadline.after(0))
    holding = asyncio.create_task(counted.call(hang, Deadline.after(5)))
    await asyncio.sleep(0)
    await counted.call(answer, Deadline.after(0.01))
    assert (counted.in_use, counted.waiting, counted.limit) == (1, 0, 1)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    assert (counted.in_use, counted.waiting) == (0, 0)
    assert counted.counts == {"ok": 1, "failed": 1, "not_sent": 3, "unknown": 2}
    assert counted.tally.refused == {"deadline": 1, "full": 1, "breaker": 0, "left": 0}
    assert counted.tally.took.count == 5  # those that began
    median_s = counted.tally.percentile_s(0.5)
    assert median_s is not None
    assert median_s < 0.1


async def test_a_block_that_ends_by_its_own_problem_was_served() -> None:
    served = Upstream("test", timeout_s=1, max_concurrent=1, failures=(OSError,))
    with pytest.raises(SaidNo):
        async with served.guard(Deadline.after(1)):
            raise SaidNo
    with pytest.raises(ConnectionResetError):
        async with served.guard(Deadline.after(1)):
            raise ConnectionResetError
    assert served.counts == {"ok": 1, "failed": 0, "not_sent": 0, "unknown": 1}
