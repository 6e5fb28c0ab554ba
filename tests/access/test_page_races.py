"""Purges against fetches, in every order: no old page is put back, and none is fetched twice."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.access.pages import Pages
from services.access.purges import TOGETHER_S, Purges
from services.access.refill import FETCHES
from services.access.targets import PageRule
from services.deadline import Deadline
from services.exchange import Headers, Response
from services.problems import Unavailable
from tests.access.held import CAT, PUBLIC, Got, answer, confirmed, read, shop
from tests.faults.waiting import until

NEEDED = b"x-internal-min-position"


async def test_a_page_fetched_before_a_purge_and_arriving_after_it_is_not_held() -> None:
    async with shop() as front:
        before = front.asking()
        fetch = await front.business.nth(1)
        front.pages.purge(["cat"], 200)
        after = front.asking()
        fetch.answer(answer(body=b"old", position=100))
        again = await front.business.nth(2)
        assert again.extra == {NEEDED: b"200"}
        assert front.at_once() is None
        again.answer(answer(body=b"new", position=200))
        assert (await after).body == (await before).body == b"new"
        got = front.at_once()
        assert got is not None
        assert got.body == b"new"
        assert front.pages.fetches_total == 1


async def test_what_was_purged_before_it_was_ever_asked_for_is_not_filled_from_a_late_node() -> (
    None
):
    async with shop() as front:
        front.pages.purge(["cat"], 200)
        asked = front.asking()
        first = await front.business.nth(1)
        assert first.extra == {}
        first.answer(answer(body=b"old", position=199))
        second = await front.business.nth(2)
        assert second.extra == {NEEDED: b"200"}
        second.answer(answer(body=b"new", position=200))
        assert (await asked).body == b"new"


async def test_a_held_page_is_fetched_from_a_node_that_has_seen_its_purge() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"old", tags="cat, pets", position=100))
        front.pages.purge(["pets"], 300)
        front.pages.purge(["cat"], 200)
        assert front.pages.purged_total == 1
        assert front.at_once() is None
        asked = front.asking()
        fetch = await front.business.nth(1)
        assert fetch.extra == {NEEDED: b"300", b"if-none-match": b'"1"'}
        fetch.answer(answer(body=b"new", position=300))
        assert (await asked).body == b"new"


async def test_a_page_that_has_seen_the_change_is_not_fetched_again() -> None:
    async with shop() as front:
        await front.filled(answer(position=200))
        front.pages.purge(["cat"], 200)
        assert front.at_once() is not None
        assert front.pages.purged_total == 0


async def test_a_purge_of_other_tags_changes_nothing() -> None:
    async with shop() as front:
        await front.filled(answer(tags="cat"))
        front.pages.purge(["cats", "ca", "dog"], 999)
        assert front.at_once() is not None


async def test_a_304_from_a_late_node_confirms_nothing() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"old", position=100))
        front.pages.purge(["cat"], 200)
        asked = front.asking()
        (await front.business.nth(1)).answer(confirmed(position=150))
        second = await front.business.nth(2)
        assert front.at_once() is None
        await until_acted(front.pages)
        front.pages.purge(["cat"], 300)
        second.answer(confirmed(position=None))  # nor does one that does not say what it has seen
        third = await front.business.nth(3)
        third.answer(answer(body=b"new", position=300))
        assert (await asked).body == b"new"


async def test_without_a_position_any_purge_since_the_fetch_began_counts() -> None:
    async with shop() as front:
        front.pages.purge(["cat"], 200)
        asked = front.asking()
        first = await front.business.nth(1)
        front.pages.purge(["dog"], 300)
        front.pages.purge(["bird"], 300)
        front.pages.purge(["bird"], 301)
        await until_acted(front.pages)
        front.pages.purge(["cat"], 250)
        first.answer(answer(body=b"old", position=None))
        second = await front.business.nth(2)
        second.answer(answer(body=b"new", position=None))
        assert (await asked).body == b"new"
        assert front.at_once() is not None


async def test_purges_faster_than_fetches_end_with_an_answer_that_is_not_held() -> None:
    async with shop() as front:
        asked = [front.asking() for _ in range(10)]
        for number in range(1, FETCHES + 1):
            fetch = await front.business.nth(number)
            front.pages.purge(["cat"], number * 100)
            await until_acted(front.pages)
            fetch.answer(answer(position=number * 100 - 1))
        got = await asyncio.gather(*asked)
        assert {each.status for each in got} == {200}
        assert {each.said for each in got} == {"fwd=miss", "fwd=miss; collapsed"}
        assert front.pages.entries == 0
        assert len(front.business.asked) == FETCHES


async def test_purges_of_one_tag_are_one_in_twenty_milliseconds() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"0", position=100))
        front.pages.purge(["cat"], 101)
        assert front.at_once() is None  # the first acts at once
        front.business.always(answer(body=b"1", position=101))
        await front.page()
        for position in range(102, 120):
            front.pages.purge(["cat"], position)
        assert front.at_once() is not None  # the others wait for the end of the 20 ms
        took_s = await until(
            lambda: front.at_once() is None, within_s=5, what="the purges put off take effect"
        )
        assert took_s < 25 * TOGETHER_S
        assert front.pages.purged_total == 2
        front.business.by_hand()
        front.business.asked.clear()
        asked = front.asking()
        fetch = await front.business.nth(1)
        assert fetch.extra[NEEDED] == b"119"
        fetch.answer(answer(body=b"2", position=119))
        assert (await asked).body == b"2"


async def test_a_fetch_that_begins_while_a_purge_is_put_off_sees_it_already() -> None:
    async with shop() as front:
        await front.filled(answer(position=100))
        front.pages.purge(["cat"], 200)
        front.pages.purge(["cat"], 300)
        asked = front.asking()
        fetch = await front.business.nth(1)
        assert fetch.extra[NEEDED] == b"300"
        fetch.answer(answer(position=300))
        await asked
        await until_acted(front.pages)
        assert front.at_once() is not None  # nothing was left to do for the second purge
        assert front.pages.purged_total == 1


async def test_a_hot_page_is_refilled_by_one_fetch_while_a_thousand_wait() -> None:
    async with shop() as front:
        await front.filled(answer(position=100))
        front.pages.purge(["cat"], 200)
        asked = [front.asking() for _ in range(1000)]
        (await front.business.nth(1)).answer(answer(body=b"new", position=200))
        assert {got.body for got in await asyncio.gather(*asked)} == {b"new"}
        assert len(front.business.asked) == 1
        assert front.pages.coalesced_total == 999


async def test_a_purged_page_is_still_there_for_when_business_fails() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"old", position=100))
        front.pages.purge(["cat"], 200)
        asked = front.asking()
        (await front.business.nth(1)).fail(Unavailable())
        got = await asked
        assert got.body == b"old"
        assert got.said.endswith("; detail=stale-if-error")
        assert int(got.said.split("ttl=")[1].split(";")[0]) < 0


async def test_a_purge_while_business_fails_is_not_passed_over() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"old", age=11, position=100))
        assert front.at_once() is not None
        (await front.business.nth(1)).fail(Unavailable())
        page = front.pages._held[CAT]
        await until(lambda: page.retry_at > 0, within_s=5, what="it has failed")
        front.pages.purge(["cat"], 200)
        assert front.at_once() is None  # only what has failed since the purge allows the old page
        asked = front.asking()
        (await front.business.nth(2)).answer(answer(body=b"new", position=200))
        assert (await asked).body == b"new"


async def test_a_tag_that_a_page_has_no_more_does_not_purge_it() -> None:
    async with shop() as front:
        await front.filled(answer(tags="cat,sale", position=100))
        front.pages.purge(["cat"], 200)
        await front.filled(answer(tags="cat", position=200))
        front.pages.purge(["sale"], 300)
        assert front.at_once() is not None
        front.pages._shelf.drop(front.pages._held[CAT])
        assert front.pages._shelf._by_tag == {}


async def test_a_purge_during_a_refresh_in_the_background_is_not_lost() -> None:
    async with shop() as front:
        await front.filled(answer(age=11, position=100))
        assert front.at_once() is not None  # stale, and being refreshed
        refresh = await front.business.nth(1)
        front.pages.purge(["cat"], 200)
        assert front.at_once() is None
        asked = front.asking()
        refresh.answer(confirmed(position=150))
        (await front.business.nth(2)).answer(answer(body=b"new", position=200))
        assert (await asked).body == b"new"


async def test_forgetting_a_purge_costs_a_fetch_and_never_puts_an_old_page_back() -> None:
    async with shop() as front:
        front.pages._purges = purges = Purges(tags_kept=3)
        front.pages._flights._purges = purges
        for number, tag in enumerate(["cat", "a", "b", "c", "d"]):
            front.pages.purge([tag], 200 + number)
        asked = front.asking()
        (await front.business.nth(1)).answer(answer(body=b"old", position=199))
        again = await front.business.nth(2)
        assert again.extra == {NEEDED: b"201"}  # the newest of the two forgotten
        again.answer(answer(body=b"new", position=201))
        assert (await asked).body == b"new"


async def test_without_the_tag_stream_a_page_is_fresh_for_a_second_and_then_confirmed() -> None:
    async with shop() as front:
        front.business.verified_since = None
        await front.filled(answer())
        await front.filled(answer(), b"/categories")
        assert front.at_once() is not None

        await until(lambda: front.at_once() is None, within_s=3, what="a second has passed")
        assert front.pages.stale_total == 0  # never stale while it is refreshed
        asked = [front.asking() for _ in range(100)]
        fetch = await front.business.nth(1)
        assert fetch.extra[b"if-none-match"] == b'"1"'
        fetch.answer(confirmed())
        await asyncio.gather(*asked)
        assert len(front.business.asked) == 1
        assert front.at_once() is not None
        assert front.pages.entries == 2  # nothing was thrown away

        failing = front.asking(b"/categories")
        (await front.business.nth(2)).fail(Unavailable())
        assert (await failing).said.endswith("stale-if-error")


async def test_after_a_gap_a_page_from_before_it_is_confirmed_once() -> None:
    async with shop() as front:
        await front.filled(answer())
        page = front.pages._held[CAT]
        page.checked_at -= 2.0  # it was fetched two seconds ago, and a second ago came a gap
        page.valid_until = 0.0
        front.business.verified_since = page.checked_at + 1.0
        assert front.at_once() is None
        asked = front.asking()
        (await front.business.nth(1)).answer(confirmed())
        await asked
        assert page.valid_until == 0.0
        assert front.at_once() is not None
        assert page.fresh_until_given(front.business.verified_since) == page.fresh_until


# A reader, two changes of one product and their purges, on two nodes: all orders.


class World:
    """A product whose version is its position on the primary; a standby that replays when told."""

    def __init__(self) -> None:
        self.primary = self.standby = 100
        self.under_way: list[tuple[asyncio.Future[Response], Response]] = []

    def change(self) -> None:
        self.primary += 100

    def replay(self) -> None:
        self.standby = self.primary

    async def fetch(self, _: bytes, extra: Headers, __: Deadline) -> Response:
        """Reads now, and answers when the test says so: as a slow reader does."""
        needed = int(dict(extra).get(NEEDED, b"0"))
        seen = self.standby if self.standby >= needed else self.primary
        reply: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        response = answer(PUBLIC, body=b"%d" % seen, position=seen, etag=None)
        self.under_way.append((reply, response))
        return await reply

    def arrive(self) -> None:
        for reply, response in self.under_way:
            if not reply.done():
                reply.set_result(response)
        self.under_way.clear()


STEPS = ("change", "purge", "ask", "arrive", "replay")


async def play(steps: tuple[str, ...]) -> None:
    """Play the steps; then whoever asks gets what the newest purge that was heard stands for."""
    world = World()
    pages = Pages(memory_bytes=2**20, fetch=world.fetch, verified_since=lambda: 0.0)
    pages.learn([PageRule("/products/{slug}")])
    asking: list[tuple[int, asyncio.Task[Any]]] = []
    heard = 0

    async def ask() -> Got:
        ready = pages.answer(b"GET", CAT, b"", b"", False)
        got = ready or await pages.obtain(b"GET", CAT, b"", b"", False, Deadline.after(30))
        assert isinstance(got, bytes)
        return read(got)

    for step in steps:
        if step == "change":
            world.change()
        elif step == "replay":
            world.replay()
        elif step == "purge":
            pages.purge(["cat"], world.primary)
            await until_acted(pages)
            heard = world.primary
        elif step == "ask":
            asking.append((heard, asyncio.create_task(ask())))
        else:
            world.arrive()
        for _ in range(6):  # let everything come to rest that needs no answer
            await asyncio.sleep(0)
    asking.append((heard, asyncio.create_task(ask())))
    while not all(task.done() for _, task in asking):
        await asyncio.sleep(0)
        world.arrive()
    for floor, task in asking:
        assert int((await task).body) >= floor, steps
    await pages.aclose()


async def until_acted(pages: Pages) -> None:
    """Have what was put off take effect now, and the next purge act at once."""
    purges = pages._purges
    for tag in list(purges._put_off):
        pages._purge(tag, 0)
    for tag, purge in purges._purged.items():
        purges._purged[tag] = purge._replace(acted_at=float("-inf"))


@pytest.mark.parametrize("first", STEPS)
async def test_nobody_gets_what_was_purged_before_he_asked(first: str) -> None:
    rest = [step for step in STEPS if step != first] + ["ask"]
    for steps in set(permutations(rest)):
        await play((first, *steps))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(STEPS), min_size=6, max_size=24).filter(
        lambda steps: steps.count("purge") < FETCHES  # more may end with an answer that is behind
    )
)
def test_nobody_gets_what_was_purged_before_he_asked_in_any_order(steps: list[str]) -> None:
    asyncio.run(play(tuple(steps)))
