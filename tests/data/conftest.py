"""What tests of the data tier work on."""

from __future__ import annotations

import pytest_asyncio

from services.business.shop import Shop
from services.data.store import Store
from tests.running_stack import RunningStack
from tests.shop_fixtures import books, business, customer, http, provider, shop

__all__ = ["books", "business", "customer", "http", "provider", "shop"]


@pytest_asyncio.fixture(scope="session")
async def store(stack: RunningStack, shop: Shop) -> Store:
    """The opened data tier, on the servers of the stack."""
    return shop.store
