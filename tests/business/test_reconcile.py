"""Reconcile: who is asked about, how often, and what it takes to give a payment up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest_asyncio
from structlog.testing import capture_logs

from infra.local.addresses import free_port
from services.business import reconcile
from services.business.payments import claim, pay, settle
from services.business.provider import (
    ChargeOrder,
    ChargeOutcome,
    NotSent,
    PaymentProvider,
    Unknown,
)
from services.business.shop import Shop, open_shop
from services.data.payments import Payment
from services.deadline import Deadline
from tests.laboratory import OwnDatabase
from tests.shopping import Books, Goods, ProviderBooks, place


async def payment(shop: Shop, books: Books, method: str, goods: Goods | None = None) -> Payment:
    """A payment as the request left it."""
    goods = goods or await books.goods()
    key = await place(shop, {goods.variant: 2})
    return (await pay(shop, key, method, uuid4().hex, b"")).payment


async def is_due(books: Books, *payments: Payment, age_s: int = 0) -> None:
    await books.rows(
        "update payments set next_check_at = now(), created_at = created_at - $2::interval"
        " where payment_id = any($1)",
        [one.payment_id for one in payments],
        timedelta(seconds=age_s),
    )


async def row(books: Books, payment: Payment) -> dict[str, object]:
    (found,) = await books.rows(
        "select *, extract(epoch from next_check_at - now())::float as next_s"
        " from payments where payment_id = $1", payment.payment_id
    )  # fmt: skip
    return dict(found)


@pytest_asyncio.fixture
async def lab_shop(laboratory: OwnDatabase) -> AsyncIterator[Shop]:
    """One with a breaker of its own: the provider's errors of one test are not those of another."""
    async with open_shop(laboratory.settings(provider_timeout_ms=500)) as opened:
        yield opened


@pytest_asyncio.fixture(autouse=True)
async def nothing_else_is_due(lab_books: Books) -> None:
    await lab_books.rows("update payments set next_check_at = now() + interval '1 hour'")


async def test_only_what_is_due_and_not_final_is_asked_about(
    lab_shop: Shop, lab_books: Books
) -> None:
    due = await payment(lab_shop, lab_books, "tok_drop_after_charge")
    await payment(lab_shop, lab_books, "tok_drop_after_charge")  # not due for two seconds
    final = await payment(lab_shop, lab_books, "tok_decline")
    await is_due(lab_books, due, final)
    assert await reconcile.run_once(lab_shop) == 1
    assert (await row(lab_books, due))["state"] == "SUCCESS"
    assert await reconcile.run_once(lab_shop) == 0


async def test_an_unclear_answer_is_asked_about_after_two_seconds(
    lab_shop: Shop, lab_books: Books
) -> None:
    left = await payment(lab_shop, lab_books, "tok_error")
    found = await row(lab_books, left)
    assert found["state"] == "UNKNOWN"
    assert 1.0 < float(str(found["next_s"])) <= 2.0


