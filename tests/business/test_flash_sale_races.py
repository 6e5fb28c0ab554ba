"""Races for a flash sale over HTTP, at two processes of business: limits that hold to a unit.

Named after what they would break (Warszawski and Bailis, ACIDRain, SIGMOD 2017). Each is seen to
catch the naive implementation that it is for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from services.business.expiry import run_once as expire
from services.business.shop import open_shop
from services.data import flash_sales
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.served_business import served_business
from tests.shopping import Books

NOBODY_IN_BETWEEN: Final = flash_sales.LOCK_SALES.replace("for update", "")
CLAIMED: Final = "what is claimed of a sale is claimed by orders"
LIMITED: Final = "no customer has more of a sale than one customer may have"
TIMES_OUT_S: Final = 20.0
# Until a sale opens or closes: the first is enough where nothing else keeps the machine busy.
ENOUGH_S: Final = (0.6, 2.0, 6.0)
# The claim's statement waits for the row of the sale; and the sale is over.
WAITS_OR_OVER: Final = """
    select clock_timestamp() >= closes_at as is_over, exists (
            select from pg_stat_activity where datname = current_database()
                and wait_event_type = 'Lock' and query like '%flash_sales%'
        ) as waits
    from flash_sales where flash_sale_id = $1
"""


@dataclass
class Crowd:
    """Buyers who come to whichever process they find."""

    doors: Sequence[httpx.AsyncClient]
    books: Books
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def claim(
        self, sale_id: UUID, customer_id: UUID, quantity: int = 1, key: str | None = None
    ) -> httpx.Response:
        headers = {"x-customer-id": str(customer_id), "idempotency-key": key or uuid4().hex}
        door, path = self.chance.choice(self.doors), f"/flash-sales/{sale_id}/claims"
        return await door.post(path, json={"quantity": quantity}, headers=headers)


@pytest.fixture(scope="module")
async def doors(laboratory: OwnDatabase) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of two processes of business, as far as the database can tell."""
    async with AsyncExitStack() as stack:
        starting = (served_business(laboratory.settings()) for _ in range(2))
        yield [(await stack.enter_async_context(one)).http for one in starting]


@pytest.fixture
def crowd(doors: list[httpx.AsyncClient], lab_books: Books) -> Crowd:
    return Crowd(doors, lab_books)


def outcomes(answers: Sequence[httpx.Response]) -> Counter[str]:
    return Counter(
        "placed" if answer.status_code == 201 else answer.json()["type"].rpartition("/")[2]
        for answer in answers
    )


async def bots_race(crowd: Crowd, *, bots: int, limit: int, at_once: int) -> list[Counter[str]]:
    """Each bot sends all its claims at the same moment, as all the others do (S10)."""
    goods = await crowd.books.goods(available=10_000)
    sale_id = await crowd.books.flash_sale(goods.variant, units=10_000, customer_limit=limit)
    customers = await crowd.books.guest_ids(bots)
    answers = await asyncio.gather(
        *(crowd.claim(sale_id, who) for who in customers for _ in range(at_once))
    )
    rows = [answers[place : place + at_once] for place in range(0, len(answers), at_once)]
    return [outcomes(row) for row in rows]


async def test_the_limit_of_a_customer_is_exact_in_a_race(crowd: Crowd) -> None:
    raced = await bots_race(crowd, bots=10, limit=3, at_once=12)
    assert raced == [Counter({"placed": 3, "flash-sale-limit-reached": 9})] * 10
    assert await crowd.books.broken_rules() == []


async def test_an_account_and_the_guests_that_it_was_have_one_limit_in_a_race(
    crowd: Crowd,
) -> None:
    goods = await crowd.books.goods(available=100)
    sale_id = await crowd.books.flash_sale(goods.variant, units=100, customer_limit=3)
    account, first, second, other = await crowd.books.guest_ids(4)
    assert (await crowd.claim(sale_id, first)).status_code == 201
    for guest in (first, second):
        await crowd.books.rows("insert into guest_links (guest_id, customer_id) values ($1, $2)",
            guest, account)  # fmt: skip
    claimants = [account, second, first, other] * 6
    answers = await asyncio.gather(*(crowd.claim(sale_id, who) for who in claimants))
    raced = [outcomes(answers[place::4])["placed"] for place in range(4)]
    assert sum(raced[:3]) == 2  # with that of before
    assert raced[3] == 3
    assert await crowd.books.broken_rules() == []


