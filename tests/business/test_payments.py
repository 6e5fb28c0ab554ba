"""Paying: every word of the provider and every silence, against its own ledger and our books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from infra.local.addresses import free_port
from services.business import reconcile
from services.business.payments import charge_and_settle, charge_order, claim, pay, settle
from services.business.provider import Approved, Declined, Unknown
from services.business.shop import Shop, open_shop
from services.data.orders import OrderKey
from services.data.payments import Payment, select_payment
from services.deadline import Deadline
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer, ProviderBooks, business_settings, place, statuses

SETTLED_WITHIN_S = 10.0
QUICK_MS = 300  # a provider that is silent for so long has not answered


@pytest_asyncio.fixture(scope="module")
async def impatient(stack: RunningStack) -> AsyncIterator[Shop]:
    """Business that waits for the provider for 0.3 s, so that silence is cheap to test."""
    async with open_shop(business_settings(stack, provider_timeout_ms=QUICK_MS)) as opened:
        yield opened


@asynccontextmanager
async def behaving(provider: ProviderBooks, **behaviour: object) -> AsyncIterator[None]:
    await provider.behave(**behaviour)
    try:
        yield
    finally:
        await provider.behave(mode="normal")


async def ask_now(books: Books, payment_id: object, *, age_s: int = 0) -> None:
    """Have reconcile ask at once, as if the payment were so old."""
    await books.rows(
        "update payments set next_check_at = now(), created_at = created_at - $2::interval"
        " where payment_id = $1", UUID(str(payment_id)), timedelta(seconds=age_s)
    )  # fmt: skip


async def becomes(books: Books, payment_id: object, state: str) -> None:
    """Wait until reconcile has brought it there."""

    async def is_there() -> bool:
        sql = "select state from payments where payment_id = $1"
        return bool(await books.value(sql, UUID(str(payment_id))) == state)

    await until(is_there, within_s=SETTLED_WITHIN_S, what=f"payment is {state}")


async def charged_payment(books: Books, provider: ProviderBooks, order_id: str) -> UUID:
    """The payment of an order, once the provider has charged it."""

    async def is_charged() -> bool:
        rows = await books.payments(order_id)
        return bool(rows) and bool(await provider.charges(rows[0]["payment_id"]))

    await until(is_charged, within_s=SETTLED_WITHIN_S, what="the provider has charged")
    payment_id: UUID = (await books.payments(order_id))[0]["payment_id"]
    return payment_id


async def order_key(books: Books, customer: Customer, lines: dict[UUID, int]) -> OrderKey:
    """A new order, as the code inside knows it."""
    order_id = UUID(await customer.placed(lines))
    sql = "select customer_id from orders where order_id = $1"
    return OrderKey(await books.value(sql, order_id), order_id)


async def check_paid_once(
    books: Books, provider: ProviderBooks, payment_id: object, variant: UUID
) -> None:
    """One charge at the provider, one transfer in the ledger, the stock sold, the order paid."""
    charges = await provider.charges(payment_id)
    transfers = await books.transfers(payment_id)
    assert [charge["status"] for charge in charges] == ["approved"]
    assert [row["amount_minor"] for row in transfers] == [charges[0]["amount_minor"]]
    assert (transfers[0]["debit_account"], transfers[0]["credit_account"]) == (
        "provider_clearing",
        "sales",
    )
    assert await books.stock(variant) == (98, 0, 2)
    sql = "select o.state from orders o join payments p using (order_id) where p.payment_id = $1"
    assert await books.value(sql, UUID(str(payment_id))) == "paid"


async def test_an_approved_payment_pays_the_order_and_sells_its_stock(
    books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    answer = await customer.pay(order_id)
    paid = answer.json()
    assert (answer.status_code, paid["state"]) == (201, "SUCCESS")
    assert paid["amount"] == {"amount_minor": 2000, "currency": "USD"}
    assert answer.headers["location"] == f"/payments/{paid['payment_id']}"
    assert await customer.payment_state(paid["payment_id"]) == "SUCCESS"
    order = (await customer.get(f"/orders/{order_id}")).json()
    assert (order["state"], [p["state"] for p in order["payments"]]) == ("paid", ["SUCCESS"])
    await check_paid_once(books, provider, paid["payment_id"], goods.variant)
    assert (await customer.pay(order_id)).status_code == 409


@pytest.mark.parametrize(
    ("payment_method", "code"),
    [
        ("tok_decline", "card_declined"),
        ("tok_decline_funds", "insufficient_funds"),
        ("tok_nobody_knows_this", "invalid_payment_method"),
    ],
)
async def test_after_a_declined_payment_the_order_can_be_paid_otherwise(
    payment_method: str, code: str, books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    declined = await customer.pay(order_id, payment_method)
    assert (declined.status_code, declined.json()["state"]) == (201, "FAILED")
    assert declined.json()["decline_code"] == code
    assert await books.transfers(declined.json()["payment_id"]) == []
    assert await books.stock(goods.variant) == (98, 2, 0)
    paid = await customer.pay(order_id)
    assert paid.json()["state"] == "SUCCESS"
    await check_paid_once(books, provider, paid.json()["payment_id"], goods.variant)


@pytest.mark.parametrize(
    ("payment_method", "final"), [("tok_pending", "SUCCESS"), ("tok_pending_decline", "FAILED")]
)
async def test_a_pending_payment_is_settled_when_the_provider_has_decided(
    payment_method: str, final: str, books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    key = uuid4().hex
    async with behaving(provider, mode="normal", pending_ms=200):
        answer = await customer.pay(order_id, payment_method, key=key)
    payment_id = answer.json()["payment_id"]
    assert (answer.status_code, answer.json()["state"]) == (202, "PENDING")
    assert answer.headers["retry-after"] == "2"
    second = await customer.pay(order_id)
    assert (second.status_code, second.json()["type"]) == (409, "/problems/order-not-payable")
    await becomes(books, payment_id, final)
    replayed = await customer.pay(order_id, payment_method, key=key)
    assert replayed.headers["idempotent-replayed"] == "true"
    assert (replayed.status_code, replayed.json()["state"]) == (201, final)
    sold = (98, 0, 2) if final == "SUCCESS" else (98, 2, 0)
    assert await books.stock(goods.variant) == sold


@pytest.mark.parametrize("payment_method", ["tok_drop_after_charge", "tok_error_after_charge"])
async def test_a_charge_whose_answer_was_lost_is_unknown_and_then_found(
    payment_method: str, books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    answer = await customer.pay(order_id, payment_method)
    payment_id = answer.json()["payment_id"]
    assert (answer.status_code, answer.json()["state"]) == (202, "UNKNOWN")
    assert (await customer.pay(order_id)).status_code == 409
    await ask_now(books, payment_id)
    await becomes(books, payment_id, "SUCCESS")
    await check_paid_once(books, provider, payment_id, goods.variant)


async def test_a_slow_charge_is_unknown_and_then_found(
    books: Books, provider: ProviderBooks, customer: Customer, impatient: Shop
) -> None:
    goods = await books.goods()
    key = await order_key(books, customer, {goods.variant: 2})
    paid = await pay(impatient, key, "tok_slow", uuid4().hex, b"body")
    assert paid.payment.state == "UNKNOWN"
    await ask_now(books, paid.payment.payment_id)
    await becomes(books, paid.payment.payment_id, "SUCCESS")
    await check_paid_once(books, provider, paid.payment.payment_id, goods.variant)


@pytest.mark.parametrize("payment_method", ["tok_hang", "tok_error"])
async def test_silence_is_given_up_only_on_the_providers_evidence_after_the_grace(
    payment_method: str,
    books: Books,
    provider: ProviderBooks,
    customer: Customer,
    impatient: Shop,
) -> None:
    goods = await books.goods()
    key = await order_key(books, customer, {goods.variant: 2})
    paid = await pay(impatient, key, payment_method, uuid4().hex, b"body")
    payment_id = paid.payment.payment_id
    assert paid.payment.state == "UNKNOWN"
    # The provider has never seen it, but it is young: it may still be on its way.
    await ask_now(books, payment_id)
    sql = "select check_count from payments where payment_id = $1"
    asked = await books.value(sql, payment_id)

    async def was_asked() -> bool:
        return bool(await books.value(sql, payment_id) > asked)

    await until(was_asked, within_s=SETTLED_WITHIN_S, what="reconcile has asked")
    assert (await books.payments(str(key.order_id)))[0]["state"] == "UNKNOWN"
    await ask_now(books, payment_id, age_s=60)
    await becomes(books, payment_id, "ERRORED")
    assert await provider.charges(payment_id) == []
    assert await books.stock(goods.variant) == (98, 2, 0)
    assert (await customer.pay(str(key.order_id))).json()["state"] == "SUCCESS"


async def test_a_provider_that_is_down_is_said_to_have_charged_nothing(
    stack: RunningStack, books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    key = await order_key(books, customer, {goods.variant: 2})
    nobody = f"http://127.0.0.1:{free_port()}"
    async with open_shop(business_settings(stack, provider_url=nobody)) as shop:
        paid = await pay(shop, key, "tok_approve", uuid4().hex, b"body")
    assert paid.payment.state == "ERRORED"
    assert paid.payment.detail.startswith("It was not charged")
    assert await provider.charges(paid.payment.payment_id) == []
    assert await books.stock(goods.variant) == (98, 2, 0)
    assert (await customer.pay(str(key.order_id))).json()["state"] == "SUCCESS"


async def test_another_amount_at_the_provider_is_never_booked(
    lab_shop: Shop, lab_books: Books, provider: ProviderBooks
) -> None:
    """In the laboratory: it stays open, and on the stack somebody may wait for all to be final."""
    goods = await lab_books.goods()
    key = await place(lab_shop, {goods.variant: 2})
    claimed = await claim(lab_shop, key, "tok_approve", uuid4().hex, b"body")
    payment_id = claimed.payment.payment_id
    wrong = {
        "charge_key": str(payment_id),
        "amount_minor": 1999,
        "currency": "USD",
        "payment_method": "tok_approve",
    }
    (await provider.http.post("/charges", json=wrong)).raise_for_status()
    charged = await charge_and_settle(lab_shop, claimed.payment, Deadline.after(5.0))
    assert charged is not None
    assert charged.state == "UNKNOWN"
    await ask_now(lab_books, payment_id, age_s=60)

    async def is_noticed() -> bool:
        await reconcile.run_once(lab_shop)
        detail = (await lab_books.payments(str(key.order_id)))[0]["detail"]
        return "another amount" in detail

    await until(is_noticed, within_s=SETTLED_WITHIN_S, what="reconcile has seen the amount")
    assert (await lab_books.payments(str(key.order_id)))[0]["state"] == "UNKNOWN"
    assert await lab_books.transfers(payment_id) == []
    assert await lab_books.stock(goods.variant) == (98, 2, 0)


async def test_twenty_submits_with_one_key_make_one_charge(
    books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    key = uuid4().hex
    answers = await asyncio.gather(*(customer.pay(order_id, key=key) for _ in range(20)))
    assert set(statuses(answers)) <= {201, 409}
    busy = {a.json()["type"] for a in answers if a.status_code == 409}
    assert busy <= {"/problems/idempotency-key-running"}
    made = {a.json()["payment_id"] for a in answers if a.status_code == 201}
    assert len(made) == 1
    await check_paid_once(books, provider, made.pop(), goods.variant)


async def test_sixty_repeats_of_an_answered_key_are_all_answered(
    books: Books, customer: Customer
) -> None:
    """A repeat needs one connection, not two: more repeats than the pool has places."""
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    key = uuid4().hex
    first = await customer.pay(order_id, key=key)
    answers = await asyncio.gather(*(customer.pay(order_id, key=key) for _ in range(60)))
    assert statuses(answers) == [201] * 60
    assert {answer.content for answer in answers} == {first.content}
    assert {answer.headers["idempotent-replayed"] for answer in answers} == {"true"}


async def test_twenty_payments_with_keys_of_their_own_make_one_charge(
    books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    answers = await asyncio.gather(*(customer.pay(order_id) for _ in range(20)))
    assert statuses(answers) == [201] + [409] * 19
    payments = await books.payments(order_id)
    assert [row["state"] for row in payments] == ["SUCCESS"]
    await check_paid_once(books, provider, payments[0]["payment_id"], goods.variant)


async def test_a_key_that_paid_one_thing_pays_no_other(books: Books, customer: Customer) -> None:
    goods = await books.goods()
    first, second = [await customer.placed({goods.variant: 1}) for _ in range(2)]
    key = uuid4().hex
    assert (await customer.pay(first, key=key)).status_code == 201
    for order_id, method in ((first, "tok_decline"), (second, "tok_approve")):
        answer = await customer.pay(order_id, method, key=key)
        assert answer.status_code == 422
        assert answer.json()["type"] == "/problems/idempotency-key-reused"
    assert (await customer.pay(second)).status_code == 201


async def test_another_customers_payment_is_as_unknown_as_none(
    books: Books, http: httpx.AsyncClient
) -> None:
    goods = await books.goods()
    owner, other = Customer(http), Customer(http)
    paid = await owner.pay(await owner.placed({goods.variant: 1}))
    await other.placed({goods.variant: 1})
    payment_id = paid.json()["payment_id"]
    assert (await other.get(f"/payments/{payment_id}")).status_code == 404
    assert (await other.get(f"/payments/{uuid4()}")).status_code == 404
    assert (await Customer(http).get(f"/payments/{payment_id}")).status_code == 401
    assert (await owner.get("/payments/0")).status_code == 400


@pytest.mark.parametrize(
    "body",
    [{}, {"payment_method": "4242424242424242"}, {"payment_method": "tok_approve", "amount": 1}],
)
async def test_a_card_number_or_an_amount_is_refused(
    body: dict[str, object], books: Books, customer: Customer
) -> None:
    order_id = await customer.placed({(await books.goods()).variant: 1})
    answer = await customer.post(f"/orders/{order_id}/payments", body)
    assert answer.status_code == 422
    assert b"4242" not in answer.content
    assert await books.payments(order_id) == []


async def test_a_payment_needs_a_key_and_burns_none_when_refused(
    books: Books, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 1})
    missing = await customer.http.post(
        f"/orders/{order_id}/payments",
        json={"payment_method": "tok_approve"},
        headers={"authorization": f"Bearer {customer.token}"},
    )
    assert missing.status_code == 400
    key = uuid4().hex
    assert (await customer.pay(str(uuid4()), key=key)).status_code == 404
    assert (await customer.pay(order_id, key=key)).status_code == 201


async def test_an_order_whose_hold_is_over_can_not_be_paid(
    books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    """Also in the moment before the expiry worker has come by."""
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 1})
    await books.rows(
        "update orders set hold_expires_at = now() - interval '1 second' where order_id = $1",
        UUID(order_id),
    )
    answer = await customer.pay(order_id)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/order-not-payable")
    assert await books.payments(order_id) == []


async def test_a_client_that_leaves_does_not_stop_its_payment(
    stack: RunningStack, books: Books, provider: ProviderBooks, customer: Customer
) -> None:
    goods = await books.goods()
    order_id = await customer.placed({goods.variant: 2})
    body = b'{"payment_method":"tok_approve"}'
    head = (
        f"POST /orders/{order_id}/payments HTTP/1.1\r\nhost: shop\r\n"
        f"authorization: Bearer {customer.token}\r\nidempotency-key: {uuid4().hex}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    host, port = stack.part("access")["address"].split(":")
    async with behaving(provider, mode="slow", delay_ms=400):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + body)
        payment_id = await charged_payment(books, provider, order_id)
        writer.transport.abort()
        await becomes(books, payment_id, "SUCCESS")
    await check_paid_once(books, provider, payment_id, goods.variant)


async def test_a_cancelled_request_goes_on_charging_and_settles(
    books: Books, provider: ProviderBooks, customer: Customer, shop: Shop
) -> None:
    goods = await books.goods()
    key = await order_key(books, customer, {goods.variant: 2})
    async with behaving(provider, mode="slow", delay_ms=400):
        paying = asyncio.create_task(pay(shop, key, "tok_approve", uuid4().hex, b"body"))

        payment_id = await charged_payment(books, provider, str(key.order_id))
        paying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await paying
        await becomes(books, payment_id, "SUCCESS")
    await check_paid_once(books, provider, payment_id, goods.variant)


async def settled_payment(shop: Shop, payment: Payment) -> Payment:
    found = await select_payment(shop.database.primary, payment.customer_id, payment.payment_id)
    assert found is not None
    return found


async def test_settling_again_changes_nothing_whatever_is_said(
    books: Books, customer: Customer, shop: Shop
) -> None:
    goods = await books.goods()
    key = await order_key(books, customer, {goods.variant: 2})
    paid = await pay(shop, key, "tok_approve", uuid4().hex, b"body")
    for outcome in (Approved("another"), Declined("card_declined"), Unknown("lost")):
        await settle(shop, paid.payment, outcome)
        assert await settled_payment(shop, paid.payment) == paid.payment
    assert len(await books.transfers(paid.payment.payment_id)) == 1
    assert await books.stock(goods.variant) == (98, 0, 2)


async def test_two_that_settle_at_once_book_once(
    books: Books, customer: Customer, shop: Shop
) -> None:
    goods = await books.goods()
    key = await order_key(books, customer, {goods.variant: 2})
    claimed = await claim(shop, key, "tok_approve", uuid4().hex, b"body")
    outcome = await shop.provider.charge(
        charge_order(claimed.payment), Deadline.after(SETTLED_WITHIN_S)
    )
    settled = await asyncio.gather(*(settle(shop, claimed.payment, outcome) for _ in range(8)))
    assert {payment.state for payment in settled} == {"SUCCESS"}
    assert len(await books.transfers(claimed.payment.payment_id)) == 1
    assert await books.stock(goods.variant) == (98, 0, 2)
