"""One fetch for everybody: who waits, who leaves, and what becomes of a fetch that fails."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.access import flights
from services.access.page import RETRY_MAX_S
from services.deadline import Deadline
from services.exchange import Response
from services.problems import GatewayTimeout, InternalError, TooManyRequests, Unavailable
from tests.access.held import CAT, PUBLIC, Asked, Got, Shop, answer, confirmed, shop
from tests.faults.waiting import until


async def waiting(front: Shop, number: int) -> list[asyncio.Task[Got | Response | None]]:
    tasks = [asyncio.create_task(front.get()) for _ in range(number)]
    await until(
        lambda: front.pages.coalesced_total + front.pages.misses_total >= number,
        within_s=5,
        what="all wait",
    )
    return tasks


async def test_a_thousand_that_miss_are_one_fetch() -> None:
    async with shop() as front:
        tasks = await waiting(front, 1000)
        (await front.business.nth(1)).answer(answer())
        got = await asyncio.gather(*tasks)
        assert all(isinstance(each, Got) for each in got)
        assert len(front.business.asked) == 1
        assert (front.pages.misses_total, front.pages.coalesced_total) == (1, 999)


async def test_a_fetch_that_fails_for_a_thousand_is_tried_once_more() -> None:
    async with shop() as front:
        tasks = await waiting(front, 1000)
        (await front.business.nth(1)).fail(Unavailable())
        (await front.business.nth(2)).answer(answer())
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, Unavailable) for each in got) == 1  # who led the first
        assert sum(isinstance(each, Got) for each in got) == 999


async def test_two_failures_are_told_to_all_who_wait() -> None:
    async with shop() as front:
        tasks = await waiting(front, 1000)
        (await front.business.nth(1)).answer(answer(None, status=503))
        (await front.business.nth(2)).answer(answer(None, status=500))
        got = await asyncio.gather(*tasks)
        assert sorted({each.status for each in got if isinstance(each, Response)}) == [500, 503]
        assert len(front.business.asked) == 2
        assert front.pages.entries == 0


async def test_a_leader_that_leaves_takes_nothing_along() -> None:
    async with shop() as front:
        leader, *others = await waiting(front, 3)
        leader.cancel()
        others[0].cancel()
        (await front.business.nth(1)).answer(answer())
        assert isinstance(await others[1], Got)
        assert front.at_once() is not None


async def test_what_nobody_waits_for_any_more_is_held_all_the_same() -> None:
    async with shop() as front:
        (leader,) = await waiting(front, 1)
        leader.cancel()
        (await front.business.nth(1)).answer(answer())
        await until(lambda: front.at_once() is not None, within_s=5, what="the page is held")


async def test_each_waits_by_his_own_deadline() -> None:
    async with shop() as front:
        started_at = time.monotonic()
        patient = front.asking()
        with pytest.raises(GatewayTimeout):
            await front.get(within_s=0.05)
        assert time.monotonic() - started_at < 2
        assert not patient.done()
        (await front.business.nth(1)).answer(answer())
        assert (await patient).status == 200


async def test_a_fetch_ends_by_its_own_deadline() -> None:
    async with shop(budget_s=0.1) as front:
        with pytest.raises(GatewayTimeout):
            await front.get()
        assert 0 < front.business.asked[0].deadline.at - time.monotonic() + 5 < 5.1
        assert front.pages._flights.of(CAT) is None
        front.business.always(answer())
        assert isinstance(await front.get(), Got)


async def test_a_bug_in_a_fetch_is_an_internal_error_and_ends_it() -> None:
    async with shop() as front:
        front.business.says = lambda _: (_ for _ in ()).throw(ZeroDivisionError())
        with pytest.raises(InternalError):
            await front.get()
        front.business.always(answer())
        assert isinstance(await front.get(), Got)


async def test_an_answer_that_must_not_be_held_is_given_to_the_leader_alone() -> None:
    async with shop() as front:
        tasks = await waiting(front, 100)
        secret = answer(more=[(b"set-cookie", b"a=1")])
        (await front.business.nth(1)).answer(secret)
        got = await asyncio.gather(*tasks)
        assert got[0] is secret
        assert got[1:] == [None] * 99
        started_at = time.monotonic()
        assert await front.get() is None  # nobody queues for it
        assert time.monotonic() - started_at < 1
        assert len(front.business.asked) == 1


async def test_what_could_not_be_held_is_tried_again_later() -> None:
    async with shop() as front:
        front.business.always(answer("no-store"))
        await front.get()
        front.business.always(answer())
        assert await front.get() is None
        front.pages._not_held[CAT] = time.monotonic()
        assert isinstance(await front.get(), Got)


async def test_a_stale_page_is_refreshed_by_one_fetch_and_given_meanwhile() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"old", age=11))
        for _ in range(1000):
            got = front.at_once()
            assert got is not None
            assert got.body == b"old"
        refresh = await front.business.nth(1)
        assert refresh.extra == {b"if-none-match": b'"1"'}
        assert (front.pages.stale_total, front.pages.misses_total) == (1000, 1)
        refresh.answer(answer(body=b"new"))
        await until(lambda: got_body(front) == b"new", within_s=5, what="it is refreshed")
        assert len(front.business.asked) == 1


async def test_a_refresh_that_fails_is_not_tried_again_by_each_request() -> None:
    async with shop() as front:
        await front.filled(answer(age=11))
        assert front.at_once() is not None
        (await front.business.nth(1)).fail(Unavailable())
        page = front.pages._held[CAT]
        await until(lambda: page.retry_at > 0, within_s=5, what="it has failed")
        for _ in range(100):
            assert front.at_once() is not None
        assert len(front.business.asked) == 1
        (await until_asked_again(front, 2)).answer(confirmed())
        await until(lambda: page.retry_at == 0, within_s=5, what="it has been confirmed")


@pytest.mark.parametrize("failing", [500, 502, 503, 504, None])
async def test_an_old_page_is_given_when_business_fails(failing: int | None) -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", age=15))
        tasks = await waiting(front, 20)
        fetch = await front.business.nth(1)
        if failing is None:
            fetch.fail(GatewayTimeout())
        else:
            fetch.answer(answer(None, status=failing))
        for got in await asyncio.gather(*tasks):
            assert isinstance(got, Got)
            ttl, detail = got.said.removeprefix("hit; ttl=").split("; ")
            assert (int(ttl) in (-5, -6), detail) == (True, "detail=stale-if-error")
        assert len(front.business.asked) == 1


async def test_while_business_fails_it_is_asked_seldom_and_nobody_waits() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", age=15))
        front.business.says = lambda _: answer(None, status=503)
        started_at = time.monotonic()
        assert isinstance(await front.get(), Got)
        while time.monotonic() - started_at < 0.6:
            assert front.at_once() is not None
            await asyncio.sleep(0)
        assert 2 <= len(front.business.asked) <= 3
        front.business.always(answer(body=b"new"))
        await until(
            lambda: got_body(front) == b"new", within_s=RETRY_MAX_S + 2, what="business is back"
        )


@pytest.mark.parametrize("terms", ["stale-if-error=60", "stale-while-revalidate=60"])
async def test_while_others_wait_for_places_a_page_past_its_time_takes_none(terms: str) -> None:
    async with shop() as front:
        allowed = f"{PUBLIC}, {terms}, stale-if-error=60"
        await front.filled(answer(allowed, body=b"old", age=15))
        front.pressed = True
        front.business.always(answer(body=b"new"))
        for _ in range(3):
            assert (await front.page()).body == b"old"
        await asyncio.sleep(0)
        assert not front.business.asked
        # Nobody holds it: it is what the places are for.
        assert (await front.page(b"/products/dog")).body == b"new"
        front.pressed = False
        within_s = RETRY_MAX_S + 2
        await until(lambda: got_body(front) == b"new", within_s=within_s, what="it is asked for")


async def test_a_page_that_was_purged_is_asked_for_though_others_wait() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", body=b"old", tags="a"))
        front.pages.purge(["a"], 200)
        front.pressed = True
        front.business.always(answer(body=b"new", tags="a", position=200))
        assert (await front.page()).body == b"new"


async def test_a_page_older_than_stale_if_error_is_not_given() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", age=71))
        asked = asyncio.create_task(front.get())
        (await front.business.nth(1)).fail(Unavailable())
        with pytest.raises(Unavailable):
            await asked


async def test_a_refusal_that_is_no_failure_is_told() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", age=15))
        asked = asyncio.create_task(front.get())
        (await front.business.nth(1)).fail(TooManyRequests())
        with pytest.raises(TooManyRequests):
            await asked


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_business_that_can_not_now_does_not_cost_the_page_that_is_held(status: int) -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", age=15))
        asked = asyncio.create_task(front.get())
        (await front.business.nth(1)).answer(answer(None, status=status, body=b"not now"))
        await asked
        assert front.at_once() is not None


async def test_who_could_have_an_old_page_does_not_wait_for_a_business_that_hangs() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", age=15))
        started_at = time.monotonic()
        got = await front.page(within_s=0.2)
        assert time.monotonic() - started_at < 0.2 + 1
        assert got.said.endswith("stale-if-error")
        assert front.at_once() is not None  # the next ones do not wait at all
        assert len(front.business.asked) == 1


async def test_patience_is_shorter_than_a_deadline_where_there_is_an_old_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flights, "PATIENCE_S", 0.05)
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60", age=15))
        started_at = time.monotonic()
        assert (await front.page(within_s=30)).said.endswith("stale-if-error")
        assert time.monotonic() - started_at < 5
        (await front.business.nth(1)).answer(answer(body=b"new"))  # late, and not lost
        await until(lambda: got_body(front) == b"new", within_s=5, what="it is held")


async def test_must_revalidate_forbids_an_old_page_even_then() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC + ", stale-if-error=60, must-revalidate", age=15))
        asked = asyncio.create_task(front.get())
        (await front.business.nth(1)).fail(Unavailable())
        with pytest.raises(Unavailable):
            await asked


async def test_no_time_left_is_answered_without_waiting() -> None:
    async with shop() as front:
        with pytest.raises(GatewayTimeout):
            await front.pages.obtain(b"GET", CAT, b"", b"", False, Deadline(0.0))


def got_body(front: Shop) -> bytes | None:
    got = front.at_once()
    return got.body if got is not None else None


async def until_asked_again(front: Shop, number: int) -> Asked:
    """Ask until a fetch with this number has begun: a refresh is begun by a request."""

    def asked() -> bool:
        front.at_once()
        return len(front.business.asked) >= number

    await until(asked, within_s=5, what="it is tried again")
    return await front.business.nth(number)
