"""Nothing that blocks, and no long computing, on the event loop of business: by real requests.

While one request waits in a call that blocks, or computes, all others of the process wait too.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID, uuid4

import httpx
import pytest
from blockbuster import BlockBuster, blockbuster
from structlog.testing import capture_logs

from services.business.endpoints import INTERNAL, PUBLIC
from tests.accounts import PASSWORD, headers_of, new_email, proof_of
from tests.running_stack import RunningStack
from tests.served_business import ServedBusiness, served_business
from tests.shopping import Books, Goods, business_settings
from tests.webhooks import Sender, charge_event

# Of CPU, in one turn of the loop. A page takes 1 ms; the largest body a client may send is read
# in 3 ms. A tenth of what the watchdog calls late.
TURN_LIMIT_S: Final = 0.01


@pytest.fixture(scope="module")
async def served(stack: RunningStack) -> AsyncIterator[ServedBusiness]:
    async with served_business(business_settings(stack, docs=True)) as business:
        yield business


@contextmanager
def calls_that_block() -> Iterator[list[str]]:
    """The stacks of those that our code makes while a loop runs in its thread.

    They are noted and raised: who swallows what is raised does not hide it.
    """
    found: list[str] = []

    class Noted(blockbuster.BlockingError):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            found.append(name + "\n" + "".join(traceback.format_stack(limit=12)))

    watch = BlockBuster(scanned_modules=["services"])
    # For each new connection, once in half an hour, asyncpg looks for certificates in the home
    # folder: 0.4 ms.
    for function in watch.functions.values():
        function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
    with patch.object(blockbuster, "BlockingError", Noted):
        watch.activate()
        try:
            yield found
        finally:
            watch.deactivate()


@dataclass
class Asker:
    """Asks every route of the table, one request after another; `after` is told of each."""

    business: httpx.AsyncClient
    books: Books
    goods: Goods
    webhook_secret: str
    after: Callable[[str], None]
    asked: set[str] = field(default_factory=set)

    async def everything(self) -> None:
        slug, line = self.goods.slug, {"variant_id": str(self.goods.variant), "quantity": 1}
        placed = await self.ask("POST", "/orders", body={"lines": [line]})
        order_id = placed.json()["order_id"]
        customer_id = await self.books.value(
            "select customer_id from orders where order_id = $1", UUID(order_id)
        )
        # An operator who has bought something: one asks for all.
        self.business.headers["x-customer-id"] = str(customer_id)
        self.business.headers["x-customer-role"] = "operator"
        pay = {"payment_method": "tok_approve"}
        paid = await self.ask(
            "POST", "/orders/{order_id}/payments", f"/orders/{order_id}/payments", body=pay
        )
        await self.ask("GET", "/orders/{order_id}", f"/orders/{order_id}")
        payment = f"/payments/{paid.json()['payment_id']}"
        await self.ask("GET", "/payments/{payment_id}", payment)
        await self._carts_and_cancellation(line)
        await self._captures_voids_and_refunds(line, pay)
        await self._flash_sale()
        for path in ("/products", "/products?q=wool+shirt&sort=price&limit=100", "/categories"):
            await self.ask("GET", path.partition("?")[0], path)
        for _ in range(2):  # from the database, then from memory
            await self.ask("GET", "/products/{slug}", f"/products/{slug}")
        await self.ask("GET", "/products/{slug}/stock", f"/products/{slug}/stock")
        movement = {**line, "kind": "receive", "reason": "a test"}
        await self.ask("POST", "/operator/stock-movements", body=movement)
        await self.ask("GET", "/operator/upstreams")
        for name in ("series", "top-products", "funnel", "searches"):
            await self.ask("GET", f"/analytics/{name}")
        await self.ask("GET", "/operator/payment-reviews")
        await self._webhook(paid.json())
        resolution = "/operator/payment-reviews/{payment_review_id}/resolution"
        nobodys = resolution.format(payment_review_id=uuid4())
        await self.ask("PUT", resolution, nobodys, body={"resolution": "a test"}, status=404)
        forced = "/operator/upstreams/provider"
        for state in ("open", None):
            await self.ask("PUT", "/operator/upstreams/{upstream}", forced, body={"forced": state})
        await self._account()
        await self.ask("GET", "/internal/pages")
        nobody = f"/internal/identities/{'0' * 64}"
        await self.ask("GET", "/internal/identities/{token_sha256}", nobody, status=404)
        await self._beside_the_table()

    async def _carts_and_cancellation(self, line: dict[str, Any]) -> None:
        made = await self.ask("POST", "/carts", body={"lines": [line]})
        cart = f"/carts/{made.json()['cart_id']}"
        await self.ask("GET", "/carts/{cart_id}", cart)
        route, path = "/carts/{cart_id}/lines/{variant_id}", f"{cart}/lines/{line['variant_id']}"
        await self.ask("PUT", route, path, body={"quantity": 2})
        await self.ask("DELETE", route, path)
        order_id = (await self.ask("POST", "/orders", body={"lines": [line]})).json()["order_id"]
        route = "/orders/{order_id}/cancellation"
        await self.ask("PUT", route, f"/orders/{order_id}/cancellation")

    async def _captures_voids_and_refunds(self, line: dict[str, Any], pay: dict[str, str]) -> None:
        for operations in (("captures", "refunds"), ("voids",)):
            placed = await self.ask("POST", "/orders", body={"lines": [line]})
            path = f"/orders/{placed.json()['order_id']}/payments"
            manual = pay | {"capture": "manual"}
            paid = await self.ask("POST", "/orders/{order_id}/payments", path, body=manual)
            for name in operations:
                path = f"/payments/{paid.json()['payment_id']}/{name}"
                await self.ask("POST", f"/payments/{{payment_id}}/{name}", path, body={})

    async def _flash_sale(self) -> None:
        now = datetime.now(UTC)
        terms = {
            "variant_id": str(self.goods.variant),
            "opens_at": (now - timedelta(minutes=1)).isoformat(),
            "closes_at": (now + timedelta(hours=1)).isoformat(),
            "quantity": 10,
            "customer_limit": 2,
            "unit_price": {"amount_minor": 700, "currency": "USD"},
        }
        made = await self.ask("POST", "/flash-sales", body=terms)
        sale = f"/flash-sales/{made.json()['flash_sale_id']}"
        await self.ask("GET", "/flash-sales/{flash_sale_id}", sale)
        claims = "/flash-sales/{flash_sale_id}/claims"
        await self.ask("POST", claims, f"{sale}/claims", body={"quantity": 1})

    async def _account(self) -> None:
        """An account from the mail on; what access says of its session goes with each request."""
        email, password = new_email(), {"password": PASSWORD}
        for path in ("/customers", "/password-resets"):
            await self.ask("POST", path, body={"email": email}, status=202)
        token = await proof_of(self.books, email, "confirmation")
        await self.ask("POST", "/customers/confirmations", body={"token": token, **password})
        first = await self.ask("POST", "/sessions", body={"email": email, **password})
        second = await self.ask("POST", "/sessions", body={"email": email, **password})
        before = self.business.headers.copy()
        try:
            shown = await headers_of(self.business, second.json()["token"])
            self.business.headers.update(shown)
            await self.ask("GET", "/customers/me")
            await self.ask("GET", "/sessions")
            other = f"/sessions/{first.json()['session_id']}"
            await self.ask("DELETE", "/sessions/{session_id}", other, status=204)
            change = {"current_password": PASSWORD, "new_password": PASSWORD[::-1]}
            await self.ask("PUT", "/customers/me/password", body=change, status=204)
            await self.ask("DELETE", "/sessions/current", status=204)
        finally:
            self.business.headers = before
        body = {"token": await proof_of(self.books, email, "reset"), **password}
        await self.ask("POST", "/password-resets/completions", body=body, status=204)

    async def _webhook(self, payment: dict[str, Any]) -> None:
        """Through a sender of its own, because it is signed."""
        event = charge_event(payment | payment["amount"], "approved")
        assert (await Sender(self.business, self.webhook_secret).send(event)).status_code == 202
        self.asked.add("POST /webhooks/{provider}")
        self.after("POST /webhooks/sandbox 202")

    async def _beside_the_table(self) -> None:
        """Pages for people, health, and what is refused."""
        for path in ("/docs", "/openapi.json", "/live", "/ready", "/problems/out-of-stock"):
            await self.ask("GET", path)
        await self.ask("GET", "/pictures/aldin-linen-shirt-1dtq3hu-rust.svg")
        await self.ask("GET", "/products/{slug}", "/products/no-such-thing", status=404)
        await self.ask("DELETE", "/orders", status=405)
        variants = [{"variant_id": str(uuid4()), "quantity": 1} for _ in range(50)]
        await self.ask("POST", "/orders", body={"lines": variants}, status=422)
        large = {"lines": variants, **{f"field-{n}": "x" for n in range(3_000)}}  # 60 KB
        await self.ask("POST", "/orders", body=large, status=422)
        deep: Any = "x"
        for _ in range(500):
            deep = [deep]
        await self.ask("POST", "/orders", body={"lines": deep}, status=422)

    async def ask(
        self, method: str, route: str, path: str = "", *, body: Any = None, status: int = 0
    ) -> httpx.Response:
        headers = {"idempotency-key": uuid4().hex}
        answer = await self.business.request(method, path or route, json=body, headers=headers)
        expected = (status,) if status else (200, 201)
        assert answer.status_code in expected, f"{method} {path or route}: {answer.text}"
        self.asked.add(f"{method} {route}")
        self.after(f"{method} {path or route} {answer.status_code}")
        return answer


@pytest.fixture
async def asker(served: ServedBusiness, books: Books, stack: RunningStack) -> Asker:
    key = stack.secret("webhook_secret")
    return Asker(served.http, books, await books.goods(), key, after=lambda _: None)


async def test_no_route_makes_a_call_that_blocks(asker: Asker) -> None:
    with capture_logs(), calls_that_block() as found:
        try:
            await asker.everything()
        except AssertionError:
            if not found:  # else it is a consequence
                raise
    assert found == [], "\n".join(found)
    table = {f"{endpoint.method} {endpoint.path}" for endpoint in (*PUBLIC, *INTERNAL)}
    assert table <= asker.asked, "a route that nobody asked for"


async def test_a_call_that_blocks_would_be_found(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that a reader of the test above would doubt: from a handler, in its own thread."""

    def draw(_: str) -> bytes:
        return Path("/dev/null").read_bytes()

    monkeypatch.setattr("services.business.pictures.draw", draw)
    with capture_logs(), calls_that_block() as found, suppress(AssertionError):
        await asker.ask("GET", "/pictures/a-b.svg")
    assert ["in draw" in stack for stack in found][:1] == [True]


