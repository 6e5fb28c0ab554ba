"""What tests of the data tier work on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.business.shop import Shop
from services.data.cache import Cache
from services.data.store import Store
from services.tags import TagSubscriber
from tests.data.caching import MakeCache, Thing, heard, things
from tests.data.redis_server import redis_7
from tests.running_stack import RunningStack
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


@pytest.fixture(
    scope="session", params=["valkey", pytest.param("redis7", marks=pytest.mark.faults)]
)
def cache_url(request: pytest.FixtureRequest, stack: RunningStack) -> Iterator[str]:
    """Where the caches of tests keep their values: in the stack's Valkey; in the long forms in
    Redis 7 as well, which many have."""
    if request.param == "valkey":
        yield stack.valkey_url
    else:
        with redis_7() as url:
            yield url


@pytest_asyncio.fixture
async def valkey(cache_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(cache_url)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def stream(valkey: Redis) -> TagSubscriber:
    """A tag stream on which only this test speaks; a first message has been heard."""
    subscriber = TagSubscriber(valkey)
    heard(subscriber)
    return subscriber


@pytest.fixture
def make_cache(store: Store, stream: TagSubscriber, valkey: Redis) -> MakeCache:
    """Caches of one kind, as in several processes: they share Valkey and nothing else."""
    name = f"test-{uuid4().hex}"

    def make() -> Cache[Thing]:
        return things(store, stream, valkey, name=name)

    return make


@pytest.fixture
def cache(make_cache: MakeCache) -> Cache[Thing]:
    return make_cache()
