"""Experiments 22, 23, 24 and 28: a provider that charges and does not say so, is late, is away, or
never says what became of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final, NamedTuple
from uuid import uuid4

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from services.business import reconcile
from services.business.matching import UNSETTLED
from services.business.payments import pay
from services.business.provider import (
    ChargeOrder,
    ChargeOutcome,
    Declined,
    PaymentProvider,
    Unknown,
)
from services.business.provider_proofs import prove_books
from services.business.shop import Shop, open_shop
from services.deadline import Deadline
from services.problems import Problem
from services.tally import BREAKER
from services.tasks import end_tasks
from tests.faults import figures
from tests.faults.waiting import until
from tests.own_books import OwnBooks, own_books
from tests.running_stack import RunningStack
from tests.shopping import place

SHARE: Final = 0.3
SILENT_MS: Final = 5_000  # longer than anybody waits here
LOSSES: Final[tuple[dict[str, Any], ...]] = (
    {"mode": "error_after_charge"},
    {"mode": "drop_after_charge"},
    {"mode": "slow", "delay_ms": SILENT_MS},
)
HOURS: Final = 72
TURNS_MOST: Final = 5  # a customer who is told that it did not work pays again, so often


@pytest_asyncio.fixture(scope="module")
async def own(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OwnBooks]:
    folder = tmp_path_factory.mktemp("lossy")
    async with own_books(stack, folder, provider_timeout_ms=300) as opened:
        yield opened


class Counted(NamedTuple):
    """What the provider's own books say of orders and payments.

    double: orders with more than one charge that took money. lost: charges that took money of
    payments that are not successful, and the other way round. unclear: payments that were unknown
    at first.
    """

    orders: int
    charges: int
    double: int
    lost: int
    unclear: int
    differences: int


async def buy(own: OwnBooks, shop: Shop, places: asyncio.Semaphore) -> int:
    """One order, paid until it is not said to have failed; how often that was unclear."""
    async with places:
        key = await place(shop, {own.goods.variant: 1})
        for _ in range(TURNS_MOST):
            try:
                paid = (await pay(shop, key, "tok_approve", uuid4().hex, b"")).payment
            except Problem:  # an earlier payment of the order is in the way, as it has to be
                return 0
            if paid.state in UNSETTLED:
                return 1
            if paid.state == "SUCCESS":
                return 0
        return 0


async def crowd(own: OwnBooks, shop: Shop, customers: int, *, at_once: int) -> Counted:
    """So many customers in three thirds, each with another way to lose 30 % of the answers."""
    places, unclear, began = asyncio.Semaphore(at_once), 0, await _now(own)
    for number, loss in enumerate(LOSSES):
        behaviour = loss | {"share": SHARE, "seed": number}
        (await own.http.put("/behaviour", json=behaviour)).raise_for_status()
        some = customers // 3 + (number < customers % 3)
        unclear += sum(await asyncio.gather(*(buy(own, shop, places) for _ in range(some))))
    (await own.http.put("/behaviour", json={})).raise_for_status()
    return await counted(own, began, unclear)


async def counted(own: OwnBooks, began: object, unclear: int) -> Counted:
    rows = await own.books.rows(
        "select payment_id, order_id, state from payments where created_at >= $1", began
    )
    payments = {str(row["payment_id"]): row for row in rows}
    taken = [one for one in await listed(own) if one in payments]
    by_order = Counter(payments[one]["order_id"] for one in taken)
    succeeded = {one for one, row in payments.items() if row["state"] == "SUCCESS"}
    return Counted(
        orders=len({row["order_id"] for row in rows}),
        charges=len(taken),
        double=sum(count > 1 for count in by_order.values()),
        lost=len(set(taken) ^ succeeded),
        unclear=unclear,
        differences=len([one for one in await own.differences() if not one.in_flight]),
    )


async def listed(own: OwnBooks) -> list[str]:
    """The keys of all charges that took money."""
    keys: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
        page = (await own.http.get("/charges", params=query)).raise_for_status().json()
        keys += [one["charge_key"] for one in page["items"] if one["status"] == "approved"]
        cursor = page["next_cursor"]
        if cursor is None:
            return keys


async def _now(own: OwnBooks) -> object:
    return await own.books.value("select clock_timestamp()")


async def unsettled(own: OwnBooks, older_than_s: float = -1.0) -> int:
    sql = (
        "select count(*) from payments where state in ('INIT', 'PENDING', 'UNKNOWN')"
        " and created_at < clock_timestamp() - $1::float8 * interval '1 second'"
    )
    return int(await own.books.value(sql, older_than_s))


async def settle_all(own: OwnBooks, shop: Shop) -> None:
    """Reconcile, as if the times of all checks had come."""
    for _ in range(20):
        await own.books.rows(
            "update payments set next_check_at = now()"
            " where state in ('INIT', 'PENDING', 'UNKNOWN')"
        )
        while await reconcile.run_once(shop):
            pass
        if not await unsettled(own):
            return
    raise AssertionError(f"{await unsettled(own)} payments are not settled")


async def test_nothing_is_charged_twice_or_lost_when_the_provider_charges_and_does_not_say_so(
    own: OwnBooks,
) -> None:
    """Experiment 24, the short form."""
    began = await _now(own)
    before = await crowd(own, own.shop, 200, at_once=40)
    assert before.unclear > 20, "the provider has lost too few answers"
    await settle_all(own, own.shop)
    after = await counted(own, began, before.unclear)
    assert (after.double, after.lost, after.differences) == (0, 0, 0)
    assert after.orders == 200
    proofs = await prove_books(own.shop.provider, own.shop.database.primary, timeout_s=5)
    assert [proof for proof in proofs if proof.broken] == []
    assert await own.books.broken_rules() == []


class Naive:
    """An adapter as they are often written: what was not answered has failed."""

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider

    async def charge(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        outcome = await self._provider.charge(order, deadline)
        return Declined("no_answer") if isinstance(outcome, Unknown) else outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


@pytest.mark.faults
async def test_an_adapter_that_takes_silence_for_a_no_charges_twice_and_is_caught(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The planted bug: the same crowd, the same checks."""
    folder = tmp_path_factory.mktemp("naive")
    async with own_books(stack, folder, provider_timeout_ms=300) as own:
        naive = replace(own.shop, provider=Naive(own.shop.provider), _batchers={})
        found = await crowd(own, naive, 30, at_once=10)
        assert found.double > 0
        assert found.lost > 0
        assert found.differences > 0


