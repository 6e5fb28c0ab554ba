"""Every type of problem in the catalogue is what a real request gets: none is there for nothing.

A class of services/problems.py without a request here that is answered by it fails this module.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from services.access.limits import Limits
from services.business.schemas import LINES_MAX
from services.problems import PROBLEM_JSON, Problem, catalogue
from tests.access.conftest import Answer, request, running
from tests.access.test_time_limits import edge_of
from tests.access.upstream import Script, Upstream, always
from tests.faults.proxy import Accept
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.running_stack import RunningStack
from tests.served_business import by_way_of, proxy_before, served_business
from tests.shopping import Books, Customer
from tests.webhooks import Sender

DOCUMENTED: Final = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
MEMBERS: Final = {"type", "title", "status", "detail", "errors", "request_id"}
MEMBERS_OF: Final = {"cart-changed": {"cart"}}


@dataclass
class Shop:
    """Where problems come from: the running stack, and what a test breaks for itself."""

    http: httpx.AsyncClient
    business: httpx.AsyncClient
    books: Books
    laboratory: OwnDatabase
    monkeypatch: pytest.MonkeyPatch
    operator_token: str

    def customer(self) -> Customer:
        return Customer(self.http)

    async def variant(self, **goods: Any) -> UUID:
        return (await self.books.goods(**goods)).variant

    async def post_order(self, body: bytes, **headers: str) -> httpx.Response:
        sent = {
            "content-type": "application/json",
            "idempotency-key": uuid4().hex,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.http.post("/orders", content=body, headers=sent)


Got = httpx.Response | Answer
Producer = Callable[[Shop], Awaitable[Got]]


# What the request itself is to blame for


async def invalid_request(shop: Shop) -> Got:
    return await shop.http.get("/products?limit=none")


async def invalid_json(shop: Shop) -> Got:
    return await shop.post_order(b"{")


async def invalid_body(shop: Shop) -> Got:
    return await shop.post_order(b"{}")


async def idempotency_key_missing(shop: Shop) -> Got:
    return await shop.post_order(b"{}", idempotency_key="")


async def idempotency_key_reused(shop: Shop) -> Got:
    customer, variant, key = shop.customer(), await shop.variant(), uuid4().hex
    await customer.order({variant: 1})
    assert (await customer.order({variant: 1}, key=key)).status_code == 201
    return await customer.order({variant: 2}, key=key)


async def idempotency_key_running(shop: Shop) -> Got:
    """The first request waits for the provider, which takes longer than anybody waits."""
    customer, key = shop.customer(), uuid4().hex
    order_id = await customer.placed({await shop.variant(): 1})
    first = asyncio.create_task(customer.pay(order_id, "tok_slow", key=key))
    claimed = "select count(*) from payments where order_id = $1"

    async def is_claimed() -> bool:
        return bool(await shop.books.value(claimed, UUID(order_id)))

    await until(is_claimed, within_s=10, what="the first request has claimed the payment")
    try:
        return await customer.pay(order_id, "tok_slow", key=key)
    finally:
        await first


async def unauthenticated(shop: Shop) -> Got:
    return await shop.http.get(f"/orders/{uuid4()}")


async def login_refused(shop: Shop) -> Got:
    await shop.books.rows("delete from login_tries")  # of others on this machine
    body = {"email": f"{uuid4().hex}@example.com", "password": "correct horse"}
    return await shop.http.post("/sessions", json=body)


async def token_refused(shop: Shop) -> Got:
    body = {"token": "x" * 43, "password": "correct horse"}
    return await shop.http.post("/customers/confirmations", json=body)


async def webhook_refused(shop: Shop) -> Got:
    return await Sender(shop.http, "not the secret of anybody").send({"type": "charge.approved"})


async def forbidden(shop: Shop) -> Got:
    return await shop.business.get("/products", headers={"x-internal-secret": "no"})


async def cross_site_request(shop: Shop) -> Got:
    headers = {"cookie": "tercet_session=" + "a" * 43, "sec-fetch-site": "cross-site"}
    return await shop.http.post("/orders", headers=headers, json={})


async def not_found(shop: Shop) -> Got:
    return await shop.http.get("/products/no-such-thing")


async def method_not_allowed(shop: Shop) -> Got:
    return await shop.http.delete("/orders")


async def unsupported_media_type(shop: Shop) -> Got:
    return await shop.post_order(b"a=1", content_type="application/x-www-form-urlencoded")


async def payload_too_large(shop: Shop) -> Got:
    return await shop.post_order(b" " * 70_000)


async def uri_too_long(shop: Shop) -> Got:
    return await shop.http.get("/products?q=" + "a" * 9_000)


async def headers_too_large(shop: Shop) -> Got:
    return await shop.http.get("/products", headers={"cookie": "a" * 40_000})


# What the rules of the shop refuse


async def unknown_variant(shop: Shop) -> Got:
    return await shop.customer().order({uuid4(): 1})


async def currency_mismatch(shop: Shop) -> Got:
    return await shop.customer().order({await shop.variant(currency="USD"): 1}, currency="EUR")


async def total_too_large(shop: Shop) -> Got:
    variant = await shop.variant(price_minor=10**11, available=100)
    return await shop.customer().order({variant: 11})


async def out_of_stock(shop: Shop) -> Got:
    return await shop.customer().order({await shop.variant(available=1): 2})


async def cart_changed(shop: Shop) -> Got:
    customer, variant = shop.customer(), await shop.variant()
    cart = (await customer.cart({variant: 1})).json()
    await customer.put_line(cart["cart_id"], variant, 2)
    return await customer.order_cart(cart)


async def cart_ordered(shop: Shop) -> Got:
    customer = shop.customer()
    cart = (await customer.cart({await shop.variant(): 1})).json()
    assert (await customer.order_cart(cart)).status_code == 201
    return await customer.order_cart(cart)


async def cart_empty(shop: Shop) -> Got:
    customer = shop.customer()
    return await customer.order_cart((await customer.cart()).json())


async def cart_full(shop: Shop) -> Got:
    goods = (await shop.books.goods(variants=LINES_MAX + 1)).variants
    customer = shop.customer()
    cart = (await customer.cart(dict.fromkeys(goods[1:], 1))).json()
    return await customer.put_line(cart["cart_id"], goods[0], 1)


async def order_not_cancellable(shop: Shop) -> Got:
    customer = shop.customer()
    order_id = await customer.placed({await shop.variant(): 1})
    assert (await customer.pay(order_id)).status_code == 201
    return await customer.cancel(order_id)


async def operation_not_allowed(shop: Shop) -> Got:
    """A payment whose money was taken at once can not be captured again."""
    customer = shop.customer()
    payment = (await customer.pay(await customer.placed({await shop.variant(): 1}))).json()
    sent = {"authorization": f"Bearer {shop.operator_token}", "idempotency-key": uuid4().hex}
    path = f"/payments/{payment['payment_id']}/captures"
    return await shop.http.post(path, json={}, headers=sent)


async def order_not_payable(shop: Shop) -> Got:
    customer = shop.customer()
    order_id = await customer.placed({await shop.variant(): 1})
    assert (await customer.pay(order_id)).status_code == 201
    return await customer.pay(order_id)


async def flash_sale_not_open_yet(shop: Shop) -> Got:
    return await _claim(shop, opens_in_s=60)


async def flash_sale_over(shop: Shop) -> Got:
    return await _claim(shop, opens_in_s=-120, open_for_s=60)


async def flash_sale_sold_out(shop: Shop) -> Got:
    return await _claim(shop, units=1, quantity=2)


async def flash_sale_limit_reached(shop: Shop) -> Got:
    return await _claim(shop, customer_limit=1, quantity=2)


async def _claim(shop: Shop, *, quantity: int = 1, **terms: Any) -> Got:
    """A claim of a new sale, by one who has ordered before and so is known."""
    customer, variant = shop.customer(), await shop.variant()
    await customer.placed({variant: 1})
    sale_id = await shop.books.flash_sale(variant, **terms)
    return await customer.claim(sale_id, quantity)


# What access refuses, or could not get from business


async def request_timeout(_: Shop) -> Got:
    half = request("/orders", "content-length: 10", method="PUT") + b"{"
    return await _through_access(half, limits=Limits(body_s=0.1))


async def too_many_requests(_: Shop) -> Got:
    settings: dict[str, Any] = {
        "unlimited_networks": "",
        "address_rates": "other=0.01/1",
        "valkey_url": "redis://127.0.0.1:1/0",
    }
    one = request("/carts/1")
    return await _through_access(one, one, **settings)


async def bad_gateway(_: Shop) -> Got:
    return await _through_access(request("/carts/1"), script=always(b"nonsense\r\n\r\n"))


async def overloaded(_: Shop) -> Got:
    """A process near the limit of its memory, which is very low here, passes nothing on."""
    one = request("/carts/1")
    return await _through_access(one, access_memory_limit_bytes=1, looks_at_memory=True)


async def _through_access(
    *sent: bytes,
    script: Script | None = None,
    limits: Limits | None = None,
    looks_at_memory: bool = False,
    **settings: Any,
) -> Answer:
    """The answer to the last of the requests, sent one after another to an access of its own."""
    async with Upstream(script) as upstream, running(upstream, limits=limits, **settings) as access:
        if looks_at_memory:
            edge_of(access).look_at_memory()
        return [await access.send(data) for data in sent][-1]


# What business could not do


async def deadline_exceeded(shop: Shop) -> Got:
    order = {"lines": [{"variant_id": str(await shop.variant()), "quantity": 1}]}
    headers = {"x-deadline-ms": "0", "idempotency-key": uuid4().hex}
    return await shop.business.post("/orders", json=order, headers=headers)


async def internal_error(shop: Shop) -> Got:
    """A statement with a mistake in it."""
    shop.monkeypatch.setattr("services.data.products.SELECT_CATEGORIES", "select secret_column")
    async with served_business(shop.laboratory.settings()) as business:
        return await business.http.get("/categories")


async def unavailable(shop: Shop) -> Got:
    """Nobody listens where the primary was."""
    async with _behind_proxy(shop) as (proxy, business, variant):
        await proxy.accept(Accept.REFUSE)
        proxy.reset_all()
        return await _order(business, variant)


async def outcome_unknown(shop: Shop) -> Got:
    """The connection is cut while PostgreSQL works on a COMMIT that takes its time."""
    database = await asyncpg.connect(shop.laboratory.superuser_dsn())
    try:
        await database.execute(SLOW_COMMIT)
        async with _behind_proxy(shop) as (proxy, business, variant):
            ordering = asyncio.create_task(_order(business, variant))

            async def is_committing() -> bool:
                return bool(await database.fetchval(COMMITS))

            await until(is_committing, within_s=10, what="the order is being committed")
            proxy.reset_all()
            return await ordering
    finally:
        await database.execute("drop trigger if exists slow_commit on orders")
        await database.execute("drop function if exists slow_commit")
        await database.close()


# What is sleeping in this database is the trigger of SLOW_COMMIT. The position in the WAL is asked
# for in the same message, and is part of what PostgreSQL shows of it.
COMMITS: Final = """
    select count(*) from pg_stat_activity
    where datname = current_database() and wait_event = 'PgSleep' and query like 'commit%'