async def test_without_the_lock_of_the_sale_the_limit_is_passed_and_that_is_seen(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_sales, "LOCK_SALES", NOBODY_IN_BETWEEN)
    monkeypatch.setattr(flash_sales, "LOCK_FREE_SALES", NOBODY_IN_BETWEEN)
    try:
        for _ in range(20):
            raced = await bots_race(crowd, bots=10, limit=1, at_once=10)
            if any(row["placed"] > 1 for row in raced):
                break
        else:
            pytest.fail("a limit that nobody locks is never passed: this race shows nothing")
        assert LIMITED in await crowd.books.broken_rules()
    finally:  # the database is other tests' too
        await crowd.books.rows("update flash_sales set customer_limit = 1000")


async def test_the_last_unit_is_claimed_once(crowd: Crowd) -> None:
    goods = await crowd.books.goods(available=50)
    for _ in range(5):
        sale_id = await crowd.books.flash_sale(goods.variant, units=1)
        answers = await asyncio.gather(
            *(crowd.claim(sale_id, who) for who in await crowd.books.guest_ids(20))
        )
        assert outcomes(answers) == {"placed": 1, "flash-sale-sold-out": 19}
    assert await crowd.books.stock(goods.variant) == (45, 5, 0)
    assert await crowd.books.broken_rules() == []


async def test_the_last_in_stock_is_claimed_once_by_two_sales(crowd: Crowd) -> None:
    goods = await crowd.books.goods(available=1)
    sales = [await crowd.books.flash_sale(goods.variant) for _ in range(2)]
    customers = await crowd.books.guest_ids(20)
    answers = await asyncio.gather(
        *(crowd.claim(sales[place % 2], who) for place, who in enumerate(customers))
    )
    assert outcomes(answers) == {"placed": 1, "out-of-stock": 19}
    assert await crowd.books.broken_rules() == []


async def test_the_same_key_in_a_race_is_one_claim_and_every_answer_is_the_same(
    crowd: Crowd,
) -> None:
    goods = await crowd.books.goods()
    (who,) = await crowd.books.guest_ids(1)
    for _ in range(10):
        # The first one takes the last unit and all of the limit: no answer may say so of his own.
        sale_id = await crowd.books.flash_sale(goods.variant, units=1, customer_limit=1)
        key = uuid4().hex
        answers = await asyncio.gather(*(crowd.claim(sale_id, who, key=key) for _ in range(8)))
        assert outcomes(answers) == {"placed": 8}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert await crowd.books.broken_rules() == []


@dataclass
class Opening:
    """What buyers met who hammered at a sale that was about to open."""

    opens_at_s: float
    admitted_at_s: list[float] = field(default_factory=list)  # when the answer was there
    refused_at_s: list[float] = field(default_factory=list)  # when the request was sent
    retry_after_s: list[int] = field(default_factory=list)


async def hammer_at_the_opening(crowd: Crowd, *, opens_in_s: float, buyers: int) -> Opening:
    goods = await crowd.books.goods(available=buyers)
    sale_id = await crowd.books.flash_sale(goods.variant, opens_in_s=opens_in_s)
    epoch = "select extract(epoch from opens_at)::float8 from flash_sales where flash_sale_id = $1"
    opening = Opening(await crowd.books.value(epoch, sale_id))

    async def buyer(who: UUID) -> None:
        while True:
            sent_at_s = time.time()  # the clock of this machine, which is the database's
            answer = await crowd.claim(sale_id, who)
            if answer.status_code == 201:
                opening.admitted_at_s.append(time.time())
                return
            assert answer.json()["type"] == "/problems/flash-sale-not-open-yet", answer.text
            opening.refused_at_s.append(sent_at_s)
            opening.retry_after_s.append(int(answer.headers["retry-after"]))

    async with asyncio.timeout(TIMES_OUT_S):
        await asyncio.gather(*map(buyer, await crowd.books.guest_ids(buyers)))
    return opening


async def test_nobody_is_admitted_before_the_opening_and_nobody_refused_after_it(
    crowd: Crowd,
) -> None:
    for opens_in_s in ENOUGH_S:
        opening = await hammer_at_the_opening(crowd, opens_in_s=opens_in_s, buyers=30)
        if len(opening.refused_at_s) > 30:
            break
    assert len(opening.admitted_at_s) == 30
    assert len(opening.refused_at_s) > 30, "nobody came before"
    assert min(opening.admitted_at_s) >= opening.opens_at_s
    assert max(opening.refused_at_s) < opening.opens_at_s
    assert set(opening.retry_after_s) == {1}
    assert await crowd.books.broken_rules() == []


