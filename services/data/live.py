"""Live states: read of what somebody watches, and written to the stream that access follows.

Only who holds the lease writes, and Valkey itself looks at that with each write: a worker that was
too slow, or was replaced, has no say any more, so states of one thing never go back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from redis.asyncio import Redis

from services.data.flash_sales import SELECT_SALES, Sale
from services.data.link import Record
from services.data.sources import Reader
from services.live_stream import STREAM, STREAM_KEPT
from services.live_watch import ASKED, WATCHED
from services.settings import ValkeySettings
from services.valkey import LOST, close, connect

LEASE_KEY: Final = "tercet:live:lease"
# A worker renews it with each round, twice a second at least; who is killed is missed so long.
LEASE_MS: Final = 2000
ORDERS_SHOWN: Final = 10  # of a customer: his last ones
VARIANTS_SHOWN: Final = 200  # of a product; a state of more would be more than 32 KB
KEYS_AT_ONCE: Final = 1000  # of one statement: the lease is renewed between two
TIMEOUT_S: Final = 1.0  # nobody waits for it, and what was written twice is only told twice
STATES_AT_ONCE: Final = 200  # of one script: 60 KB, during which Valkey does nothing else


class LiveState(NamedTuple):
    """What something is now, as clients get it. key: of what; its topic, where that is one."""

    topic: str
    event: str
    data: bytes
    key: str


class LiveVariant(NamedTuple):
    """A variant on sale; prices in minor units of currency, available in units."""

    slug: str
    variant_id: UUID
    currency: str
    price_minor: int
    compare_at_minor: int | None
    band: str
    available: int


class LiveOrder(NamedTuple):
    """An order of a customer, with the state of its last payment."""

    customer_id: UUID
    order_id: UUID
    state: str
    currency: str
    total_minor: int
    hold_expires_at: datetime
    updated_at: datetime
    payment_id: UUID | None
    payment_state: str | None


SELECT_VARIANTS: Final = """
    select p.slug, v.variant_id, v.currency, v.price_minor, v.compare_at_minor,
        coalesce(s.band, 'sold_out'), coalesce(s.available, 0)
    from products p join variants v using (product_id) left join stock s using (variant_id)
    where p.slug = any($1::text[]) and p.published and v.retired_at is null
    order by p.slug, v.position, v.variant_id
"""

# order_id is a uuidv7, so the last ones have the highest.
SELECT_ORDERS: Final = """
    select o.customer_id, o.order_id, o.state, o.currency, o.total_minor, o.hold_expires_at,
        o.updated_at, p.payment_id, p.state as payment_state
    from unnest($1::uuid[]) as watched (customer_id)
    cross join lateral (
        select * from orders where customer_id = watched.customer_id
        order by order_id desc limit $2
    ) o
    left join lateral (
        select payment_id, state from payments
        where customer_id = o.customer_id and order_id = o.order_id
        order by created_at desc, payment_id desc limit 1
    ) p on true
    order by o.customer_id, o.order_id
"""

# Renews or takes the lease: 1 it was ours, 2 it is now; 0: another has it.
TAKE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0, {}} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local asked = redis.call('SMEMBERS', KEYS[2])
redis.call('DEL', KEYS[2])
return {holder and 1 or 2, asked}
"""

RENEW: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
"""

RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

LIVE_TOPICS: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""

# 1 written, 2 written to a stream that was not there; 0: the lease is another's.
WRITE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local there = redis.call('EXISTS', KEYS[2])
for at = 3, #ARGV, 4 do
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'topic', ARGV[at], 'key', ARGV[at + 1],
        'event', ARGV[at + 2], 'data', ARGV[at + 3])
end
return there == 1 and 1 or 2
"""


class LeaseLost(Exception):
    """Another worker writes now; nothing was written."""


class Turn(NamedTuple):
    """held: whether this worker writes; anew: since just now; asked: topics somebody waits for."""

    held: bool
    anew: bool
    asked: list[str]