"""
SLOW_COMMIT: Final = """
    create function slow_commit() returns trigger language plpgsql as
        $$ begin perform pg_sleep(1); return null; end $$;
    create constraint trigger slow_commit after insert on orders deferrable initially deferred
        for each row execute function slow_commit()
"""


@asynccontextmanager
async def _behind_proxy(shop: Shop) -> AsyncIterator[tuple[Any, httpx.AsyncClient, UUID]]:
    """Business on the laboratory's database, its primary behind a proxy, and something to buy."""
    dsn = shop.laboratory.dsn("tercet_app")
    owner = await asyncpg.connect(shop.laboratory.superuser_dsn())
    try:
        variant = (await Books(owner).goods()).variant
    finally:
        await owner.close()
    async with proxy_before(dsn) as proxy:
        settings = shop.laboratory.settings(primary_dsn=by_way_of(proxy, dsn), standby_dsns=[])
        async with served_business(settings) as business:
            assert (await _order(business.http, variant)).status_code in (201, 503)
            yield proxy, business.http, variant


async def _order(business: httpx.AsyncClient, variant: UUID) -> httpx.Response:
    order = {"lines": [{"variant_id": str(variant), "quantity": 1}]}
    return await business.post("/orders", json=order, headers={"idempotency-key": uuid4().hex})


