"""Fixtures of tests that buy: re-exported by the conftest.py of each folder that needs them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from services.business.shop import Shop, open_shop
from tests.laboratory import OwnDatabase, migrated_database
from tests.running_stack import RunningStack
from tests.shopping import (
    Books,
    Customer,
    ProviderBooks,
    business_settings,
    http_client,
    open_books,
    provider_books,
)


@pytest_asyncio.fixture(scope="session")
async def http(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the shop's public address."""
    async with http_client(base_url) as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def business(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of business itself, as access is one: without access in front."""
    url = stack.environment["TERCET_BUSINESS_URL"]
    secret = {"x-internal-secret": stack.secret("internal_secret")}
    async with http_client(url, **secret) as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def books(owner_dsn: str, read_dsn: str) -> AsyncIterator[Books]:
    async with open_books(owner_dsn, read_dsn) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session")
async def provider(stack: RunningStack) -> AsyncIterator[ProviderBooks]:
    async with provider_books(stack) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session")
async def shop(stack: RunningStack) -> AsyncIterator[Shop]:
    """Business inside the test's process, on the servers of the stack."""
    async with open_shop(business_settings(stack)) as opened:
        yield opened


@pytest.fixture
def customer(http: httpx.AsyncClient) -> Customer:
    """Somebody whom the shop does not know yet."""
    return Customer(http)


@pytest_asyncio.fixture(scope="session")
async def laboratory(stack: RunningStack) -> AsyncIterator[OwnDatabase]:
    """A database beside the shop's, for what workers and other tests must not meddle with."""
    async with migrated_database(stack) as database:
        yield database


@pytest_asyncio.fixture(scope="session")
async def lab_books(laboratory: OwnDatabase) -> AsyncIterator[Books]:
    standby = laboratory.superuser_dsn("standby")
    async with open_books(laboratory.superuser_dsn(), standby, relayed=False) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session")
async def lab_shop(laboratory: OwnDatabase) -> AsyncIterator[Shop]:
    """Business on the laboratory's database, where no worker runs but the test."""
    async with open_shop(laboratory.settings(provider_timeout_ms=500)) as opened:
        yield opened
