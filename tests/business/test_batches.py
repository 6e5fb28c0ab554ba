"""Operations in batches, on a real database: the same as one by one, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.business.claims import Paid
from services.business.drafts import Placed
from services.business.orders import place_order
from services.business.payments import claim, settle
from services.business.provider import (
    Approved,
    ChargeOutcome,
    Declined,
    NotSent,
    Pending,
    Unknown,
)
from services.business.schemas import OrderRequest
from services.business.shop import Shop, open_shop
from services.data import batch, idempotency
from services.data.idempotency import NewKey
from services.data.orders import OrderKey
from services.data.payments import State
from services.data.sources import Transaction
from services.deadline import Deadline, current_deadline
from services.problems import GatewayTimeout, OutcomeUnknown, Problem
from tests.faults.proxy import Direction, FaultProxy
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.shopping import Books, Goods, open_books, place

T = TypeVar("T")

# A machine that is busy with other tests is no difference between together and one by one.
PATIENT: Final = {"statement_timeout_ms": 30_000, "pool_wait_ms": 30_000}
WITHIN_S: Final = 60.0
PROCESSES: Final = 3
HOT: Final = 5  # variants that every basket wants some of
BASKETS: Final = 150


def wanted(lines: dict[UUID, int]) -> OrderRequest:
    body = {"lines": [{"variant_id": str(v), "quantity": q} for v, q in lines.items()]}
    return OrderRequest.model_validate(body)


def said(outcome: object) -> object:
    """What tells an outcome from another, whichever goods and orders it is about.

    Not how many are left: who asks again while his first call waits is told what that one is told.
    """
    if isinstance(outcome, Placed):
        return "placed", outcome.replayed
    return type(outcome).__name__


OUTCOMES: Final[list[ChargeOutcome]] = [
    Approved("ch_1"),
    Declined("card_declined"),
    Pending("ch_1"),
    NotSent("refused"),
    Unknown("lost"),
]

quantities = st.tuples(*[st.integers(0, 3)] * 3).filter(any)


@dataclass
class Laboratory:
    """A shop on a database where nobody else is, and a loop of its own that plays on it."""

    runner: asyncio.Runner
    shop: Shop
    books: Books

    async def customers(self) -> list[UUID]:
        """Three who are known already, so that keys count."""
        goods = await self.books.goods()
        return [(await place(self.shop, {goods.variant: 1})).customer_id for _ in range(3)]


@pytest_asyncio.fixture
async def lab_shop(laboratory: OwnDatabase, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """One where nobody gives up because the machine is busy, unless he has set a deadline."""
    monkeypatch.setattr(batch, "TIMEOUT_S", WITHIN_S)
    async with open_shop(laboratory.settings(**PATIENT)) as opened:
        yield opened


@pytest_asyncio.fixture(autouse=True)
async def nothing_is_overdue(lab_books: Books) -> AsyncIterator[None]:
    """What is left unsettled here is nothing that other tests of the laboratory should find."""
    yield
    await lab_books.rows("update payments set next_check_at = now() + interval '1 hour'")


@pytest.fixture(scope="module")
def own(laboratory: OwnDatabase) -> Iterator[Laboratory]:
    """Hypothesis runs plain functions: each example is a coroutine in this loop."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def opened() -> Laboratory:
            shop = await stack.enter_async_context(open_shop(laboratory.settings(**PATIENT)))
            books = await stack.enter_async_context(open_books(laboratory.superuser_dsn()))
            return Laboratory(runner, shop, books)

        try:
            yield runner.run(opened())
        finally:
            runner.run(stack.aclose())


@dataclass(frozen=True)
class Buyer:
    """One of the three, and what they buy under a key: a number, by which calls are repeated."""

    own: Laboratory
    goods: Goods
    customers: list[UUID]

    async def buy(self, key: int, quantities: tuple[int, ...]) -> object:
        lines = {v: q for v, q in zip(self.goods.variants, quantities, strict=True) if q}
        customer_id = self.customers[key % 3]
        try:
            return said(
                await place_order(self.own.shop, customer_id, wanted(lines), str(key), b"body")
            )
        except Problem as refused:
            return said(refused)

    async def has_bought(self, key: int) -> bool:
        sql = (
            "select count(*) from idempotency_keys where customer_id = $1 and idempotency_key = $2"
        )
        return bool(await self.own.books.value(sql, self.customers[key % 3], str(key)))

    async def stock(self) -> list[tuple[int, int, int]]:
        return [await self.own.books.stock(variant) for variant in self.goods.variants]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(quantities, min_size=1, max_size=8),
    st.lists(st.integers(0, 7), min_size=1, max_size=16),
    st.lists(quantities, max_size=3),
)
def test_buying_together_equals_buying_one_by_one(
    own: Laboratory,
    baskets: list[tuple[int, ...]],
    calls: list[int],
    leaving: list[tuple[int, ...]],
) -> None:
    """Calls under one key repeat it. Who leaves has bought or has not: nobody else cares."""
    script = [(number % len(baskets), baskets[number % len(baskets)]) for number in calls]
    left = [(100 + number, basket) for number, basket in enumerate(leaving)]

    async def play() -> None:
        current_deadline.set(Deadline.after(WITHIN_S))
        together, alone = [
            Buyer(own, await own.books.goods(available=7, variants=3), await own.customers())
            for _ in range(2)
        ]
        first = asyncio.create_task(together.buy(*script[0]))
        await asyncio.sleep(0.001)  # the first one's batch runs, the others gather
        gone = [asyncio.create_task(together.buy(*call)) for call in left]
        others = [asyncio.create_task(together.buy(*call)) for call in script[1:]]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        outcomes = await asyncio.gather(first, *others)
        await asyncio.gather(*gone, return_exceptions=True)
        assert outcomes[0] == await alone.buy(*script[0])
        for key, basket in left:
            if await together.has_bought(key):
                await alone.buy(key, basket)
        assert outcomes[1:] == [await alone.buy(*call) for call in script[1:]]
        assert await together.stock() == await alone.stock()

    own.runner.run(play())


