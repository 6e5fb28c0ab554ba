"""Captures, voids and refunds: every word of the provider, in our books and in its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from services.business import reconcile
from services.business.followup_claims import CLAIM_FOLLOWUPS, Claimed, FollowUp
from services.business.followups import follow_up, send_and_settle, settle_followup
from services.business.order_states import move_orders
from services.business.payments import charge_order, claim, pay, settle
from services.business.provider import Approved, Declined, Unknown
from services.business.shop import Shop, open_shop
from services.data import orders
from services.data.customers import OPERATOR
from services.data.idempotency import Key
from services.data.payment_operations import Kind
from services.data.payments import CaptureMethod, Payment
from services.data.stock import release_stock
from services.deadline import Deadline
from services.problems import OperationNotAllowed
from tests.laboratory import OwnDatabase
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer, ProviderBooks, http_client, place

TOTAL_MINOR = 2000
QUICK_MS = 500
NEVER_IN_TIME = ("tok_operations_slow", "tok_operations_hang")


@pytest_asyncio.fixture
async def lab_shop(laboratory: OwnDatabase) -> AsyncIterator[Shop]:
    """A new one for each test: its breakers are closed."""
    async with open_shop(laboratory.settings()) as opened:
        yield opened


def impatient(shop: Shop) -> Shop:
    """The same, for what the provider keeps waiting: it is not waited for as long as usual."""
    quick = shop.settings.model_copy(update={"provider_timeout_ms": QUICK_MS})
    return replace(shop, settings=quick)


@pytest_asyncio.fixture(autouse=True)
async def nothing_else_is_due(lab_books: Books) -> None:
    await lab_books.rows("update payments set next_check_at = now() + interval '1 hour'")
    await lab_books.rows("update payment_operations set next_check_at = now() + interval '1 hour'")


@pytest_asyncio.fixture(scope="module")
async def operator(stack: RunningStack, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    token = f"Bearer {stack.secret('operator_token')}"
    async with http_client(base_url, authorization=token) as client:
        yield client


async def paid(
    shop: Shop, books: Books, method: str = "tok_approve", capture: CaptureMethod = "manual"
) -> Payment:
    """A successful payment of TOTAL_MINOR."""
    goods = await books.goods(available=10)
    key = await place(shop, {goods.variant: 2})
    made = (await pay(shop, key, method, uuid4().hex, b"", capture=capture)).payment
    assert made.state == "SUCCESS"
    return made


def asked(payment: Payment, kind: Kind, amount_minor: int | None = None) -> FollowUp:
    currency = None if amount_minor is None else "USD"
    key = Key(OPERATOR, kind, uuid4().hex, b"")
    return FollowUp(payment.payment_id, kind, key, amount_minor, currency)


async def do(shop: Shop, payment: Payment, kind: Kind, amount_minor: int | None = None) -> Claimed:
    return await follow_up(shop, asked(payment, kind, amount_minor))


async def sums(books: Books, payment: Payment) -> tuple[int, int, int, int]:
    """Capturing, captured, refunding, refunded."""
    (row,) = await books.rows(
        "select capturing_minor, captured_minor, refunding_minor, refunded_minor"
        " from payments where payment_id = $1", payment.payment_id
    )  # fmt: skip
    return tuple(row)


async def state_of(books: Books, payment: Payment) -> str:
    sql = "select state from orders where order_id = $1"
    return str(await books.value(sql, payment.order_id))


async def stock_of(books: Books, payment: Payment) -> tuple[int, int, int]:
    sql = "select variant_id from order_lines where order_id = $1"
    return await books.stock(await books.value(sql, payment.order_id))


async def booked(books: Books, cause_id: UUID) -> list[tuple[str, str, int]]:
    rows = await books.transfers(cause_id)
    return [(row["debit_account"], row["credit_account"], row["amount_minor"]) for row in rows]


async def is_due(books: Books, operation_id: UUID, *, age_s: int = 0, checks: int = 0) -> None:
    await books.rows(
        "update payment_operations set next_check_at = now(), check_count = $3,"
        " created_at = created_at - $2::interval where operation_id = $1",
        operation_id, timedelta(seconds=age_s), checks,
    )  # fmt: skip


async def test_an_authorisation_sells_the_stock_and_its_first_capture_pays_the_order(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await paid(lab_shop, lab_books)
    assert await state_of(lab_books, payment) == "authorized"
    assert await stock_of(lab_books, payment) == (8, 0, 2)
    assert await booked(lab_books, payment.payment_id) == []
    first = await do(lab_shop, payment, "capture", 500)
    assert (first.operation.state, await state_of(lab_books, payment)) == ("SUCCESS", "paid")
    rest = await do(lab_shop, payment, "capture")
    assert rest.operation.amount_minor == 1500
    assert await sums(lab_books, payment) == (0, TOTAL_MINOR, 0, 0)
    transfers = await booked(lab_books, first.operation.operation_id)
    assert transfers == [("provider_clearing", "sales", 500)]
    with pytest.raises(OperationNotAllowed):
        await do(lab_shop, payment, "capture", 1)
    assert await lab_books.broken_rules() == []


async def test_a_void_cancels_the_order_and_brings_its_stock_back(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await paid(lab_shop, lab_books)
    assert (await do(lab_shop, payment, "void")).operation.state == "SUCCESS"
    assert await state_of(lab_books, payment) == "cancelled"
    assert await stock_of(lab_books, payment) == (10, 0, 0)
    moved = "select array_agg(to_state order by created_at) from order_events where order_id = $1"
    assert await lab_books.value(moved, payment.order_id) == ["placed", "authorized", "cancelled"]
    for kind in ("capture", "void", "refund"):
        with pytest.raises(OperationNotAllowed):
            await do(lab_shop, payment, kind)
    assert await lab_books.broken_rules() == []


async def test_a_whole_refund_in_parts_makes_the_order_refunded(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await paid(lab_shop, lab_books, capture="automatic")
    first = await do(lab_shop, payment, "refund", 500)
    assert await state_of(lab_books, payment) == "paid"
    assert await booked(lab_books, first.operation.operation_id) == [
        ("refunds", "provider_clearing", 500)
    ]
    await do(lab_shop, payment, "refund")
    assert await state_of(lab_books, payment) == "refunded"
    assert await sums(lab_books, payment) == (0, TOTAL_MINOR, 0, TOTAL_MINOR)
    assert await stock_of(lab_books, payment) == (8, 0, 2)
    assert await lab_books.broken_rules() == []


@pytest.mark.parametrize(
    ("method", "state"),
    [
        ("tok_operations_decline", "FAILED"),
        ("tok_operations_pending", "PENDING"),
        ("tok_operations_drop", "UNKNOWN"),
        ("tok_operations_error", "UNKNOWN"),
        ("tok_operations_slow", "UNKNOWN"),
        ("tok_operations_hang", "UNKNOWN"),
    ],
)
@pytest.mark.parametrize("kind", ["capture", "void", "refund"])
async def test_what_the_provider_says_or_hides_becomes_a_state(
    kind: Kind, method: str, state: str, lab_shop: Shop, lab_books: Books
) -> None:
    payment = await paid(
        lab_shop, lab_books, method, capture="automatic" if kind == "refund" else "manual"
    )
    asking = impatient(lab_shop) if method in NEVER_IN_TIME else lab_shop
    operation = (await do(asking, payment, kind)).operation
    assert operation.state == state
    reserved = 0 if state == "FAILED" else TOTAL_MINOR
    capturing, captured, refunding, refunded = await sums(lab_books, payment)
    assert captured + refunded == (TOTAL_MINOR if kind == "refund" else 0)
    assert (capturing, refunding) == (
        reserved * (kind == "capture"),
        reserved * (kind == "refund"),
    )
    if state == "UNKNOWN":
        await is_due(lab_books, operation.operation_id, age_s=40)
        await reconcile.run_once(lab_shop)
        final = "ERRORED" if method == "tok_operations_hang" else "SUCCESS"
        sql = "select state from payment_operations where operation_id = $1"
        assert await lab_books.value(sql, operation.operation_id) == final
        assert await sums(lab_books, payment) == {
            ("capture", "SUCCESS"): (0, TOTAL_MINOR, 0, 0),
            ("refund", "SUCCESS"): (0, TOTAL_MINOR, 0, TOTAL_MINOR),
            ("refund", "ERRORED"): (0, TOTAL_MINOR, 0, 0),
        }.get((kind, final), (0, 0, 0, 0))
    assert await lab_books.broken_rules() == []


async def test_an_operation_is_settled_once_however_often_it_is_told(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await paid(lab_shop, lab_books)
    done = await do(lab_shop, payment, "capture", 700)
    for outcome in (Approved("again"), Declined("no"), Unknown("lost"), Approved("again")):
        again = await settle_followup(lab_shop, done.operation, payment, outcome)
        assert again.state == "SUCCESS"
    assert await sums(lab_books, payment) == (0, 700, 0, 0)
    assert len(await booked(lab_books, done.operation.operation_id)) == 1
    assert await lab_books.broken_rules() == []


async def expire_though_paying(shop: Shop, payment: Payment) -> None:
    """As the expiry worker does after 15 minutes."""
    async with shop.database.primary.transaction() as tx:
        moved = await orders.move_holds(tx, [payment.order_key], was="paying", becomes="expired")
        await release_stock(tx, list(moved.values()))
        await move_orders(tx, [payment.order_key], "expired", "not_paid_in_time")


async def late_success(shop: Shop, books: Books, capture: CaptureMethod, method: str) -> Payment:
    """A payment whose charge stands, of an order that expired before this was known."""
    goods = await books.goods(available=10)
    key = await place(shop, {goods.variant: 2})
    made = (await claim(shop, key, method, uuid4().hex, b"", capture=capture)).payment
    await expire_though_paying(shop, made)
    outcome = await shop.provider.charge(charge_order(made), Deadline.after(0.5))
    return await settle(shop, made, outcome)


@pytest.mark.parametrize(("capture", "kind"), [("automatic", "refund"), ("manual", "void")])
async def test_money_that_comes_too_late_is_owed_and_given_back(
    capture: CaptureMethod, kind: str, lab_shop: Shop, lab_books: Books
) -> None:
    payment = await late_success(lab_shop, lab_books, capture, "tok_approve")
    (made,) = await lab_books.rows(
        "select * from payment_operations where payment_id = $1", payment.payment_id
    )
    assert (made["kind"], made["cause"], made["state"]) == (kind, "order_ended", "INIT")
    owed = [("provider_clearing", "unapplied_receipts", TOTAL_MINOR)]
    assert await booked(lab_books, payment.payment_id) == (owed if kind == "refund" else [])
    assert await lab_books.broken_rules() == []
    assert await reconcile.run_once(lab_shop) == 1
    back = [("unapplied_receipts", "provider_clearing", TOTAL_MINOR)]
    assert await booked(lab_books, made["operation_id"]) == (back if kind == "refund" else [])
    assert await state_of(lab_books, payment) == "expired"
    assert await stock_of(lab_books, payment) == (10, 0, 0)
    assert await lab_books.broken_rules() == []


async def test_what_is_owed_is_sent_again_until_it_is_done_and_called_out_once(
    lab_shop: Shop, lab_books: Books, provider: ProviderBooks
) -> None:
    payment = await late_success(lab_shop, lab_books, "automatic", "tok_approve")
    sql = "select operation_id from payment_operations where payment_id = $1"
    operation_id = await lab_books.value(sql, payment.payment_id)
    said = []
    await provider.behave(mode="refuse", lookups=True)
    try:
        for hours in (1, 72):
            await is_due(lab_books, operation_id, age_s=3600 * hours, checks=8)
            with capture_logs() as logs:
                await reconcile.run_once(lab_shop)
            said += [line["event"] for line in logs if line["log_level"] == "error"]
    finally:
        await provider.behave(mode="normal")
    assert said == ["operation still unknown"]
    (row,) = await lab_books.rows(
        "select state, next_check_at - now() <= $2 as is_checked from payment_operations"
        " where operation_id = $1", operation_id, reconcile.LONGEST_WAIT
    )  # fmt: skip
    assert tuple(row) == ("UNKNOWN", True)
    await is_due(lab_books, operation_id)
    async with open_shop(lab_shop.settings) as fresh:  # whose breaker is closed
        await reconcile.run_once(fresh)
    assert await sums(lab_books, payment) == (0, TOTAL_MINOR, 0, TOTAL_MINOR)
    assert await lab_books.broken_rules() == []


async def test_a_process_that_ends_before_it_sends_leaves_it_to_reconcile(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await paid(lab_shop, lab_books)
    claimed = await lab_shop.join(CLAIM_FOLLOWUPS, asked(payment, "capture", 300))
    await is_due(lab_books, claimed.operation.operation_id)
    await reconcile.run_once(lab_shop)
    assert await sums(lab_books, payment) == (300, 0, 0, 0), "it may still arrive"
    late = await send_and_settle(lab_shop, claimed.operation, payment, Deadline.after(5.0))
    assert late is not None
    assert late.state == "SUCCESS"
    assert await sums(lab_books, payment) == (0, 300, 0, 0)


async def authorised(books: Books, customer: Customer, capture: str = "manual") -> dict[str, Any]:
    goods = await books.goods(available=10)
    order_id = await customer.placed({goods.variant: 2})
    body = {"payment_method": "tok_approve", "capture": capture}
    answer = await customer.post(f"/orders/{order_id}/payments", body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_it_is_asked_for_over_http_and_shown_with_the_payment_and_the_order(
    books: Books, customer: Customer, operator: httpx.AsyncClient
) -> None:
    payment = await authorised(books, customer)
    path, key = f"/payments/{payment['payment_id']}", {"idempotency-key": uuid4().hex}
    part = {"amount": {"amount_minor": 1200, "currency": "USD"}}
    first = await operator.post(f"{path}/captures", json=part, headers=key)
    assert (first.status_code, first.json()["state"]) == (201, "SUCCESS")
    again = await operator.post(f"{path}/captures", json=part, headers=key)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    reused = await operator.post(f"{path}/captures", json={}, headers=key)
    assert reused.status_code == 422
    refund = {"amount": {"amount_minor": 200, "currency": "USD"}, "reason": "one was broken"}
    await operator.post(f"{path}/refunds", json=refund, headers={"idempotency-key": uuid4().hex})
    customer.forgetful = True
    await books.replayed()
    shown = (await customer.get(path)).json()
    assert [one["kind"] for one in shown["operations"]] == ["capture", "refund"]
    assert (shown["captured"]["amount_minor"], shown["refunded"]["amount_minor"]) == (1200, 200)
    order = (await customer.get(f"/orders/{payment['order_id']}")).json()
    assert order["state"] == "paid"
    assert order["payments"] == [shown]


ABOVE = {"amount": {"amount_minor": 2001, "currency": "USD"}}
EUROS = {"amount": {"amount_minor": 1, "currency": "EUR"}}
SENSELESS = [
    {"amount": {"amount_minor": amount_minor, "currency": "USD"}}
    for amount_minor in (-1, 0, 2**63, 1.5, "1")
]
REFUSED: list[tuple[str, Any, int, str]] = [
    ("refunds", ABOVE, 409, "operation-not-allowed"),
    ("refunds", EUROS, 422, "currency-mismatch"),
    *(("refunds", body, 422, "invalid-body") for body in SENSELESS),
    ("captures", {}, 409, "operation-not-allowed"),
    ("voids", {}, 409, "operation-not-allowed"),
    ("voids", ABOVE, 422, "invalid-body"),
]


async def test_amounts_that_can_not_be_are_refused_without_effect(
    books: Books, customer: Customer, operator: httpx.AsyncClient
) -> None:
    payment = await authorised(books, customer, "automatic")
    for what, body, status, problem in REFUSED:
        path = f"/payments/{payment['payment_id']}/{what}"
        refused = await operator.post(path, json=body, headers={"idempotency-key": uuid4().hex})
        assert (refused.status_code, refused.json()["type"]) == (status, f"/problems/{problem}")
    second = await customer.pay(payment["order_id"])
    assert (second.status_code, second.json()["type"]) == (409, "/problems/order-not-payable")
    made = "select count(*) from payment_operations where payment_id = $1"
    assert await books.value(made, UUID(payment["payment_id"])) == 0


async def test_only_an_operator_does_it(books: Books, customer: Customer) -> None:
    payment = await authorised(books, customer)
    for what in ("captures", "voids", "refunds"):
        answer = await customer.post(f"/payments/{payment['payment_id']}/{what}", {})
        assert answer.status_code == 403
