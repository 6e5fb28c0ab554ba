"""A stack that tests here may break: the one that all others share stays whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.faults.parts import Parts
from tests.running_stack import RunningStack, running_stack
from tests.shopping import (
    Books,
    Customer,
    ProviderBooks,
    http_client,
    open_books,
    provider_books,
)

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What breaks things measures how long they stay broken: it has the machine to itself."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="package")
def broken_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("broken") / "data", "--products", "20") as running:
        yield running


@pytest.fixture(scope="package")
def parts(broken_stack: RunningStack) -> Parts:
    return Parts(broken_stack.data_dir)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def http(broken_stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(broken_stack.url) as client:
        yield client


@pytest_asyncio.fixture
async def books(broken_stack: RunningStack) -> AsyncIterator[Books]:
    """Opened anew for each test: the one before may have ended its connections."""
    dsn, standby = broken_stack.dsn("tercet_owner"), broken_stack.dsn("tercet_read", "standby")
    async with open_books(dsn, standby) as opened:
        yield opened


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def provider(broken_stack: RunningStack) -> AsyncIterator[ProviderBooks]:
    async with provider_books(broken_stack) as opened:
        yield opened


@pytest.fixture
def customer(http: httpx.AsyncClient) -> Customer:
    return Customer(http)