PRODUCERS: Final[Mapping[str, Producer]] = {
    "invalid-request": invalid_request,
    "invalid-json": invalid_json,
    "invalid-body": invalid_body,
    "idempotency-key-missing": idempotency_key_missing,
    "idempotency-key-reused": idempotency_key_reused,
    "idempotency-key-running": idempotency_key_running,
    "unauthenticated": unauthenticated,
    "login-refused": login_refused,
    "token-refused": token_refused,
    "webhook-refused": webhook_refused,
    "forbidden": forbidden,
    "cross-site-request": cross_site_request,
    "not-found": not_found,
    "method-not-allowed": method_not_allowed,
    "request-timeout": request_timeout,
    "unknown-variant": unknown_variant,
    "currency-mismatch": currency_mismatch,
    "total-too-large": total_too_large,
    "out-of-stock": out_of_stock,
    "cart-changed": cart_changed,
    "cart-ordered": cart_ordered,
    "cart-empty": cart_empty,
    "cart-full": cart_full,
    "order-not-cancellable": order_not_cancellable,
    "operation-not-allowed": operation_not_allowed,
    "order-not-payable": order_not_payable,
    "flash-sale-not-open-yet": flash_sale_not_open_yet,
    "flash-sale-over": flash_sale_over,
    "flash-sale-sold-out": flash_sale_sold_out,
    "flash-sale-limit-reached": flash_sale_limit_reached,
    "payload-too-large": payload_too_large,
    "uri-too-long": uri_too_long,
    "unsupported-media-type": unsupported_media_type,
    "too-many-requests": too_many_requests,
    "headers-too-large": headers_too_large,
    "bad-gateway": bad_gateway,
    "unavailable": unavailable,
    "overloaded": overloaded,
    "outcome-unknown": outcome_unknown,
    "deadline-exceeded": deadline_exceeded,
    "internal-error": internal_error,
}


