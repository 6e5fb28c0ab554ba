"""The outbox: what has to be told to others, written in the transaction that causes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

import orjson

from services.data.sources import Primary, Reader, Transaction

# Publishing takes milliseconds or fails within the cache's timeout; what a relay that was killed
# had claimed is told after this at the latest.
CLAIM_LEASE: Final = timedelta(seconds=1)
PUBLISHED_KEPT: Final = timedelta(hours=1)
LAG_ROWS: Final = 10_000  # counted in some 2 ms; more is as bad
TRIMMED: Final = 5000  # rows at once: some 10 ms, where a backlog as a whole runs into its timeout


class OutboxRow(NamedTuple):
    """kind is tag or event; name the tag, or what happened to aggregate_id."""

    outbox_id: int
    kind: str
    name: str
    aggregate_id: str
    payload: str


class Lag(NamedTuple):
    """Rows that wait to be published, counted up to LAG_ROWS, and the age of the oldest."""

    rows: int
    oldest_s: float


class Event(NamedTuple):
    """Something that has happened to aggregate_id."""

    name: str
    aggregate_id: str
    payload: dict[str, Any]


INSERT_TAGS = """
    insert into outbox (kind, name, aggregate_id)
    select 'tag', tag, tag from unnest($1::text[]) as tag
"""

INSERT_EVENTS = """
    insert into outbox (kind, name, aggregate_id, payload)
    select 'event', name, aggregate_id, payload::jsonb
    from unnest($1::text[], $2::text[], $3::text[]) as e (name, aggregate_id, payload)
"""

# Two relays must not overtake each other with the events of one aggregate: an event is claimed only
# together with, or after, all that came before it. Tags are claimed beside them: they do not wait
# in a line of events that can not be published. `earlier` looks no further than the rows that could
# be taken, so it reads those that other relays have, however long the line behind them is.
CLAIM_UNPUBLISHED = """
    with tags as materialized (
        select outbox_id, kind, aggregate_id from outbox
        where published_at is null and kind = 'tag'
            and (claimed_until is null or claimed_until <= now())
        order by outbox_id limit $1 for update skip locked
    ), events as materialized (
        select outbox_id, kind, aggregate_id from outbox
        where $3 and published_at is null and kind = 'event'
            and (claimed_until is null or claimed_until <= now())
        order by outbox_id limit $1 for update skip locked
    ), oldest as materialized (
        select * from tags union all select * from events
    ), earlier as materialized (
        select o.aggregate_id, min(o.outbox_id) as first_id from outbox o
        where o.published_at is null and o.kind = 'event'
            and o.outbox_id < (select max(outbox_id) from events)
            and o.outbox_id not in (select outbox_id from events)
        group by o.aggregate_id
    ), claimed as (
        update outbox o set claimed_until = now() + $2::interval
        from oldest left join earlier using (aggregate_id)
        where o.outbox_id = oldest.outbox_id
            and (oldest.kind = 'tag' or first_id is null or oldest.outbox_id < first_id)
        returning o.outbox_id, o.kind, o.name, o.aggregate_id, o.payload::text
    )
    select * from claimed order by outbox_id
"""

# The rows of a bitmap are read again and again after they were published, until the next vacuum; an
# index scan marks their entries as dead on its way, and the next one passes them over.
WITHOUT_BITMAPS = "select set_config('enable_bitmapscan', 'off', true)"

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

SELECT_LAG = """
    select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
    from (select created_at from outbox where published_at is null order by outbox_id limit $1) old
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


async def insert_events(tx: Transaction, events: Sequence[Event]) -> None:
    """Tell what has happened, once the transaction has committed; order is kept."""
    if events:
        payloads = [orjson.dumps(event.payload).decode() for event in events]
        names = [event.name for event in events]
        await tx.execute(INSERT_EVENTS, names, [event.aggregate_id for event in events], payloads)


async def claim_unpublished(
    tx: Transaction, limit: int, *, with_events: bool = True
) -> list[OutboxRow]:
    """The oldest tags and events, `limit` of each, that no other relay has; they are the caller's
    for CLAIM_LEASE."""
    await tx.execute(WITHOUT_BITMAPS)
    rows = await tx.fetch(CLAIM_UNPUBLISHED, limit, CLAIM_LEASE, with_events)
    return [OutboxRow(*row) for row in rows]


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


async def lag(reader: Reader) -> Lag:
    """How far the relays are behind."""
    row = await reader.fetchrow(SELECT_LAG, LAG_ROWS)
    return Lag(*row) if row is not None else Lag(0, 0.0)