@dataclass(frozen=True)
class Payer:
    """A customer with five orders; claims name an order and one of its keys."""

    own: Laboratory
    customer_id: UUID
    keys: list[OrderKey]

    async def claim(self, order: int, number: int) -> Paid | object:
        try:
            return await claim(
                self.own.shop, self.keys[order], "tok_approve", f"{order}-{number}", b"body"
            )
        except Problem as refused:
            return said(refused)

    async def rows(self) -> list[tuple[object, ...]]:
        sql = """
            select p.state, p.charge_id, p.decline_code, p.detail, o.state, h.state,
                (select count(*) from ledger_transfers where cause_id = p.payment_id)
            from payments p join orders o using (customer_id, order_id)
            join stock_holds h using (customer_id, order_id)
            where p.customer_id = $1 order by o.order_id, p.payment_id
        """
        return [tuple(row) for row in await self.own.books.rows(sql, self.customer_id)]


async def payer(own: Laboratory) -> Payer:
    goods = await own.books.goods(available=10)
    customer_id = (await own.customers())[0]
    keys = [await place(own.shop, {goods.variant: 1}, customer_id) for _ in range(5)]
    return Payer(own, customer_id, keys)


async def each(calls: list[Coroutine[None, None, T]], *, together: bool) -> list[T]:
    if together:
        return list(await asyncio.gather(*calls))
    return [await call for call in calls]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(OUTCOMES)), max_size=12),
)
def test_paying_together_equals_paying_one_by_one(
    own: Laboratory, claims: list[tuple[int, int]], words: list[tuple[int, ChargeOutcome]]
) -> None:
    async def play(*, together: bool) -> tuple[list[object], list[State], list[object]]:
        current_deadline.set(Deadline.after(WITHIN_S))
        one = await payer(own)
        paid = await each([one.claim(*call) for call in claims], together=together)
        made = [outcome.payment for outcome in paid if isinstance(outcome, Paid)]
        said_of = [(made[number % len(made)], outcome) for number, outcome in words if made]
        settled = await each([settle(own.shop, *word) for word in said_of], together=together)
        outcomes = ["paid" if isinstance(one, Paid) else one for one in paid]
        return outcomes, [payment.state for payment in settled], [*await one.rows()]

    async def compare() -> None:
        assert await play(together=True) == await play(together=False)

    own.runner.run(compare())


@pytest_asyncio.fixture
async def processes(laboratory: OwnDatabase) -> AsyncIterator[list[Shop]]:
    """As many processes of business as far as the database can tell: pools of their own."""
    async with AsyncExitStack() as stack:
        shops = [open_shop(laboratory.settings(**PATIENT)) for _ in range(PROCESSES)]
        yield [await stack.enter_async_context(shop) for shop in shops]


