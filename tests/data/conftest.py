"""What tests of the data tier work on."""

from __future__ import annotations

import pytest_asyncio

from services.business.shop import Shop
from services.data.store import Store
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

__all__ = [
    "books",
    "business",
    "customer",
    "http",
    "lab_books",
    "lab_shop",
    "laboratory",
    "provider",
    "shop",
]


@pytest_asyncio.fixture(scope="session")
async def store(shop: Shop) -> Store:
    """The opened data tier, on the servers of the stack."""
    return shop.store
