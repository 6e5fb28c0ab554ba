"""The gate of business and its errors: who gets in, until when, and how a bug looks outside."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import asyncpg
import httpx
import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from services.business.app import named_problem
from services.business.endpoints import PUBLIC
from services.business.shop import Shop
from services.deadline import DeadlineExceeded
from services.problems import GatewayTimeout, NotFound, Unavailable
from tests.running_stack import RunningStack
from tests.shopping import Books, asgi_client, gate_of, http_client

OPEN = ("/live", "/ready")
CLOSED = ("/products", "/openapi.json", "/internal/identities/" + "0" * 64, "/nothing", "/")


@pytest.mark.parametrize("secret", [None, "", "wrong", "x" * 43])
async def test_nobody_but_access_gets_in(secret: str | None, stack: RunningStack) -> None:
    headers = {} if secret is None else {"x-internal-secret": secret}
    async with http_client(stack.environment["TERCET_BUSINESS_URL"], **headers) as client:
        for path in CLOSED:
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
        for path in OPEN:
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"


async def test_the_secret_before_this_one_gets_in_too(shop: Shop) -> None:
    """So that the secret is changed without a refused request."""
    previous = shop.settings.provider_secret  # any other strong secret
    changed = shop.settings.model_copy(update={"internal_secret_previous": previous})
    async with asgi_client(shop, changed) as client:
        for secret in (shop.settings.internal_secret, previous):
            headers = {"x-internal-secret": secret.get_secret_value()}
            assert (await client.get("/categories", headers=headers)).status_code == 200
        headers = {"x-internal-secret": shop.settings.cookie_secret.get_secret_value()}
        assert (await client.get("/categories", headers=headers)).status_code == 403


async def test_at_the_deadline_the_answer_is_504_and_the_statement_is_cancelled(
    business: httpx.AsyncClient, books: Books, stack: RunningStack
) -> None:
    goods = await books.goods()
    blocker = await asyncpg.connect(stack.dsn("tercet_owner"))
    try:
        async with blocker.transaction():
            await blocker.execute(
                "select from stock where variant_id = $1 for update", goods.variant
            )
            started_at = time.monotonic()
            answer = await business.post(
                "/orders",
                json={"lines": [{"variant_id": str(goods.variant), "quantity": 1}]},
                headers={"x-deadline-ms": "300", "idempotency-key": uuid4().hex},
            )
            took_s = time.monotonic() - started_at
            assert (answer.status_code, answer.json()["type"]) == (
                504,
                "/problems/deadline-exceeded",
            )
            assert 0.25 < took_s < 0.3 + 0.25
            waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            for _ in range(20):
                if await books.value(waiting) == 0:
                    break
                await asyncio.sleep(0.01)
            assert await books.value(waiting) == 0
    finally:
        await blocker.close()
    assert await books.stock(goods.variant) == (100, 0, 0)


async def test_work_whose_deadline_is_past_is_not_begun(
    business: httpx.AsyncClient, books: Books
) -> None:
    goods = await books.goods()
    answer = await business.post(
        "/orders",
        json={"lines": [{"variant_id": str(goods.variant), "quantity": 1}]},
        headers={"x-deadline-ms": "0", "idempotency-key": uuid4().hex},
    )
    assert answer.status_code == 504
    assert await books.stock(goods.variant) == (100, 0, 0)


async def test_a_bug_is_told_by_its_request_id_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In what no cache keeps: one that was told to load anew would do so for all tests after."""
    monkeypatch.setattr("services.data.own_orders.SELECT_OWN_ORDER", "select secret_column")
    headers = {"x-request-id": "request-1", "x-customer-id": str(uuid4())}
    async with asgi_client(shop) as client:
        answer = await client.get(f"/orders/{uuid4()}", headers=headers)
    assert answer.status_code == 500
    assert answer.json() == {
        "type": "/problems/internal-error",
        "title": "Something went wrong on our side",
        "status": 500,
        "request_id": "request-1",
    }


async def test_a_client_that_leaves_within_its_body_is_no_bug(shop: Shop) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    secret = shop.settings.internal_secret.get_secret_value().encode()
    headers = [
        (b"x-internal-secret", secret),
        (b"idempotency-key", b"left"),
        (b"content-type", b"application/json"),
        (b"content-length", b"100"),
    ]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/orders",
        "raw_path": b"/orders",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
    }
    with capture_logs() as logs:
        await gate_of(shop)(scope, receive, send)
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert sent[0]["status"] == 400


def test_what_an_exception_stands_for() -> None:
    assert isinstance(named_problem(DeadlineExceeded()), GatewayTimeout)
    assert isinstance(named_problem(TimeoutError()), GatewayTimeout)
    inner = ExceptionGroup("inner", [ValueError(), Unavailable()])
    assert isinstance(named_problem(ExceptionGroup("outer", [inner])), Unavailable)
    assert named_problem(ExceptionGroup("bugs", [ValueError()])) is None
    assert named_problem(ValueError()) is None
    problem = NotFound()
    assert named_problem(problem) is problem


async def test_errors_of_the_router_are_problems_too(business: httpx.AsyncClient) -> None:
    missing = await business.get("/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (
        404,
        "application/problem+json",
    )
    for path in ("/products/", "/orders/", "/products//stock"):
        assert (await business.get(path)).status_code == 404
    refused = await business.delete("/orders")
    assert (refused.status_code, refused.json()["type"]) == (405, "/problems/method-not-allowed")
    assert refused.headers["allow"] == "POST"


async def test_nothing_that_depends_on_who_asks_may_be_held(business: httpx.AsyncClient) -> None:
    for endpoint in PUBLIC:
        if endpoint.guard == "nobody":
            continue
        path = endpoint.path.replace("{order_id}", str(uuid4())).replace(
            "{payment_id}", str(uuid4())
        )
        answer = await business.request(endpoint.method, path)
        assert answer.headers["cache-control"] == "no-store", path


async def test_nothing_tells_of_what_runs_here(business: httpx.AsyncClient) -> None:
    for path in ("/metrics", "/debug", "/redoc", "/.env", "/admin"):
        assert (await business.get(path)).status_code == 404
    answer = await business.get("/products")
    assert not {"server", "x-powered-by"} & set(answer.headers)
