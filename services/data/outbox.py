"""The outbox: what has to be told to others, written in the transaction that causes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import orjson
from redis.asyncio import Redis

from services.data.sources import Primary, Transaction
from services.data.tags import WAKE_CHANNEL
from services.valkey import LOST

__all__ = ["LOST"]

EVENTS_STREAM: Final = "tercet:events"
EVENTS_KEPT: Final = 100_000  # about a day of orders of a shop that takes one a second
# Publishing takes milliseconds or fails within the cache's timeout; what a relay that was killed
# had claimed is told after this at the latest.
CLAIM_LEASE: Final = timedelta(seconds=1)
PUBLISHED_KEPT: Final = timedelta(hours=1)
TRIMMED: Final = 5000  # rows at once: some 10 ms, where a backlog as a whole runs into its timeout


class OutboxRow(NamedTuple):
    """kind is tag or event; name the tag, or what happened to aggregate_id."""

    outbox_id: int
    kind: str
    name: str
    aggregate_id: str
    payload: str


INSERT_TAGS = """
    insert into outbox (kind, name, aggregate_id)
    select 'tag', tag, tag from unnest($1::text[]) as tag
"""

INSERT_EVENT = """
    insert into outbox (kind, name, aggregate_id, payload) values ('event', $1, $2, $3)
"""

CLAIM_UNPUBLISHED = """
    with oldest as (
        select outbox_id from outbox
        where published_at is null and (claimed_until is null or claimed_until <= now())
        order by outbox_id limit $1 for update skip locked
    ), claimed as (
        update outbox o set claimed_until = now() + $2::interval
        from oldest where o.outbox_id = oldest.outbox_id
        returning o.outbox_id, o.kind, o.name, o.aggregate_id, o.payload::text
    )
    select * from claimed order by outbox_id
"""

MARK_PUBLISHED = """
    update outbox set published_at = clock_timestamp() where outbox_id = any($1)
"""

RELEASE = "update outbox set claimed_until = null where outbox_id = any($1)"

TRIM = """
    with old as (
        select outbox_id from outbox where published_at < now() - $1::interval
        order by published_at limit $2 for update skip locked
    ), gone as (
        delete from outbox o using old where o.outbox_id = old.outbox_id returning true
    )
    select count(*) from gone
"""

TAGS_ARE_LATE = """
    select exists (
        select from outbox
        where published_at is null and kind = 'tag' and claimed_until is not null
    )
"""

POSITION = "select (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint"


async def insert_tags(tx: Transaction, tags: Sequence[str]) -> None:
    """Say that pages with these tags are old once the transaction has committed."""
    if tags:
        await tx.execute(INSERT_TAGS, list(tags))


async def insert_event(
    tx: Transaction, name: str, aggregate_id: str, payload: dict[str, Any]
) -> None:
    await tx.execute(INSERT_EVENT, name, aggregate_id, orjson.dumps(payload).decode())


async def claim_unpublished(tx: Transaction, limit: int) -> list[OutboxRow]:
    """The oldest rows that no other relay has; they are the caller's for CLAIM_LEASE."""
    return [OutboxRow(*row) for row in await tx.fetch(CLAIM_UNPUBLISHED, limit, CLAIM_LEASE)]


async def mark_published(tx: Transaction, outbox_ids: list[int]) -> None:
    await tx.execute(MARK_PUBLISHED, outbox_ids)


async def release_claims(tx: Transaction, outbox_ids: list[int]) -> None:
    """Give rows back that could not be published: the next relay need not wait for the lease."""
    await tx.execute(RELEASE, outbox_ids)


async def trim_published(primary: Primary) -> bool:
    """Drop a portion of what was published a good while ago; returns whether there may be more."""
    async with primary.transaction() as tx:
        return bool(await tx.fetchval(TRIM, PUBLISHED_KEPT, TRIMMED) == TRIMMED)


async def tags_are_late(primary: Primary) -> bool:
    """Whether a tag is claimed and not told: by a relay that is at it, or by one that died."""
    late: bool = await primary.fetchval(TAGS_ARE_LATE)
    return late


async def position_after(primary: Primary) -> int:
    """A WAL position behind everything that has committed before this call."""
    return int(await primary.fetchval(POSITION))


async def publish_events(valkey: Redis, rows: list[OutboxRow]) -> None:
    """Append events to their stream, at least once; consumers drop what they know by event_id."""
    async with valkey.pipeline(transaction=False) as pipeline:
        for row in rows:
            fields = {
                "event_id": str(row.outbox_id),
                "name": row.name,
                "aggregate_id": row.aggregate_id,
                "payload": row.payload,
            }
            pipeline.xadd(EVENTS_STREAM, fields, maxlen=EVENTS_KEPT, approximate=True)  # type: ignore[arg-type]  # redis-py's field types are invariant
        await pipeline.execute()


async def wake_relay(valkey: Redis) -> None:
    """Tell the relays that there is something to publish; called after the commit."""
    await valkey.publish(WAKE_CHANNEL, b"")
