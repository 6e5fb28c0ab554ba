"""What is cached in tests: things whose loads are counted and can be held up, and their caches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import uuid4

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.data.cache import Cache
from services.data.joined import JoinedValkey
from services.data.loads import Loads
from services.data.sources import Reader
from services.data.store import Store
from services.tags import TagMessage, TagSubscriber
from services.upstream import Upstream

FAR = 2**60  # a position no server ever reaches


class Thing(msgspec.Struct, frozen=True):
    text: str


def size_of(thing: Thing) -> int:
    return len(thing.text)


class Source:
    """What is cached: a value that changes, whose loads are counted and can be held up."""

    def __init__(self, text: str = "old", tag: str = "") -> None:
        self.text = text
        self.tag = tag or uuid4().hex
        self.loads = 0
        self.reading = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def load(self, reader: Reader) -> tuple[Thing, Sequence[str]] | None:
        """Reads the value first and is slow to return it, as a slow reader is."""
        self.loads += 1
        seen = self.text
        self.reading.set()
        await self.let_go.wait()
        return (Thing(seen), [self.tag]) if seen else None


def heard(subscriber: TagSubscriber, *tags: str, position: int = 0, sequence: int = 1) -> None:
    """Let a message in, as from a relay."""
    message = TagMessage("relay", sequence, position, list(tags))
    subscriber.receive(msgspec.json.encode(message))


MakeCache = Callable[[], Cache[Thing]]


def things(
    store: Store,
    stream: TagSubscriber,
    valkey: Redis,
    *,
    name: str = "",
    upstream: Upstream | None = None,
    loads: Loads | None = None,
    ttl_s: float = 30.0,
) -> Cache[Thing]:
    """A cache as that of one process; those of one name share what is in Valkey."""
    upstream = upstream or Upstream(
        "valkey", timeout_s=1.0, max_concurrent=64, answers=(ResponseError,)
    )
    return Cache(
        name or f"test-{uuid4().hex}",
        Thing,
        version=1,
        ttl_s=ttl_s,
        size_of=size_of,
        database=store.database,
        valkey=JoinedValkey(valkey, upstream),
        stream=stream,
        loads=loads or Loads(64),
    )


async def text_of(
    cache: Cache[Thing], source: Source, key: str = "key", *, needed: int = 0
) -> str | None:
    found = await cache.get(key, source.load, needed=needed)
    if found is None:
        return None
    assert found.position >= needed
    return found.value.text


def expire(cache: Cache[Thing], key: str = "key", *, by_s: float = 0.0) -> None:
    """As if the time of what is in memory had been over for so long."""
    entry = cache.memory.entries[key]
    entry.expires_at = entry.read_at - by_s
