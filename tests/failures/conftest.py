"""A stack that tests here may break: the one that all others share stays whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
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


class OneAfterAnother:
    """A stack for all tests here, and another one as soon as that has ended."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._opened = ExitStack()
        self._running: RunningStack | None = None

    def running(self) -> RunningStack:
        if self._running is None:
            data_dir = self._folders.mktemp("broken") / "data"
            self._running = self._opened.enter_context(running_stack(data_dir, "--products", "20"))
        return self._running

    def left(self) -> None:
        """A test is over. Raises AssertionError, with what the stack said, if it ended in it."""
        if self._running is not None and self._running.process.poll() is not None:
            self.close()

    def close(self) -> None:
        self._running = None
        self._opened.close()


@pytest.fixture(scope="package")
def one_after_another(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneAfterAnother]:
    stacks = OneAfterAnother(tmp_path_factory)
    yield stacks
    stacks.close()


@pytest.fixture
def broken_stack(one_after_another: OneAfterAnother) -> Iterator[RunningStack]:
    """That of the test before, unless it ended there: then only that test fails."""
    yield one_after_another.running()
    one_after_another.left()


@pytest.fixture
def parts(broken_stack: RunningStack) -> Parts:
    return Parts(broken_stack.data_dir)


@pytest_asyncio.fixture
async def http(broken_stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(broken_stack.url) as client:
        yield client


@pytest_asyncio.fixture
async def books(broken_stack: RunningStack) -> AsyncIterator[Books]:
    """Opened anew for each test: the one before may have ended its connections."""
    dsn, standby = broken_stack.dsn("tercet_owner"), broken_stack.dsn("tercet_read", "standby")
    async with open_books(dsn, standby) as opened:
        yield opened


@pytest_asyncio.fixture
async def provider(broken_stack: RunningStack) -> AsyncIterator[ProviderBooks]:
    async with provider_books(broken_stack) as opened:
        yield opened


@pytest.fixture
def customer(http: httpx.AsyncClient) -> Customer:
    return Customer(http)
