"""No answer tells what is behind it, whichever dependency fails and however it does.

What a dependency says when it fails is full of names: its address, the user, the statement, the
place in our code. The log may have them; a client gets the problem and the request id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.problems import PROBLEM_JSON
from services.settings import BusinessSettings
from tests.faults.proxy import Accept, FaultProxy
from tests.laboratory import OwnDatabase
from tests.served_business import by_way_of, proxy_before, served_business
from tests.shopping import OPERATOR_FIELDS, Books

# What only our own side knows, and what its parts say of themselves when they fail.
MARKERS: Final = (
    *("traceback", 'file "', ".py", "/services/", "site-packages", "exception", "errno"),
    *("asyncpg", "redis", "valkey", "httpx", "uvicorn", "starlette", "postgres", "python"),
    *("tercet_", "127.0.0.1", "localhost", "lab_", "secret.internal", "password"),
    *("select ", "insert into", "update ", "relation ", "column ", "permission denied"),
)
# How a server of anything may answer, with more in it than a client should see.
GARBAGE: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n"
    b"content-length: 64\r\nconnection: close\r\n\r\n"
    b'{"error":"Traceback: select * from cards at secret.internal:5432"}'
)
DEADLINE_MS: Final = "600"


@dataclass
class Broken:
    """Business on the laboratory's servers, each behind a proxy, and ids to ask it for."""

    http: httpx.AsyncClient
    proxies: dict[str, FaultProxy]
    nonsense: tuple[str, int]  # the address of what talks nonsense
    variant: UUID
    slug: str
    order_id: UUID
    customer_id: UUID

    async def ask_everything(self) -> list[httpx.Response]:
        """Every route, at the same time."""
        line = {"variant_id": str(self.variant), "quantity": 1}
        movement = {**line, "kind": "receive", "reason": "a test"}
        pay = f"/orders/{self.order_id}/payments"
        return await asyncio.gather(
            self._send("GET", f"/products?q={uuid4().hex}"),
            self._send("GET", f"/products/{self.slug}"),
            self._send("GET", f"/products/{self.slug}/stock"),
            self._send("GET", "/categories"),
            self._send("POST", "/orders", {"lines": [line]}),
            self._send("GET", f"/orders/{self.order_id}"),
            self._send("POST", pay, {"payment_method": "tok_approve"}),
            self._send("GET", f"/payments/{uuid4()}"),
            self._send("POST", "/operator/stock-movements", movement),
            self._send("GET", f"/internal/identities/{'0' * 64}"),
            self._send("GET", "/ready"),
        )

    async def _send(self, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {
            "x-deadline-ms": DEADLINE_MS,
            "x-customer-id": str(self.customer_id),
            "idempotency-key": uuid4().hex,
        }
        if path.startswith("/operator"):
            headers |= OPERATOR_FIELDS
        return await self.http.request(method, path, json=body, headers=headers)


@asynccontextmanager
async def broken(laboratory: OwnDatabase, **changes: Any) -> AsyncIterator[Broken]:
    settings = laboratory.settings(
        statement_timeout_ms=300, provider_timeout_ms=300, request_timeout_ms=1000, **changes
    )
    async with AsyncExitStack() as stop:
        stop.enter_context(capture_logs())  # what fails here is told at length there
        owner = await asyncpg.connect(laboratory.superuser_dsn())
        stop.push_async_callback(owner.close)
        goods = await Books(owner).goods()
        proxies = {
            name: await stop.enter_async_context(proxy_before(url))
            for name, url in addresses(settings).items()
        }
        behind = settings.model_copy(
            update={
                "primary_dsn": by_way_of(proxies["primary"], settings.primary_dsn),
                "standby_dsns": [by_way_of(proxies["standby"], settings.standby_dsns[0])],
                "valkey_url": by_way_of(proxies["valkey"], settings.valkey_url),
                "provider_url": by_way_of(proxies["provider"], settings.provider_url),
            }
        )
        nonsense = await stop.enter_async_context(
            await asyncio.start_server(_nonsense, "127.0.0.1", 0)
        )
        placed = await order(stop, laboratory, goods.variant)
        business = await stop.enter_async_context(served_business(behind))
        yield Broken(
            business.http,
            proxies,
            nonsense.sockets[0].getsockname(),
            goods.variant,
            goods.slug,
            *placed,
        )


def addresses(settings: BusinessSettings) -> dict[str, str]:
    return {
        "primary": settings.primary_dsn,
        "standby": settings.standby_dsns[0],
        "valkey": settings.valkey_url,
        "provider": settings.provider_url,
    }


async def order(stop: AsyncExitStack, laboratory: OwnDatabase, variant: UUID) -> tuple[UUID, UUID]:
    """An order that can be paid, placed while all is well, and whose it is."""
    well = await stop.enter_async_context(served_business(laboratory.settings()))
    lines = [{"variant_id": str(variant), "quantity": 1}]
    headers = {"idempotency-key": uuid4().hex}
    answer = await well.http.post("/orders", json={"lines": lines}, headers=headers)
    assert answer.status_code == 201, answer.text
    owner = await asyncpg.connect(laboratory.superuser_dsn())
    try:
        order_id = UUID(answer.json()["order_id"])
        sql = "select customer_id from orders where order_id = $1"
        return order_id, await owner.fetchval(sql, order_id)
    finally:
        await owner.close()


def check(answers: Sequence[httpx.Response], ports: Sequence[int]) -> None:
    """Nothing of ours is in status line, fields or body, and what is no success is a problem."""
    for answer in answers:
        told = [f"{name}: {value}" for name, value in answer.headers.items()]
        text = "\n".join([answer.reason_phrase, *told, answer.text]).lower()
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == PROBLEM_JSON, text
        for marker in (*MARKERS, *(f":{port}" for port in ports)):
            assert marker not in text, f"{answer.request.url.path} tells {marker!r}: {text}"


Fault = Callable[[Broken, str], Awaitable[None]]


async def refuses(shop: Broken, name: str) -> None:
    await shop.proxies[name].accept(Accept.REFUSE)
    shop.proxies[name].reset_all()


async def hangs(shop: Broken, name: str) -> None:
    shop.proxies[name].set(drop=True)


async def talks_nonsense(shop: Broken, name: str) -> None:
    """Something else answers at its address."""
    shop.proxies[name]._server = shop.nonsense
    shop.proxies[name].reset_all()


async def _nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GARBAGE)
    with suppress(ConnectionError):
        await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    "fault",
    [
        refuses,
        *(pytest.param(fault, marks=pytest.mark.faults) for fault in (hangs, talks_nonsense)),
    ],
)
async def test_no_answer_tells_of_a_dependency_that_fails(
    laboratory: OwnDatabase, fault: Fault
) -> None:
    async with broken(laboratory) as shop:
        ports = [proxy.port for proxy in shop.proxies.values()]
        ports += [urlsplit(url).port or 0 for url in addresses(laboratory.settings()).values()]
        for name in ("provider", "valkey", "standby", "primary"):  # one after another joins in
            await fault(shop, name)
            answers = await shop.ask_everything()
            check(answers, ports)
        failed = [answer.status_code for answer in answers if answer.status_code >= 500]
        assert len(failed) >= len(answers) - 2, "hardly anything has failed"


