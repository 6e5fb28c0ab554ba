"""Transactions that PostgreSQL rolls back for one another: nobody outside is told.

Experiment 12. Triggers do it to one transaction in five that places an order (at COMMIT), claims
a payment or settles one. They count in a sequence, which no rollback undoes, and the buyer does one
thing after the other, so that the second attempt gets through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from services.data import retries
from services.data.retries import retried, rolled_back
from services.data.sources import Primary
from services.problems import Unavailable
from tests.data.test_db import pool_of
from tests.faults.figures import record
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer, Goods, statuses

EVERY = 5
TRIGGERS = """
    create sequence if not exists conflicts_seen;
    grant usage on sequence conflicts_seen to tercet_app;
    create or replace function conflicts() returns trigger language plpgsql as $$
    begin
        if nextval('conflicts_seen') % {every} = 0 then
            raise exception 'a conflict by a test' using errcode = tg_argv[0];
        end if;
        return null;
    end $$;
    create constraint trigger conflicts_at_commit after insert on orders
        deferrable initially deferred for each row execute function conflicts('40001');
    create trigger conflicts_at_once after insert on payments
        for each row execute function conflicts('40P01');
    create trigger conflicts_in_ledger after insert on ledger_transfers
        for each row execute function conflicts('40001');
"""
GONE = """
    drop trigger if exists conflicts_at_commit on orders;
    drop trigger if exists conflicts_at_once on payments;
    drop trigger if exists conflicts_in_ledger on ledger_transfers;
    drop function if exists conflicts();
    drop sequence if exists conflicts_seen;
"""


@asynccontextmanager
async def conflicts(books: Books) -> AsyncIterator[None]:
    await books.connection.execute(TRIGGERS.format(every=EVERY))
    try:
        yield
    finally:
        await books.connection.execute(GONE)


async def buy(http: httpx.AsyncClient, goods: Goods, times: int) -> list[int]:
    answers = []
    for _ in range(times):
        customer = Customer(http)  # each has its own limits
        order = await customer.order({goods.variant: 1})
        answers.append(order)
        if order.status_code == 201:
            answers.append(await customer.pay(order.json()["order_id"]))
    return statuses(answers)


async def run_conflicts(books: Books, http: httpx.AsyncClient, times: int) -> tuple[list[int], int]:
    goods = await books.goods(available=10 * times)
    async with conflicts(books):
        answered = await buy(http, goods, times)
        attempts = await books.value("select last_value from conflicts_seen")
    assert await books.broken_rules() == []
    assert (await books.stock(goods.variant))[2] == times
    return answered, attempts - 3 * times  # an order, a claim, a settlement each


async def test_one_transaction_in_five_is_rolled_back_and_nobody_sees_it(
    books: Books, http: httpx.AsyncClient
) -> None:
    answered, again = await run_conflicts(books, http, 15)
    assert set(answered) == {201}
    assert again >= len(answered) // EVERY


@pytest.mark.faults
async def test_hundreds_of_transactions_with_conflicts(
    books: Books, http: httpx.AsyncClient
) -> None:
    answered, again = await run_conflicts(books, http, 200)
    passed = set(answered) == {201} and again >= len(answered) // EVERY
    record(
        12, "one transaction in five rolled back", passed,
        answers=len(answered), answered_5xx=sum(status >= 500 for status in answered),
        done_again=again, attempts_at_most=retries.ATTEMPTS,
    )  # fmt: skip
    assert passed


@pytest.fixture
def primary(broken_stack: RunningStack) -> Primary:
    return Primary(pool_of(broken_stack.dsn("tercet_owner")))


@pytest.mark.parametrize("errcode", ["40001", "40P01"])
@pytest.mark.parametrize("where", ["in a statement", "at commit"])
async def test_a_conflict_is_tried_three_times_and_then_told(
    errcode: str, where: str, primary: Primary
) -> None:
    attempts = 0
    raises = f"do $$ begin raise exception 'x' using errcode = '{errcode}'; end $$"

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        async with primary.transaction() as tx:
            if where == "in a statement":
                await tx.execute(raises)
            else:
                await tx.execute("create temporary table t (n int) on commit drop")
                await tx.execute(
                    "create function pg_temp.f() returns trigger language plpgsql as"
                    f" $f$ begin raise exception 'x' using errcode = '{errcode}'; end $f$"
                )
                await tx.execute(
                    "create constraint trigger c after insert on t deferrable initially deferred"
                    " for each row execute function pg_temp.f()"
                )
                await tx.execute("insert into t values (1)")

    with pytest.raises(Unavailable) as refused:
        await retried(work)
    assert rolled_back(refused.value)
    assert attempts == retries.ATTEMPTS == 3
    await primary.pool.close()


async def test_two_that_deadlock_both_get_through(primary: Primary) -> None:
    met = asyncio.Barrier(2)
    first_time = True

    async def work(one: int, other: int) -> None:
        nonlocal first_time
        async with primary.transaction() as tx:
            await tx.execute("select pg_advisory_xact_lock($1)", one)
            if first_time:
                await met.wait()
                first_time = False
            await tx.execute("select pg_advisory_xact_lock($1)", other)

    await asyncio.gather(retried(lambda: work(1, 2)), retried(lambda: work(2, 1)))
    await primary.pool.close()


async def test_any_other_error_is_not_tried_again(primary: Primary) -> None:
    attempts = 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        async with primary.transaction() as tx:
            await tx.execute("select 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await retried(work)
    assert attempts == 1
    await primary.pool.close()
