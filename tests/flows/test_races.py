"""Races over HTTP, as ACIDRain plays them (Warszawski and Bailis, SIGMOD 2017): one wins each.

Each has enough at once to fail on code that looks first and acts then; docs/orders.md says who
wins, and what the other is told.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from services.business.expiry import run_once
from services.business.shop import Shop
from services.tasks import end_tasks
from tests.shopping import Books, Customer, ProviderBooks, statuses

AT_ONCE: Final = 50
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.4
PAIRS: Final = 24  # orders that two want to move at the same moment


def kind(answer: httpx.Response) -> str:
    return str(answer.json().get("type", "")).removeprefix("/problems/")


async def insist(
    call: Callable[..., Awaitable[httpx.Response]], *args: Any, **kwargs: Any
) -> httpx.Response:
    """Come again when the shop, on a machine that is busy with other tests, lets nobody in.

    Later each time: fifty who knock at once keep the machine busier than what they ask for.
    """
    pause_s = FIRST_PAUSE_S
    while (answer := await call(*args, **kwargs)).status_code == 503:
        assert kind(answer) == "overloaded", answer.text
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return answer


async def buyers(http: httpx.AsyncClient, count: int) -> list[Customer]:
    """Customers whom the shop knows already."""
    made = [Customer(http) for _ in range(count)]
    for customer in made:
        await insist(customer.cart)
    return made


async def orders_of(customers: list[Customer], variant: UUID) -> list[str]:
    placed = [await insist(customer.order, {variant: 1}) for customer in customers]
    return [answer.json()["order_id"] for answer in placed]


async def states(customers: list[Customer], order_ids: list[str]) -> list[str]:
    shown = await asyncio.gather(
        *(
            one.get(f"/orders/{order_id}")
            for one, order_id in zip(customers, order_ids, strict=True)
        )
    )
    return [answer.json()["state"] for answer in shown]


async def test_a_cart_changed_during_checkout_is_ordered_as_it_was_shown_or_not_at_all(
    http: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods(available=10_000, variants=2, price_minor=100)
    first, second = goods.variants

    async def check_out(customer: Customer) -> list[httpx.Response]:
        """Two submits of what is shown, among changes of it."""
        shown = (await insist(customer.cart, {first: 1})).json()
        cart_id = shown["cart_id"]
        answers = await asyncio.gather(
            insist(customer.put_line, cart_id, first, 5),
            insist(customer.order_cart, shown),
            insist(customer.put_line, cart_id, second, 7),
            insist(customer.order_cart, shown),
            insist(customer.delete_line, cart_id, second),
        )
        ordered = [answer for answer in answers if answer.status_code == 201]
        for answer in ordered:
            assert [line["quantity"] for line in answer.json()["lines"]] == [1]
            assert answer.json()["total"] == shown["total"]
        assert len(ordered) <= 1
        refused = {kind(answer) for answer in answers if answer.status_code == 409}
        assert refused <= {"cart-changed", "cart-ordered"}
        if not ordered:
            now = next(a.json()["cart"] for a in answers if kind(a) == "cart-changed")
            assert now["version"] != shown["version"]
        return list(answers)

    customers = await buyers(http, PAIRS)
    answers = await asyncio.gather(*(check_out(customer) for customer in customers))
    assert set(statuses([answer for group in answers for answer in group])) <= {200, 201, 409}
    assert await books.broken_rules() == []


async def test_a_price_that_changes_during_checkout_is_never_paid_unseen(
    http: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods(available=10_000, price_minor=100)
    customers = await buyers(http, PAIRS)
    shown = [(await insist(customer.cart, {goods.variant: 1})).json() for customer in customers]

    async def to_and_fro() -> None:
        price_minor = 100
        while True:
            price_minor = 300 - price_minor
            await books.rows(
                "update variants set price_minor = $2 where variant_id = $1",
                goods.variant,
                price_minor,
            )

    changing = asyncio.create_task(to_and_fro())
    pairs = zip(customers, shown, strict=True)
    answers = await asyncio.gather(*(insist(one.order_cart, cart) for one, cart in pairs))
    await end_tasks(changing)
    for answer in answers:
        if answer.status_code == 201:
            assert answer.json()["total"]["amount_minor"] == 100
        else:
            assert kind(answer) == "cart-changed"
            assert answer.json()["cart"]["total"]["amount_minor"] == 200


async def test_of_fifty_buyers_of_the_last_unit_one_has_it(
    http: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods(available=1)
    customers = await buyers(http, AT_ONCE)
    carts = [
        (await insist(one.cart, {goods.variant: 1})).json() for one in customers[: AT_ONCE // 2]
    ]
    by_cart = zip(customers, carts, strict=False)
    answers = await asyncio.gather(
        *(insist(customer.order_cart, cart) for customer, cart in by_cart),
        *(insist(customer.order, {goods.variant: 1}) for customer in customers[AT_ONCE // 2 :]),
    )
    assert statuses(answers) == [201] + [409] * (AT_ONCE - 1)
    assert {kind(answer) for answer in answers} == {"", "out-of-stock"}
    assert await books.stock(goods.variant) == (0, 1, 0)


async def test_cancelling_against_paying_has_one_winner(
    http: httpx.AsyncClient, books: Books, provider: ProviderBooks
) -> None:
    goods = await books.goods(available=1000)
    customers = await buyers(http, PAIRS)
    order_ids = await orders_of(customers, goods.variant)

    async def both(number: int) -> tuple[httpx.Response, httpx.Response]:
        customer, order_id = customers[number], order_ids[number]
        if number % 2:
            return await asyncio.gather(
                insist(customer.pay, order_id), insist(customer.cancel, order_id)
            )
        cancelled, paid = await asyncio.gather(
            insist(customer.cancel, order_id), insist(customer.pay, order_id)
        )
        return paid, cancelled

    answers = await asyncio.gather(*(both(number) for number in range(PAIRS)))
    for paid, cancelled in answers:
        assert (paid.status_code, cancelled.status_code) in ((201, 409), (409, 200))
        assert kind(paid if paid.status_code == 409 else cancelled) in (
            "order-not-payable",
            "order-not-cancellable",
        )
    won = ["paid" if paid.status_code == 201 else "cancelled" for paid, _ in answers]
    assert await states(customers, order_ids) == won
    sold = won.count("paid")
    assert await books.stock(goods.variant) == (1000 - sold, 0, sold)
    for order_id, state in zip(order_ids, won, strict=True):
        payments = await books.payments(order_id)
        assert [row["state"] for row in payments] == ["SUCCESS"] * (state == "paid")
        for row in payments:
            assert len(await provider.charges(row["payment_id"])) == 1


async def hold_is_over(books: Books, order_ids: list[str]) -> None:
    """As if the time of the holds had passed, and that of the orders not: both may try."""
    await books.rows(
        "update stock_holds set expires_at = now() where order_id = any($1)",
        [UUID(order_id) for order_id in order_ids],
    )


async def test_cancelling_against_expiring_has_one_winner(
    http: httpx.AsyncClient, books: Books, shop: Shop
) -> None:
    goods = await books.goods(available=1000)
    customers = await buyers(http, PAIRS)
    order_ids = await orders_of(customers, goods.variant)
    cancelling = [
        asyncio.create_task(insist(one.cancel, order_id))
        for one, order_id in zip(customers, order_ids, strict=True)
    ]
    await hold_is_over(books, order_ids)
    await asyncio.gather(*(run_once(shop) for _ in range(3)))
    answers = await asyncio.gather(*cancelling)
    won = ["cancelled" if answer.status_code == 200 else "expired" for answer in answers]
    assert set(statuses(answers)) <= {200, 409}
    assert {kind(answer) for answer in answers} <= {"", "order-not-cancellable"}
    assert await states(customers, order_ids) == won
    assert await books.stock(goods.variant) == (1000, 0, 0)
    assert await books.broken_rules() == []


async def test_paying_against_expiring_has_one_winner(
    http: httpx.AsyncClient, books: Books, shop: Shop, provider: ProviderBooks
) -> None:
    goods = await books.goods(available=1000)
    customers = await buyers(http, PAIRS)
    order_ids = await orders_of(customers, goods.variant)
    paying = [
        asyncio.create_task(insist(one.pay, order_id))
        for one, order_id in zip(customers, order_ids, strict=True)
    ]
    await hold_is_over(books, order_ids)
    await asyncio.gather(*(run_once(shop) for _ in range(3)))
    answers = await asyncio.gather(*paying)
    assert set(statuses(answers)) <= {201, 409}
    assert {kind(answer) for answer in answers} <= {"", "order-not-payable"}
    won = ["paid" if answer.status_code == 201 else "expired" for answer in answers]
    assert await states(customers, order_ids) == won
    sold = won.count("paid")
    assert await books.stock(goods.variant) == (1000 - sold, 0, sold)
    for order_id, state in zip(order_ids, won, strict=True):
        payments = await books.payments(order_id)
        assert len(payments) == (state == "paid")
    assert await books.broken_rules() == []


async def test_fifty_requests_with_one_key_are_one_order_and_another_customers_is_another(
    http: httpx.AsyncClient, books: Books
) -> None:
    """Experiment 30."""
    goods = await books.goods(available=1000)
    customer, other = await buyers(http, 2)
    cart, key = (await insist(customer.cart, {goods.variant: 1})).json(), uuid4().hex
    answers = await asyncio.gather(
        *(insist(customer.order_cart, cart, key=key) for _ in range(AT_ONCE))
    )
    assert set(statuses(answers)) <= {201, 409}
    assert {kind(answer) for answer in answers} <= {"", "idempotency-key-running"}
    made = Counter(a.json()["order_id"] for a in answers if a.status_code == 201)
    assert len(made) == 1
    assert await books.stock(goods.variant) == (999, 1, 0)
    reused = await insist(customer.order, {goods.variant: 1}, key=key)
    assert (reused.status_code, kind(reused)) == (422, "idempotency-key-reused")
    theirs = await insist(other.order, {goods.variant: 1}, key=key)
    assert theirs.status_code == 201
    assert "idempotent-replayed" not in theirs.headers


async def test_fifty_payments_with_one_key_are_one_charge(
    http: httpx.AsyncClient, books: Books, provider: ProviderBooks
) -> None:
    goods = await books.goods(available=1000)
    customer, key = Customer(http), uuid4().hex
    order_id = await customer.placed({goods.variant: 1})
    answers = await asyncio.gather(
        *(insist(customer.pay, order_id, key=key) for _ in range(AT_ONCE))
    )
    assert set(statuses(answers)) <= {201, 202, 409}
    assert {kind(answer) for answer in answers} <= {"", "idempotency-key-running"}
    (payment,) = await books.payments(order_id)
    assert len(await provider.charges(payment["payment_id"])) == 1
