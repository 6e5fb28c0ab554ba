"""Accounts as browsers and scripts have them: through access, by cookies and bearer tokens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pytest_asyncio

from tests.accounts import PASSWORD, new_email, problem_of
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Books, http_client

WITHIN_S = 5.0  # a second, on a machine that has nothing else to do


@dataclass
class Browser:
    """One that keeps its cookies and says where a request comes from."""

    http: httpx.AsyncClient
    mailbox: httpx.AsyncClient
    email: str

    async def send(self, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"idempotency-key": uuid4().hex, "sec-fetch-site": "same-origin"}
        return await self.http.request(method, path, json=body, headers=headers)

    async def mailed(self) -> str:
        """The token of the newest mail."""
        found: list[str] = []

        async def is_there() -> bool:
            answer = await self.mailbox.get("/mails", params={"recipient": self.email})
            for mail in answer.json()["items"]:
                found.extend(re.findall(r"^[A-Za-z0-9_-]{43}$", mail["body"], re.MULTILINE))
            return bool(found)

        await until(is_there, within_s=20, what="a mail has come")
        return found[0]

    async def sign_up(self) -> httpx.Response:
        assert (await self.send("POST", "/customers", {"email": self.email})).status_code == 202
        body = {"token": await self.mailed(), "password": PASSWORD}
        return await self.send("POST", "/customers/confirmations", body)

    async def log_in(self) -> httpx.Response:
        return await self.send("POST", "/sessions", {"email": self.email, "password": PASSWORD})


NewBrowser = Callable[..., Awaitable[Browser]]


@pytest_asyncio.fixture
async def mailbox(stack: RunningStack, books: Books) -> AsyncIterator[httpx.AsyncClient]:
    """What others have tried from this machine does not count here."""
    await books.rows("delete from login_tries")
    async with http_client(stack.state["mailbox_url"]) as client:
        yield client


@pytest_asyncio.fixture
async def new_browser(stack: RunningStack, mailbox: httpx.AsyncClient) -> AsyncIterator[NewBrowser]:
    """Makes browsers, of new people or of known ones."""
    async with AsyncExitStack() as opened:

        async def new(email: str = "") -> Browser:
            client = httpx.AsyncClient(base_url=stack.url, timeout=15, trust_env=False)
            await opened.enter_async_context(client)
            return Browser(client, mailbox, email or new_email())

        yield new


@pytest_asyncio.fixture
async def browser(new_browser: NewBrowser) -> Browser:
    return await new_browser()


async def test_a_guest_signs_up_buys_and_logs_out(browser: Browser, books: Books) -> None:
    goods = await books.goods()
    line = {"variant_id": str(goods.variant), "quantity": 1}
    placed = await browser.send("POST", "/orders", {"lines": [line]})
    order = f"/orders/{placed.json()['order_id']}"
    assert "tercet_customer" in browser.http.cookies
    made = await browser.sign_up()
    assert made.status_code == 201, made.text
    assert "tercet_session" in browser.http.cookies
    assert "tercet_customer" not in browser.http.cookies
    assert (await browser.send("GET", order)).status_code == 200
    paid = await browser.send("POST", f"{order}/payments", {"payment_method": "tok_approve"})
    assert (paid.status_code, paid.json()["state"]) == (201, "SUCCESS")
    token = browser.http.cookies["tercet_session"]
    assert (await browser.send("DELETE", "/sessions/current")).status_code == 204
    assert "tercet_session" not in browser.http.cookies
    browser.http.cookies.set("tercet_session", token, domain="127.0.0.1")
    assert await is_nobody(browser)


async def is_nobody(browser: Browser) -> bool:
    """Soon; access is told by the tag stream."""

    async def refused() -> bool:
        return (await browser.send("GET", "/customers/me")).status_code == 401

    await until(refused, within_s=WITHIN_S, what="the session is refused")
    return True


async def test_a_second_customer_reaches_nothing_of_the_first(
    browser: Browser, new_browser: NewBrowser, books: Books
) -> None:
    """S6, for what an account has: orders, carts, payments, sessions, and itself."""
    goods = await books.goods()
    line = {"variant_id": str(goods.variant), "quantity": 1}
    await browser.sign_up()
    order_id = (await browser.send("POST", "/orders", {"lines": [line]})).json()["order_id"]
    pay = {"payment_method": "tok_approve"}
    paid = (await browser.send("POST", f"/orders/{order_id}/payments", pay)).json()
    cart = (await browser.send("POST", "/carts", {"lines": [line]})).json()
    session_id = (await browser.send("GET", "/sessions")).json()["items"][0]["session_id"]
    other = await new_browser()
    await other.sign_up()
    ordered = {"cart_id": cart["cart_id"], "cart_version": cart["version"]}
    for method, path, body in (
        ("GET", f"/orders/{order_id}", None),
        ("PUT", f"/orders/{order_id}/cancellation", None),
        ("POST", f"/orders/{order_id}/payments", pay),
        ("GET", f"/payments/{paid['payment_id']}", None),
        ("GET", f"/carts/{cart['cart_id']}", None),
        ("PUT", f"/carts/{cart['cart_id']}/lines/{goods.variant}", {"quantity": 3}),
        ("DELETE", f"/carts/{cart['cart_id']}/lines/{goods.variant}", None),
        ("POST", "/orders", ordered),
        ("DELETE", f"/sessions/{session_id}", None),
    ):
        answer = await other.send(method, path, body)
        assert problem_of(answer) == (404, "not-found"), (method, path)
    assert (await other.send("GET", "/customers/me")).json()["email"] == other.email
    assert (await browser.send("GET", f"/carts/{cart['cart_id']}")).json() == cart
    assert (await browser.send("GET", "/customers/me")).status_code == 200


async def test_another_password_ends_the_sessions_elsewhere_at_access(
    browser: Browser, new_browser: NewBrowser
) -> None:
    await browser.sign_up()
    elsewhere = await new_browser(browser.email)
    assert (await elsewhere.log_in()).status_code == 201
    assert (await elsewhere.send("GET", "/customers/me")).status_code == 200
    change = {"current_password": PASSWORD, "new_password": PASSWORD[::-1]}
    assert (await browser.send("PUT", "/customers/me/password", change)).status_code == 204
    assert await is_nobody(elsewhere)
    assert (await browser.send("GET", "/customers/me")).status_code == 200
    assert problem_of(await elsewhere.log_in()) == (401, "login-refused")


async def test_of_a_session_and_a_guest_the_session_counts(browser: Browser, books: Books) -> None:
    """A guest's cookie that is still there is not asked for anything but a login."""
    await browser.sign_up()
    (guest,) = await books.guests(1)
    browser.http.cookies.set("tercet_customer", guest, domain="127.0.0.1")
    assert (await browser.send("GET", "/customers/me")).json()["email"] == browser.email
    second = await browser.log_in()
    assert second.status_code == 201
    assert "tercet_customer" not in browser.http.cookies
    answers = await asyncio.gather(
        *(browser.http.get("/sessions", headers={"authorization": f"Bearer {token}"})
          for token in (guest, second.json()["token"]))
    )  # fmt: skip
    assert [answer.status_code for answer in answers] == [401, 200]