@asynccontextmanager
async def open_desk(settings: ValkeySettings) -> AsyncIterator[LiveDesk]:
    """A desk with a connection of its own, and the lease given back at the end."""
    valkey = connect(settings, timeout_s=TIMEOUT_S)
    desk = LiveDesk(valkey)
    try:
        yield desk
    finally:
        with suppress(*LOST, TimeoutError):
            await desk.release()
        await close(valkey)


class LiveDesk:
    """One worker's end of the stream; its methods raise what redis raises."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey
        self._token = uuid4().hex

    async def take(self) -> Turn:
        """Take the lease or renew it. What was asked for is this worker's to tell from then on."""
        state, asked = await self._eval(TAKE, (LEASE_KEY, ASKED), self._token, LEASE_MS)
        return Turn(state > 0, state == 2, [topic.decode() for topic in asked])

    async def renew(self) -> None:
        """Keep it, if it still is ours."""
        await self._eval(RENEW, (LEASE_KEY,), self._token, LEASE_MS)

    async def release(self) -> None:
        await self._eval(RELEASE, (LEASE_KEY,), self._token)

    async def watched(self) -> list[str]:
        """All topics that somebody watches."""
        return [topic.decode() for topic in await self._eval(LIVE_TOPICS, (WATCHED,))]

    async def write(self, states: Sequence[LiveState]) -> bool:
        """Append states in their order; whether the stream was there. Raises LeaseLost."""
        there = True
        for at in range(0, len(states), STATES_AT_ONCE):
            arguments: list[str | bytes | int] = [self._token, STREAM_KEPT]
            for state in states[at : at + STATES_AT_ONCE]:
                arguments += (state.topic, state.key, state.event, state.data)
            written = await self._eval(WRITE, (LEASE_KEY, STREAM), *arguments)
            if not written:
                raise LeaseLost
            there = there and written == 1
        return there

    async def _eval(self, script: str, keys: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        return await self._valkey.eval(script, len(keys), *keys, *arguments)


async def write_state(valkey: Redis, state: LiveState) -> None:
    """Append a state of a topic of which only the caller writes; raises what redis raises."""
    fields: dict[Any, Any] = {
        "topic": state.topic,
        "key": state.key,
        "event": state.event,
        "data": state.data,
    }
    await valkey.xadd(STREAM, fields, maxlen=STREAM_KEPT, approximate=True)


async def is_watched(valkey: Redis, topic: str) -> bool:
    """Whether somebody listens to a topic, or did a few seconds ago."""
    return await valkey.zscore(WATCHED, topic) is not None


async def select_variants(reader: Reader, slugs: Sequence[str]) -> dict[str, list[Record]]:
    """The variants on sale of products that are, by slug, in their order on the page.

    As rows: most are what they were, and to compare them is a tenth of making them into objects.
    """
    found: dict[str, list[Record]] = {}
    for row in await reader.fetch(SELECT_VARIANTS, list(slugs)):
        of_product = found.setdefault(row[0], [])
        if len(of_product) < VARIANTS_SHOWN:
            of_product.append(row)
    return found


def live_variants(rows: Sequence[Record]) -> list[LiveVariant]:
    return [LiveVariant(*row) for row in rows]


async def select_sales(reader: Reader, flash_sale_ids: Sequence[UUID]) -> dict[UUID, Sale]:
    rows = await reader.fetch(SELECT_SALES, list(flash_sale_ids))
    return {row["flash_sale_id"]: Sale(*row) for row in rows}


async def select_orders(reader: Reader, customer_ids: Sequence[UUID]) -> list[LiveOrder]:
    """The last orders of customers, each customer's from the oldest on."""
    rows = await reader.fetch(SELECT_ORDERS, list(customer_ids), ORDERS_SHOWN)
    return [LiveOrder(*row) for row in rows]
