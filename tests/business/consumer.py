"""A consumer of events as docs/outbox.md describes one: it counts what was ordered of each kind.

An event may come twice, also long after the first time. Its id is written down in the transaction
that has its effect, so the second one has none.
"""

from __future__ import annotations

from typing import Any

import asyncpg
from redis.asyncio import Redis

from services.data.publisher import EVENTS_STREAM

TABLES = """
    create table consumed_events (event_id bigint primary key);
    create table event_counts (aggregate_id text primary key, count bigint not null)
"""
FIRST_TIME = """
    insert into consumed_events (event_id) values ($1) on conflict do nothing returning true
"""
COUNT = """
    insert into event_counts values ($1, 1)
    on conflict (aggregate_id) do update set count = event_counts.count + 1
"""


async def consume(valkey: Redis, connection: asyncpg.Connection[asyncpg.Record], after: str) -> str:
    """Take in what came after the stream's entry `after`; returns where to go on."""
    entries: Any = await valkey.xrange(EVENTS_STREAM, min=f"({after}", count=1000)
    for entry_id, event in entries:
        async with connection.transaction():
            if await connection.fetchval(FIRST_TIME, int(event[b"event_id"])):
                await connection.execute(COUNT, event[b"aggregate_id"].decode())
        after = entry_id.decode()
    return after