async def test_several_processes_with_baskets_in_any_order_never_deadlock(
    processes: list[Shop], lab_books: Books
) -> None:
    goods = await lab_books.goods(available=BASKETS, variants=HOT)
    chance = random.Random(7)
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    before = await lab_books.value(deadlocks)

    async def buy_and_pay(number: int) -> str:
        shop = processes[number % PROCESSES]
        current_deadline.set(Deadline.after(WITHIN_S))
        variants = chance.sample(goods.variants, chance.randint(2, HOT))
        key = await place(shop, dict.fromkeys(variants, 1))
        claimed = await claim(shop, key, "tok_approve", uuid4().hex, b"")
        outcome = Approved(str(number)) if number % 3 else Declined("card_declined")
        return (await settle(processes[(number + 1) % PROCESSES], claimed.payment, outcome)).state

    states = Counter(await asyncio.gather(*(buy_and_pay(number) for number in range(BASKETS))))
    assert states == {"SUCCESS": BASKETS * 2 // 3, "FAILED": BASKETS // 3}
    assert await lab_books.value(deadlocks) == before
    sizes = [batcher.counts for shop in processes for batcher in shop.batchers]
    assert sum(count.batches for count in sizes) < BASKETS * 3 / 2  # they did go together
    assert await lab_books.broken_rules() == []


async def test_a_stock_row_that_somebody_keeps_locked_stops_nobody_else(
    lab_shop: Shop, lab_books: Books, laboratory: OwnDatabase
) -> None:
    kept, free = await lab_books.goods(), await lab_books.goods()
    other = await asyncpg.connect(laboratory.superuser_dsn())
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select from stock where variant_id = $1 for update", kept.variant)
        current_deadline.set(Deadline.after(WITHIN_S))
        waiting = asyncio.create_task(place(lab_shop, {kept.variant: 1, free.variant: 1}))
        async with asyncio.timeout(WITHIN_S / 2):
            for _ in range(20):
                await place(lab_shop, {free.variant: 1})
        assert not waiting.done()
        await transaction.rollback()
        await waiting
    finally:
        current_deadline.set(None)
        await other.close()
    assert await lab_books.stock(kept.variant) == (99, 1, 0)
    assert await lab_books.stock(free.variant) == (79, 21, 0)


async def test_an_order_that_somebody_keeps_locked_is_given_up_at_the_deadline(
    lab_shop: Shop, lab_books: Books, laboratory: OwnDatabase
) -> None:
    goods = await lab_books.goods()
    kept, free = [await place(lab_shop, {goods.variant: 1}) for _ in range(2)]
    other = await asyncpg.connect(laboratory.superuser_dsn())
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select from orders where order_id = $1 for update", kept.order_id)

        async def late() -> None:
            current_deadline.set(Deadline.after(0.3))
            await claim(lab_shop, kept, "tok_approve", uuid4().hex, b"")

        waiting = asyncio.create_task(late())
        await claim(lab_shop, free, "tok_approve", uuid4().hex, b"")
        with pytest.raises((GatewayTimeout, OutcomeUnknown)):
            await waiting
        await transaction.rollback()
    finally:
        await other.close()
    assert await lab_books.payments(str(kept.order_id)) == []
    await claim(lab_shop, kept, "tok_approve", uuid4().hex, b"")


async def test_a_row_that_can_not_be_booked_fails_alone_and_the_others_are_settled(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods()
    keys = [await place(lab_shop, {goods.variant: 1}) for _ in range(9)]
    claimed = await asyncio.gather(
        *(claim(lab_shop, key, "tok_approve", uuid4().hex, b"") for key in keys)
    )
    bad = claimed[4].payment
    booked = (
        "insert into ledger_transfers (debit_account, credit_account, amount_minor, currency,"
        " cause, cause_id) values ('provider_clearing', 'sales', 1, 'USD', 'payment_captured', $1)"
    )
    await lab_books.rows(booked, bad.payment_id)
    settled = await asyncio.gather(
        *(settle(lab_shop, one.payment, Approved("charge")) for one in claimed),
        return_exceptions=True,
    )
    assert isinstance(settled.pop(4), asyncpg.UniqueViolationError)
    assert {getattr(payment, "state", payment) for payment in settled} == {"SUCCESS"}
    assert await lab_books.stock(goods.variant) == (91, 1, 8)
    await lab_books.rows("delete from ledger_transfers where cause_id = $1", bad.payment_id)
    await settle(lab_shop, bad, Approved("charge"))
    assert await lab_books.broken_rules() == []


async def test_a_lost_commit_is_unknown_to_each_of_its_batch_and_found_by_each_ones_key(
    laboratory: OwnDatabase,
    lab_shop: Shop,
    lab_books: Books,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goods = await lab_books.goods()
    orders = [await place(lab_shop, {goods.variant: 1}) for _ in range(5)]
    place_of = urlsplit(laboratory.dsn("tercet_app"))
    insert_keys = idempotency.insert_keys
    async with FaultProxy(str(place_of.hostname), place_of.port or 0) as proxy:
        through = place_of._replace(
            netloc=f"{place_of.username}:{place_of.password}@{proxy.host}:{proxy.port}"
        )
        dsn = f"{urlunsplit(through)}&sslmode=disable"

        async def last(tx: Transaction, new: Sequence[NewKey], lease: timedelta) -> None:
            await insert_keys(tx, new, lease)
            proxy.set(Direction.TO_CLIENT, drop=True)  # COMMIT comes next

        async def is_committed() -> bool:
            made = [bool(await lab_books.payments(str(key.order_id))) for key in orders]
            return all(made)

        async with open_shop(laboratory.settings(primary_dsn=dsn)) as shop:
            await shop.database.primary.fetchval("select 1")
            with monkeypatch.context() as patched:
                patched.setattr(idempotency, "insert_keys", last)
                claiming = asyncio.gather(
                    *(claim(shop, key, "tok_approve", "k", b"body") for key in orders),
                    return_exceptions=True,
                )
                await until(is_committed, within_s=10.0, what="it is committed")
                proxy.reset_all()
                outcomes = await claiming
            (counts,) = [batcher.counts for batcher in shop.batchers]
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 5
    assert (counts.batches, counts.rows) == (1, 5)
    await lab_books.rows("update idempotency_keys set lease_until = now()")
    again = [await claim(lab_shop, key, "tok_approve", "k", b"body") for key in orders]
    assert [(paid.payment.order_key, paid.replayed) for paid in again] == [
        (key, True) for key in orders
    ]
