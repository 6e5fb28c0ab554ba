"""A guest's carts and orders come along at login, once, and to nobody else."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import httpx

from tests.accounts import Person, identity_of, problem_of, sha256_hex
from tests.shopping import Books, Customer, statuses


async def guest_at(person: Person) -> Customer:
    """A guest of business itself, with the token that it was given."""
    person.guest = Customer(person.business)
    return person.guest


async def order_by(
    person: Person, variant_id: UUID, quantity: int = 1, key: str | None = None
) -> httpx.Response:
    body = {"lines": [{"variant_id": str(variant_id), "quantity": quantity}]}
    answer = await person.asked("POST", "/orders", body, idempotency_key=key or uuid4().hex)
    if person.guest is not None and person.guest.token is None:
        person.guest.token = answer.json()["customer_token"]
    return answer


async def cart_of(person: Person, *lines: tuple[UUID, int]) -> dict[str, object]:
    body = {"lines": [{"variant_id": str(v), "quantity": q} for v, q in lines]}
    answer = await person.asked("POST", "/carts", body)
    assert answer.status_code == 201, answer.text
    found: dict[str, object] = answer.json()
    if person.guest is not None and person.guest.token is None:
        person.guest.token = str(found["customer_token"])
    return found


def quantities(cart: dict[str, object]) -> dict[str, int]:
    lines = cart["lines"]
    assert isinstance(lines, list)
    return {line["variant_id"]: line["quantity"] for line in lines}


async def test_a_guests_orders_are_read_paid_and_cancelled_after_login(
    person: Person, lab_books: Books
) -> None:
    goods = await lab_books.goods()
    await person.sign_up()
    browser = person.elsewhere()
    await guest_at(browser)
    first = (await order_by(browser, goods.variant)).json()["order_id"]
    second = (await order_by(browser, goods.variant)).json()["order_id"]
    guest_token = str(browser.guest and browser.guest.token)
    answer = await browser.log_in()
    assert answer.status_code == 201
    assert answer.headers.get_list("set-cookie")[1].startswith(
        "tercet_customer=; Path=/; Max-Age=0"
    )
    assert (await browser.asked("GET", f"/orders/{first}")).status_code == 200
    body = {"payment_method": "tok_approve"}
    paid = await browser.asked("POST", f"/orders/{first}/payments", body)
    assert paid.status_code == 201, paid.text
    payment = paid.json()["payment_id"]
    assert (await browser.asked("GET", f"/payments/{payment}")).status_code == 200
    cancelled = await browser.asked("PUT", f"/orders/{second}/cancellation")
    assert cancelled.json()["state"] == "cancelled"
    # Also with the account's other browser, and no more as the guest.
    assert (await person.asked("GET", f"/orders/{first}")).status_code == 200
    assert await identity_of(person.business, guest_token) is None
    # Nothing was moved: the books say what they said.
    assert await lab_books.broken_rules() == []


async def test_what_is_the_guests_is_nobody_elses(person: Person, lab_books: Books) -> None:
    goods = await lab_books.goods()
    await guest_at(person)
    order_id = (await order_by(person, goods.variant)).json()["order_id"]
    cart_id = (await cart_of(person, (goods.variant, 1)))["cart_id"]
    await person.sign_up()
    stranger = Person(person.business, lab_books)
    await guest_at(stranger)
    await order_by(stranger, goods.variant)
    await stranger.sign_up()
    pay = {"payment_method": "tok_approve"}
    for method, path, body in (
        ("GET", f"/orders/{order_id}", None),
        ("PUT", f"/orders/{order_id}/cancellation", None),
        ("POST", f"/orders/{order_id}/payments", pay),
        ("GET", f"/carts/{cart_id}", None),
        ("PUT", f"/carts/{cart_id}/lines/{goods.variant}", {"quantity": 2}),
        ("DELETE", f"/carts/{cart_id}/lines/{goods.variant}", None),
    ):
        answer = await stranger.asked(method, path, body)
        assert problem_of(answer) == (404, "not-found"), path
    assert (await person.asked("GET", f"/orders/{order_id}")).json()["state"] == "placed"


async def test_who_registers_keeps_what_it_ordered_as_a_guest(
    person: Person, lab_books: Books
) -> None:
    goods = await lab_books.goods()
    await guest_at(person)
    order_id = (await order_by(person, goods.variant)).json()["order_id"]
    assert (await person.sign_up()).status_code == 201
    assert (await person.asked("GET", f"/orders/{order_id}")).status_code == 200


async def test_the_guests_cart_is_merged_into_the_accounts(
    person: Person, lab_books: Books
) -> None:
    goods = await lab_books.goods(variants=3)
    one, two, three = goods.variants
    await person.sign_up()
    own = await cart_of(person, (one, 2), (two, 60))
    browser = person.elsewhere()
    await guest_at(browser)
    guests = await cart_of(browser, (two, 50), (three, 1))
    answer = await browser.log_in()
    assert answer.json()["cart_id"] == own["cart_id"]
    merged = (await browser.asked("GET", f"/carts/{own['cart_id']}")).json()
    assert quantities(merged) == {str(one): 2, str(two): 100, str(three): 1}
    assert merged["version"] != own["version"]
    # What was in the other one is there once.
    left = (await browser.asked("GET", f"/carts/{guests['cart_id']}")).json()
    assert left["lines"] == []
    body = {"cart_id": merged["cart_id"], "cart_version": merged["version"]}
    assert (await browser.asked("POST", "/orders", body)).status_code == 201


async def test_where_the_account_has_no_cart_the_guests_is_its_cart(
    person: Person, lab_books: Books
) -> None:
    goods = await lab_books.goods()
    await person.sign_up()
    browser = person.elsewhere()
    await guest_at(browser)
    cart = await cart_of(browser, (goods.variant, 2))
    answer = await browser.log_in()
    assert answer.json()["cart_id"] == cart["cart_id"]
    path = f"/carts/{cart['cart_id']}"
    changed = await browser.asked("PUT", f"{path}/lines/{goods.variant}", {"quantity": 3})
    assert changed.status_code == 200
    body = {"cart_id": cart["cart_id"], "cart_version": changed.json()["version"]}
    key = uuid4().hex
    ordered = await browser.asked("POST", "/orders", body, idempotency_key=key)
    assert ordered.status_code == 201
    again = await browser.asked("POST", "/orders", body, idempotency_key=key)
    assert again.headers["idempotent-replayed"] == "true"
    path = f"/orders/{ordered.json()['order_id']}"
    assert (await person.asked("GET", path)).status_code == 200


async def test_each_login_names_the_open_cart_and_brings_the_next_guests_things_into_it(
    person: Person, lab_books: Books
) -> None:
    """Also where it was a guest's: of the browser that logged in first."""
    goods = await lab_books.goods(variants=2)
    one, two = goods.variants
    await person.sign_up()
    assert (await person.elsewhere().log_in()).json()["cart_id"] is None
    first = person.elsewhere()
    await guest_at(first)
    cart = await cart_of(first, (one, 1))
    assert (await first.log_in()).json()["cart_id"] == cart["cart_id"]
    assert (await person.elsewhere().log_in()).json()["cart_id"] == cart["cart_id"]
    second = person.elsewhere()
    await guest_at(second)
    await cart_of(second, (one, 1), (two, 5))
    assert (await second.log_in()).json()["cart_id"] == cart["cart_id"]
    merged = (await second.asked("GET", f"/carts/{cart['cart_id']}")).json()
    assert quantities(merged) == {str(one): 2, str(two): 5}
    # What was emptied by that is not taken for the open one.
    assert (await person.elsewhere().log_in()).json()["cart_id"] == cart["cart_id"]