async def test_a_clock_of_ones_own_admits_too_early_and_that_is_seen(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCK_SALES", "SELECT_SALES"):
        sql = getattr(flash_sales, name)
        ahead = sql.replace("clock_timestamp()", "clock_timestamp() + interval '1 minute'")
        monkeypatch.setattr(flash_sales, name, ahead)
    opening = await hammer_at_the_opening(crowd, opens_in_s=ENOUGH_S[-1], buyers=10)
    assert min(opening.admitted_at_s) < opening.opens_at_s


async def claim_that_waits_past_the_closing(crowd: Crowd, dsn: str) -> httpx.Response:
    """A claim that has waited for the sale's row when it closed: who comes later has not waited,
    so where the machine is busy the sale is open for longer."""
    for open_for_s in ENOUGH_S:
        claimed = await claim_at_the_closing(crowd, dsn, open_for_s)
        if claimed.has_waited:
            return claimed.answer
    raise AssertionError("no claim came before its sale had closed")


class ClaimedLate(NamedTuple):
    """has_waited: whether it was seen waiting while the sale was still open."""

    has_waited: bool
    answer: httpx.Response


async def claim_at_the_closing(crowd: Crowd, dsn: str, open_for_s: float) -> ClaimedLate:
    """The sale's row is another's when the claim comes, and free when the sale has closed."""
    goods = await crowd.books.goods()
    (who,) = await crowd.books.guest_ids(1)
    other = await asyncpg.connect(dsn)
    try:
        sale_id = await crowd.books.flash_sale(goods.variant, open_for_s=1.0 + open_for_s)
        async with other.transaction():
            sql = "select from flash_sales where flash_sale_id = $1 for update"
            await other.fetch(sql, sale_id)
            claiming = asyncio.create_task(crowd.claim(sale_id, who))
            has_waited = False

            async def is_over() -> bool:
                nonlocal has_waited
                row = (await crowd.books.rows(WAITS_OR_OVER, sale_id))[0]
                has_waited |= row["waits"] and not row["is_over"]
                return bool(row["is_over"])

            await until(is_over, within_s=TIMES_OUT_S, what="the sale has closed")
        return ClaimedLate(has_waited, await claiming)
    finally:
        await other.close()


async def test_who_waits_past_the_closing_is_too_late(
    crowd: Crowd, laboratory: OwnDatabase
) -> None:
    answer = await claim_that_waits_past_the_closing(crowd, laboratory.superuser_dsn())
    assert outcomes([answer]) == {"flash-sale-over": 1}


async def test_the_time_at_which_a_transaction_began_admits_too_late_and_that_is_seen(
    crowd: Crowd, laboratory: OwnDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCK_SALES", "LOCK_FREE_SALES", "SELECT_SALES"):
        sql = getattr(flash_sales, name).replace("clock_timestamp()", "now()")
        monkeypatch.setattr(flash_sales, name, sql)
    answer = await claim_that_waits_past_the_closing(crowd, laboratory.superuser_dsn())
    assert outcomes([answer]) == {"placed": 1}


async def test_claims_against_expiry_give_back_and_take_each_unit_once(
    crowd: Crowd, laboratory: OwnDatabase
) -> None:
    """Units that come back while others claim them: never more than there are, none lost."""
    goods = await crowd.books.goods(available=5)
    sale_id = await crowd.books.flash_sale(goods.variant, units=5, customer_limit=1)
    async with open_shop(laboratory.settings()) as shop:
        for _ in range(4):
            buyers = await crowd.books.guest_ids(12)
            await crowd.books.let_holds_end(goods.variant)
            expiring = [asyncio.create_task(expire(shop)) for _ in range(2)]
            answers = await asyncio.gather(*(crowd.claim(sale_id, who) for who in buyers))
            await asyncio.gather(*expiring)
            assert outcomes(answers)["placed"] <= 5
            assert await crowd.books.claimed(sale_id) <= 5
            assert await crowd.books.broken_rules() == []
        await crowd.books.let_holds_end(goods.variant)
        while await expire(shop):
            pass
    assert await crowd.books.claimed(sale_id) == 0
    assert await crowd.books.stock(goods.variant) == (5, 0, 0)
