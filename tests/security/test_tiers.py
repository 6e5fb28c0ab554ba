"""S25: between the tiers nobody is trusted for where they come from, and a role does one thing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import httpx
import psutil
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.business.endpoints import INTERNAL, PUBLIC
from tests.running_stack import RunningStack
from tests.security.wire import TELLTALE

PATHS: Final = sorted({endpoint.path for endpoint in (*PUBLIC, *INTERNAL)})
BESIDE: Final = ("/", "/docs", "/openapi.json", "/metrics", "/problems/not-found", "/live/", "/x")
REFUSED: Final = (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)
DDL: Final = (
    "create table stolen (x int)",
    "create temporary table stolen (x int)",
    "create schema stolen",
    "create extension dblink",
    "create role stolen",
    "alter table products add column stolen int",
    "alter role tercet_app superuser",
    "drop table products",
    "truncate orders",
    "create function stolen() returns int language sql as 'select 1'",
    "create index stolen on products (title)",
    "set role tercet_owner",
    "copy products to program 'id'",
    "select pg_read_file('/etc/passwd')",
)
WRITES: Final = (
    "insert into categories (category_slug, title) values ('stolen', 'stolen')",
    "update variants set price_minor = 0",
    "delete from orders",
    "select * from products for update",
)


@pytest.fixture
async def business(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    address = stack.part("business")["address"]
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        yield client


@pytest.mark.parametrize("path", [*PATHS, *BESIDE])
async def test_business_answers_nothing_without_the_secret(
    stack: RunningStack, business: httpx.AsyncClient, path: str
) -> None:
    right = stack.secret("internal_secret")
    for shown in (None, "", right[:-1], right + "x", right.swapcase(), secrets.token_urlsafe(32)):
        headers = {} if shown is None else {"x-internal-secret": shown}
        for method in ("GET", "POST", "OPTIONS"):
            answer = await business.request(method, path, headers=headers)
            assert answer.status_code == 403
            assert answer.json()["type"] == "/problems/forbidden"
            assert TELLTALE.search(answer.text) is None


async def test_without_the_secret_business_says_only_how_it_is(
    business: httpx.AsyncClient,
) -> None:
    for path, word in (("/live", "live"), ("/ready", "ready")):
        answer = await business.get(path)
        assert (answer.status_code, answer.text[: len(word)]) == (200, word)


@pytest.mark.parametrize("path", ["/charges", "/charges/x"])
async def test_the_provider_answers_nothing_without_its_secret(
    stack: RunningStack, path: str
) -> None:
    address = stack.part("provider")["address"]
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        for token in ("", "Bearer x", f"Bearer {stack.secret('internal_secret')}"):
            answer = await client.get(path, headers={"authorization": token})
            assert answer.status_code == 401


async def test_valkey_answers_nothing_without_its_password(stack: RunningStack) -> None:
    host, _, port = stack.part("valkey")["address"].rpartition(":")
    client = redis.asyncio.Redis(host=host, port=int(port), retry=Retry(NoBackoff(), 0))
    with pytest.raises(redis.AuthenticationError):
        await client.ping()
    await client.aclose()


async def test_the_servers_behind_access_listen_on_this_machine_only(stack: RunningStack) -> None:
    for name in ("primary", "standby", "valkey", "provider", "business"):
        connections = psutil.Process(stack.part(name)["pid"]).net_connections("tcp")
        places = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
        assert places <= {"127.0.0.1", "::1"}, name


@pytest.mark.parametrize("sql", WRITES)
@pytest.mark.parametrize("server", ["primary", "standby"])
async def test_the_reading_role_writes_nowhere(stack: RunningStack, server: str, sql: str) -> None:
    with pytest.raises(REFUSED):
        await ask(stack, "tercet_read", server, sql)


@pytest.mark.parametrize("sql", DDL)
@pytest.mark.parametrize("role", ["tercet_app", "tercet_read"])
async def test_no_role_of_the_application_changes_the_schema(
    stack: RunningStack, role: str, sql: str
) -> None:
    with pytest.raises(REFUSED):
        await ask(stack, role, "primary", sql)


@pytest.mark.parametrize("sql", ["update ledger_transfers set amount_minor = 1", "delete from {}"])
async def test_the_ledger_only_grows(stack: RunningStack, sql: str) -> None:
    with pytest.raises(REFUSED):
        await ask(stack, "tercet_app", "primary", sql.format("ledger_transfers"))


@pytest.mark.parametrize("role", ["tercet_app", "tercet_read", "tercet_owner"])
async def test_no_role_gets_in_without_its_password(stack: RunningStack, role: str) -> None:
    place = stack.part("primary")["address"]
    for password in ("", role, stack.secret("superuser_password")):
        with pytest.raises(
            (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)
        ):
            await asyncpg.connect(f"postgresql://{role}@{place}/tercet", password=password)


async def ask(stack: RunningStack, role: str, server: str, sql: str) -> Any:
    """Run it as that role in a transaction that is never kept."""
    connection = await asyncpg.connect(stack.dsn(role, server))
    try:
        transaction = connection.transaction()
        await transaction.start()
        try:
            return await connection.fetch(sql)
        finally:
            await transaction.rollback()
    finally:
        await connection.close()