def parts(got: Got) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    if isinstance(got, Answer):
        return got.status, got.headers, json.loads(got.body)
    return got.status_code, got.headers, got.json()


@pytest.fixture
def shop(  # noqa: PLR0917 - fixtures come by name
    http: httpx.AsyncClient,
    business: httpx.AsyncClient,
    books: Books,
    laboratory: OwnDatabase,
    monkeypatch: pytest.MonkeyPatch,
    stack: RunningStack,
) -> Shop:
    token = stack.secret("operator_token")
    return Shop(http, business, books, laboratory, monkeypatch, token)


@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.name)
async def test_each_problem_is_the_answer_to_a_real_request(
    kind: type[Problem], shop: Shop
) -> None:
    assert kind.name in PRODUCERS, f"nothing here is answered by {kind.__name__}"
    status, headers, body = parts(await PRODUCERS[kind.name](shop))
    assert (status, body["type"]) == (kind.status, f"/problems/{kind.name}"), body
    assert (body["status"], body["title"]) == (kind.status, kind.title)
    assert headers["content-type"] == PROBLEM_JSON
    assert headers["cache-control"] == "no-store"
    assert body.keys() <= MEMBERS | MEMBERS_OF.get(kind.name, set())
    if status in (429, 503):
        assert int(headers["retry-after"]) >= 1
    # Its type leads to a page about it.
    page = await shop.http.get(body["type"])
    assert page.status_code == 200
    assert kind.title in page.text


def test_no_request_here_is_for_a_problem_that_there_is_not() -> None:
    assert PRODUCERS.keys() == {kind.name for kind in catalogue()}


def test_every_problem_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \| ", DOCUMENTED.read_text(), re.MULTILINE)
    assert rows == [(str(kind.status), kind.name) for kind in catalogue()]
