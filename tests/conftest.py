"""The stack that all tests share: real parts on free ports, in a folder of its own."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.faults import figures
from tests.running_stack import RunningStack, running_stack

# A traceback drawn with the values of all variables takes seconds where one of them is a shop.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

# Of tests that do not say how many they need. HYPOTHESIS_PROFILE=default has twice as many.
settings.register_profile("short", max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def pytest_collection_finish() -> None:
    """What 6,000 tests are described by stays until the end: a full collection need not look at
    it each time, which takes 0.2 s of every process."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logstart(nodeid: str) -> None:
    figures.begins(nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    figures.reported(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    figures.ended(session.config)


# One customer of a test is a hundred clients of a shop, and sixty come in one millisecond to a
# machine that has other things to do; limits have tests of their own.
UNLIMITED = {"TERCET_CUSTOMER_RATES": "", "TERCET_POOL_WAIT_MS": "3000"}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The whole stack with a small catalog; a test must leave it as healthy as it was."""
    data_dir = tmp_path_factory.mktemp("stack") / "data"
    with running_stack(data_dir, "--products", "300", environment=UNLIMITED) as running:
        yield running


@pytest.fixture(scope="session")
def base_url(stack: RunningStack) -> str:
    """The shop's address."""
    return stack.url


@pytest.fixture(scope="session")
def data_dir(stack: RunningStack) -> Path:
    """The stack's data folder."""
    return stack.data_dir


@pytest.fixture(scope="session")
def owner_dsn(stack: RunningStack) -> str:
    """The primary as tercet_owner, password included."""
    return stack.dsn("tercet_owner")


@pytest.fixture(scope="session")
def app_dsn(stack: RunningStack) -> str:
    """The primary as tercet_app, password included."""
    return stack.dsn("tercet_app")


@pytest.fixture(scope="session")
def read_dsn(stack: RunningStack) -> str:
    """The standby as tercet_read, password included."""
    return stack.dsn("tercet_read", "standby")


@pytest.fixture(scope="session")
def valkey_url(stack: RunningStack) -> str:
    """Valkey, password included."""
    return stack.valkey_url