async def test_no_answer_tells_what_postgresql_says(laboratory: OwnDatabase) -> None:
    """Rights that are missing, a column that is gone, a function of somebody else's that raises."""
    owner = await asyncpg.connect(laboratory.superuser_dsn())
    ways = {
        "revoke insert on orders from tercet_app": "grant insert on orders to tercet_app",
        "alter table products rename column title to gone": (
            "alter table products rename column gone to title"
        ),
        RAISES: "drop trigger raises on stock; drop function raises",
    }
    try:
        async with broken(laboratory) as shop:
            for breaks, mends in ways.items():
                await owner.execute(breaks)
                try:
                    answers = await shop.ask_everything()
                    check(answers, [])
                    assert any(answer.status_code >= 500 for answer in answers), breaks
                finally:
                    await owner.execute(mends)
    finally:
        await owner.close()


async def test_no_answer_tells_whose_password_is_wrong(laboratory: OwnDatabase) -> None:
    wrong = SecretStr("wrong-" + uuid4().hex)
    async with broken(laboratory, app_password=wrong, read_password=wrong) as shop:
        answers = await shop.ask_everything()
        check(answers, [])
        assert sum(answer.status_code >= 500 for answer in answers) >= len(answers) - 2


RAISES: Final = """
    create function raises() returns trigger language plpgsql as $$ begin
        raise exception 'select * from cards failed at secret.internal'; end $$;
    create trigger raises before update on stock for each row execute function raises()
"""