@pytest.mark.faults
@pytest.mark.timeout(600)  # ten thousand orders and payments in one process are minutes
async def test_ten_thousand_payments_with_three_answers_in_ten_lost(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Experiment 24, the long form: reconcile runs beside it, at its own pace."""
    folder = tmp_path_factory.mktemp("ten-thousand")
    async with own_books(stack, folder, provider_timeout_ms=300) as own:
        began, began_at = await _now(own), time.monotonic()
        worker = asyncio.create_task(reconcile.run(own.shop))
        try:
            before = await crowd(own, own.shop, 10_000, at_once=64)
            paid_s = time.monotonic() - began_at
            last_s = await _settled_within(own, 60.0)
        finally:
            await end_tasks(worker)
        open_after_60_s = await unsettled(own, 60.0)
        after = await counted(own, began, before.unclear)
        broken = await own.books.broken_rules()
        passed = (after.double, after.lost, after.differences, open_after_60_s, broken) == (
            0, 0, 0, 0, [])  # fmt: skip
        figures.record(
            24, "10,000 payments, 30 % of the answers lost", passed, seconds=paid_s,
            settled_s_after_the_last=last_s, open_after_60_s=open_after_60_s, **after._asdict(),
        )  # fmt: skip
        assert passed, (after, open_after_60_s, broken)
        assert after.unclear > 2_000


async def _settled_within(own: OwnBooks, within_s: float) -> float:
    """Seconds until nothing is unknown."""
    began_at = time.monotonic()

    async def nothing_is_open() -> bool:
        return not await unsettled(own)

    await until(nothing_is_open, within_s=within_s, what="every payment is settled")
    return time.monotonic() - began_at


class Away(NamedTuple):
    """While the provider was away and right after: payments tried, calls of it that were begun once
    the breaker was open, by the second, and how soon it was used again."""

    tried: int
    begun_by_second: float
    attempts_by_payment: float
    recovery_s: float


async def away(own: OwnBooks, seconds: float) -> Away:
    """Refuse every connection for so long, under payments that go on; then be there again."""
    upstream = own.shop.provider_upstream
    await own.provider.end(signal.SIGKILL)
    tried, opened_at, begun_at_open, begun = 0, 0.0, 0, upstream.tally.took.count
    began_at, first = time.monotonic(), begun
    while time.monotonic() - began_at < seconds:
        key = await place(own.shop, {own.goods.variant: 1})
        refused_before = upstream.tally.refused[BREAKER]
        payment = (await pay(own.shop, key, "tok_approve", uuid4().hex, b"")).payment
        assert payment.state == "ERRORED", "a refused connection has certainly not charged"
        tried += 1
        if not opened_at and upstream.tally.refused[BREAKER] > refused_before:
            opened_at, begun_at_open = time.monotonic(), upstream.tally.took.count
        await asyncio.sleep(0.01)
    assert opened_at, "the breaker did not open"
    begun = upstream.tally.took.count
    await own.provider.start()
    back_at = time.monotonic()
    while True:
        key = await place(own.shop, {own.goods.variant: 1})
        if (await pay(own.shop, key, "tok_approve", uuid4().hex, b"")).payment.state == "SUCCESS":
            break
        assert time.monotonic() - back_at < 30, "it is not used again"
        await asyncio.sleep(0.02)
    return Away(
        tried,
        (begun - begun_at_open) / (began_at + seconds - opened_at),
        (begun - first) / tried,
        time.monotonic() - back_at,
    )


def good(found: Away) -> bool:
    return (
        found.begun_by_second <= 1.0 and found.attempts_by_payment <= 1.1 and found.recovery_s <= 6
    )


@pytest.mark.faults
async def test_a_provider_that_refuses_connections_is_left_alone_and_used_again(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Experiment 23, the short form."""
    async with own_books(stack, tmp_path_factory.mktemp("away")) as own:
        found = await away(own, 2.0)
        assert good(found), found
        assert await own.differences() == []
        assert await own.books.broken_rules() == []


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_provider_that_refuses_connections_for_a_minute(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Experiment 23, the long form."""
    async with own_books(stack, tmp_path_factory.mktemp("away")) as own:
        found = await away(own, 60.0)
        differences, broken = await own.differences(), await own.books.broken_rules()
        passed = good(found) and (differences, broken) == ([], [])
        figures.record(23, "the provider refuses for a minute", passed, **found._asdict())
        assert passed, (found, differences, broken)


async def test_a_provider_that_is_late_gets_no_failure_and_its_word_is_taken(
    own: OwnBooks,
) -> None:
    """Experiment 22: the deadline ends the wait, not the payment; 300 ms stand for 3 s."""
    slow = {"mode": "slow", "delay_ms": 1_500}
    (await own.http.put("/behaviour", json=slow)).raise_for_status()
    try:
        began_at = time.monotonic()
        payment = await own.pay()
        assert time.monotonic() - began_at < 0.3 + 1.0  # the rest is a busy machine
        assert payment.state == "UNKNOWN"
    finally:
        (await own.http.put("/behaviour", json={})).raise_for_status()
    sql = "update payments set next_check_at = now() where payment_id = $1"
    await own.books.rows(sql, payment.payment_id)
    await reconcile.run_once(own.shop)
    await own.settled(payment.payment_id, "SUCCESS")
    assert await own.differences() == []


@pytest.mark.faults
async def test_what_the_provider_never_resolves_stays_open_and_one_alarm_is_raised(
    own: OwnBooks,
) -> None:
    """Experiment 28: 72 hours of checks, with the clock of the rows moved and not waited for."""
    (await own.http.put("/behaviour", json={"pending_ms": 600_000})).raise_for_status()
    pending = await own.pay("tok_pending")
    lost = await own.pay("tok_drop_after_charge")
    silent = {"mode": "error", "lookups": True}
    (await own.http.put("/behaviour", json=silent)).raise_for_status()
    ids = [pending.payment_id, lost.payment_id]
    try:
        with capture_logs() as logs:
            for _ in range(2 * HOURS):
                await own.books.rows(
                    "update payments set next_check_at = now(),"
                    " created_at = created_at - interval '30 minutes' where payment_id = any($1)",
                    ids,
                )
                await reconcile.run_once(own.shop)
    finally:
        (await own.http.put("/behaviour", json={})).raise_for_status()
    alarms = [line["payment_id"] for line in logs if line["event"] == "payment still unknown"]
    assert sorted(alarms) == sorted(str(one) for one in ids), "one for each"
    await own.settled(pending.payment_id, "PENDING")
    await own.settled(lost.payment_id, "UNKNOWN")
    async with open_shop(own.shop.settings) as fresh:  # the breaker of the other is open by now
        found = await own.differences(shop=fresh)
        assert {one.key for one in found} == {str(one) for one in ids}
        assert all(one.in_flight for one in found)
        own.change_theirs("update charges set becomes_at_ms = 1 where first_status = 'pending'")
        await settle_all(own, fresh)
        assert await own.differences(shop=fresh) == []