async def test_a_full_cart_takes_no_more_lines(person: Person, lab_books: Books) -> None:
    goods = await lab_books.goods(variants=52)
    await person.sign_up()
    await cart_of(person, *((variant, 1) for variant in goods.variants[:49]))
    browser = person.elsewhere()
    await guest_at(browser)
    await cart_of(browser, *((variant, 1) for variant in goods.variants[48:]))
    cart_id = (await browser.log_in()).json()["cart_id"]
    merged = quantities((await browser.asked("GET", f"/carts/{cart_id}")).json())
    assert len(merged) == 50
    assert merged[str(goods.variants[48])] == 2
    assert str(goods.variants[49]) in merged


async def test_an_order_that_is_repeated_after_login_is_the_same(
    person: Person, lab_books: Books
) -> None:
    goods = await lab_books.goods()
    await person.sign_up()
    browser, key = person.elsewhere(), uuid4().hex
    await guest_at(browser)
    await order_by(browser, goods.variant)
    first = await order_by(browser, goods.variant, key=key)
    await browser.log_in()
    again = await order_by(browser, goods.variant, key=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["order_id"] == first.json()["order_id"]
    assert await lab_books.stock(goods.variant) == (98, 2, 0)


async def test_of_two_logins_at_once_one_brings_the_guest_along(
    person: Person, lab_books: Books
) -> None:
    """Whoever's the two accounts are, the guest is one's."""
    goods = await lab_books.goods()
    await person.sign_up()
    other = Person(person.business, lab_books)
    await other.sign_up()
    browsers = [person.elsewhere(), other.elsewhere(), person.elsewhere()]
    await guest_at(browsers[0])
    await cart_of(browsers[0], (goods.variant, 7))
    order_id = (await order_by(browsers[0], goods.variant)).json()["order_id"]
    for browser in browsers[1:]:
        browser.guest = browsers[0].guest
    answers = await asyncio.gather(*(browser.log_in() for browser in browsers))
    assert statuses(answers) == [201] * 3
    found = [
        (await browser.asked("GET", f"/orders/{order_id}")).status_code for browser in browsers
    ]
    assert found[0] == found[2] and sorted(found[:2]) == [200, 404]
    linked = """
        select count(*) from guest_links join orders on orders.customer_id = guest_id
        where order_id = $1
    """
    assert await lab_books.value(linked, UUID(order_id)) == 1


async def test_a_session_is_no_guest_to_bring_along(person: Person, lab_books: Books) -> None:
    """By its token nobody brings another account's things along."""
    await person.sign_up()
    stranger = Person(person.business, lab_books)
    await stranger.ask_quietly()
    body = {"token": await stranger.mailed(), "password": stranger.password}
    shown = {"x_guest_token_sha256": sha256_hex(str(person.token))}
    answer = await stranger.asked("POST", "/customers/confirmations", body, **shown)
    assert answer.status_code == 201
    assert await person.is_known()
    account = (await person.asked("GET", "/customers/me")).json()
    sql = "select count(*) from guest_links where guest_id = $1"
    assert await lab_books.value(sql, UUID(account["customer_id"])) == 0