class Busiest:
    """A coroutine on the loop of business that sees how much CPU each turn of it takes."""

    def __init__(self) -> None:
        self.turn_s = 0.0
        self._stopped = False

    async def run(self) -> None:
        while not self._stopped:
            before_s = time.thread_time()
            await asyncio.sleep(0)
            self.turn_s = max(self.turn_s, time.thread_time() - before_s)

    def stop(self) -> None:
        self._stopped = True

    def take(self) -> float:
        turn_s, self.turn_s = self.turn_s, 0.0
        return turn_s


async def test_no_request_keeps_the_loop_computing(asker: Asker, served: ServedBusiness) -> None:
    slow = await slow_turns(asker, served)
    # CPU time too depends on who else uses the core; what computes for long does so each time.
    if slow:
        again = await slow_turns(asker, served)
        slow = {request: again[request] for request in slow if request in again}
    assert not slow, slow


async def slow_turns(asker: Asker, served: ServedBusiness) -> dict[str, float]:
    """Seconds of CPU in the longest turn of each request that had one above the limit."""
    busiest, took = Busiest(), dict[str, float]()

    def note(request: str) -> None:
        took[request] = busiest.take()

    asker.after = note
    running = asyncio.run_coroutine_threadsafe(busiest.run(), served.loop)
    try:
        await asker.everything()
    finally:
        busiest.stop()
        await asyncio.wrap_future(running)
    return {request: turn_s for request, turn_s in took.items() if turn_s > TURN_LIMIT_S}