async def test_several_workers_ask_about_each_payment_once(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods(available=1000)
    left = [await payment(lab_shop, lab_books, "tok_error", goods) for _ in range(8)]
    await is_due(lab_books, *left)
    counts = await asyncio.gather(*(reconcile.run_once(lab_shop) for _ in range(5)))
    assert sum(counts) == 8
    assert {(await row(lab_books, one))["check_count"] for one in left} == {1}


async def test_a_provider_that_knows_nothing_is_asked_less_and_less_often(
    lab_shop: Shop, lab_books: Books
) -> None:
    left = await payment(lab_shop, lab_books, "tok_error")
    # Denying what it has named before is no verdict at any age.
    await lab_books.rows("update payments set charge_id = 'ch_named' where payment_id = $1",
        left.payment_id)  # fmt: skip
    await is_due(lab_books, left, age_s=60)
    waits = []
    for _ in range(10):
        await is_due(lab_books, left)
        await reconcile.run_once(lab_shop)
        waits.append(round(float(str((await row(lab_books, left))["next_s"]))))
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == reconcile.LONGEST_WAIT.total_seconds()
    assert (await row(lab_books, left))["state"] == "UNKNOWN"


async def test_a_check_is_due_as_soon_as_never_arrived_is_believed(
    lab_shop: Shop, lab_books: Books
) -> None:
    left = await payment(lab_shop, lab_books, "tok_error")
    await lab_books.rows("update payments set check_count = 6 where payment_id = $1",
        left.payment_id)  # fmt: skip
    almost_s = int(reconcile.ARRIVAL_GRACE.total_seconds()) - 5
    await is_due(lab_books, left, age_s=almost_s)
    await reconcile.run_once(lab_shop)
    found = await row(lab_books, left)
    assert found["state"] == "UNKNOWN"
    assert 2.0 < float(str(found["next_s"])) <= 5.0  # 128 s by the number of checks


async def test_what_the_provider_never_saw_is_given_up_after_the_grace_and_not_before(
    lab_shop: Shop, lab_books: Books, provider: ProviderBooks
) -> None:
    goods = await lab_books.goods()
    left = await payment(lab_shop, lab_books, "tok_error", goods)
    almost_s = int(reconcile.ARRIVAL_GRACE.total_seconds()) - 5
    await is_due(lab_books, left, age_s=almost_s)
    await reconcile.run_once(lab_shop)
    assert (await row(lab_books, left))["state"] == "UNKNOWN"
    await is_due(lab_books, left, age_s=10)
    await reconcile.run_once(lab_shop)
    assert (await row(lab_books, left))["state"] == "ERRORED"
    assert await lab_books.stock(goods.variant) == (98, 2, 0)
    assert await provider.charges(left.payment_id) == []


async def test_a_provider_that_is_away_ends_nothing_however_old_it_is(
    laboratory: OwnDatabase, lab_shop: Shop, lab_books: Books
) -> None:
    """Silence is no evidence: only the provider's own word ends what is unknown."""
    left = await payment(lab_shop, lab_books, "tok_drop_after_charge")
    await is_due(lab_books, left, age_s=7 * 86400)
    nobody = f"http://127.0.0.1:{free_port()}"
    async with open_shop(laboratory.settings(provider_url=nobody)) as alone:
        assert await reconcile.run_once(alone) == 1
    found = await row(lab_books, left)
    assert found["state"] == "UNKNOWN"
    await is_due(lab_books, left)
    await reconcile.run_once(lab_shop)
    assert (await row(lab_books, left))["state"] == "SUCCESS"


async def test_a_process_that_died_after_claiming_is_made_up_for(
    lab_shop: Shop, lab_books: Books, provider: ProviderBooks
) -> None:
    """Claimed and never charged: to be given up. Claimed, charged and not settled: paid."""
    goods = await lab_books.goods()
    keys = [await place(lab_shop, {goods.variant: 1}) for _ in range(2)]
    claimed = [(await claim(lab_shop, k, "tok_approve", uuid4().hex, b"")).payment for k in keys]
    charge = {
        "charge_key": str(claimed[1].payment_id),
        "amount_minor": claimed[1].amount_minor,
        "currency": claimed[1].currency,
        "payment_method": "tok_approve",
    }
    (await provider.http.post("/charges", json=charge)).raise_for_status()
    # Not while the process may still be at work: its lease is the provider's timeout and 5 s.
    assert 5.0 < float(str((await row(lab_books, claimed[0]))["next_s"])) <= 5.5
    await is_due(lab_books, *claimed, age_s=60)
    assert await reconcile.run_once(lab_shop) == 2
    states = [(await row(lab_books, one))["state"] for one in claimed]
    assert states == ["ERRORED", "SUCCESS"]
    assert await lab_books.stock(goods.variant) == (98, 1, 1)
    assert await lab_books.broken_rules() == []


async def test_one_payment_that_can_not_be_booked_does_not_keep_the_others_waiting(
    lab_shop: Shop, lab_books: Books
) -> None:
    stuck = await payment(lab_shop, lab_books, "tok_drop_after_charge")
    fine = await payment(lab_shop, lab_books, "tok_drop_after_charge")
    await lab_books.rows(
        "insert into ledger_transfers (debit_account, credit_account, amount_minor, currency,"
        " cause, cause_id) values ('provider_clearing', 'sales', 1, 'USD', 'payment_captured', $1)",
        stuck.payment_id,
    )
    await is_due(lab_books, stuck, fine)
    with capture_logs() as logs:
        assert await reconcile.run_once(lab_shop) == 2
    assert (await row(lab_books, fine))["state"] == "SUCCESS"
    assert (await row(lab_books, stuck))["state"] == "UNKNOWN"
    assert "payment can not be settled" in [line["event"] for line in logs]
    await lab_books.rows("delete from ledger_transfers where cause_id = $1", stuck.payment_id)
    await is_due(lab_books, stuck)
    await reconcile.run_once(lab_shop)
    assert (await row(lab_books, stuck))["state"] == "SUCCESS"
    assert await lab_books.broken_rules() == []


async def test_after_many_checks_without_a_verdict_somebody_is_called(
    lab_shop: Shop, lab_books: Books
) -> None:
    left = await payment(lab_shop, lab_books, "tok_error")
    called = []
    for number in (1, reconcile.ESCALATE_AFTER_CHECKS):
        await is_due(lab_books, left)
        await lab_books.rows(
            "update payments set check_count = $2 where payment_id = $1",
            left.payment_id,
            number - 1,
        )
        with capture_logs() as logs:
            await reconcile.run_once(lab_shop)
        called.append([line["event"] for line in logs if line["log_level"] == "error"])
    assert called == [[], ["payment still unknown"]]
    assert (await row(lab_books, left))["state"] == "UNKNOWN"


async def test_a_provider_that_can_not_be_asked_takes_no_knowledge_away(
    lab_shop: Shop, lab_books: Books
) -> None:
    pending = await payment(lab_shop, lab_books, "tok_pending")
    assert pending.state == "PENDING"
    after = await settle(lab_shop, pending, Unknown("the provider could not be asked"))
    assert (after.state, after.charge_id) == ("PENDING", pending.charge_id)
    assert (await row(lab_books, pending))["state"] == "PENDING"


async def test_a_charge_that_the_provider_has_named_is_not_given_up_when_it_denies_it(
    lab_shop: Shop, lab_books: Books
) -> None:
    pending = await payment(lab_shop, lab_books, "tok_pending")
    denied = Denying(lab_shop.provider)
    await reconcile.check(replace(lab_shop, provider=denied), pending, timedelta(hours=1))
    assert denied.asked == 1
    assert (await row(lab_books, pending))["state"] == "PENDING"


class Denying:
    """The provider with its memory gone."""

    def __init__(self, provider: PaymentProvider) -> None:
        self.charge = provider.charge
        self.read = provider.read
        self.capture, self.void, self.refund = provider.capture, provider.void, provider.refund
        self.find_operation = provider.find_operation
        self.list_charges, self.list_operations = provider.list_charges, provider.list_operations
        self.find_line = provider.find_line
        self.asked = 0

    async def find(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        self.asked += 1
        return NotSent("the provider has no such charge")
