"""What tests here buy with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.business.hashers import Hashers
from tests.accounts import Person
from tests.business import prompt_hasher
from tests.business.counting import (
    counted,
    counted_books,
    counting,
    counting_database,
    log,
    own_log,
)
from tests.laboratory import OwnDatabase
from tests.served_business import ServedBusiness, served_business
from tests.shop_fixtures import (
    books,
    business,
    customer,
    http,
    lab_books,
    lab_shop,
    laboratory,
    provider,
    shop,
)
from tests.shopping import Books

__all__ = [
    "books",
    "business",
    "counted",
    "counted_books",
    "counting",
    "counting_database",
    "customer",
    "http",
    "lab_books",
    "lab_shop",
    "laboratory",
    "log",
    "own_log",
    "provider",
    "shop",
]


@pytest_asyncio.fixture(scope="session")
async def served(laboratory: OwnDatabase) -> AsyncIterator[ServedBusiness]:
    """Business on a database where no worker sends the mails that tests read."""
    async with served_business(laboratory.settings()) as running:
        passwords = running.gate.shop.passwords
        passwords.hashers = Hashers(passwords.processes, prompt_hasher.COMMAND)
        yield running


@pytest.fixture
def person(served: ServedBusiness, lab_books: Books) -> Person:
    """Somebody without an account, in a network of his own."""
    return Person(served.http, lab_books)
