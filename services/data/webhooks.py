"""What providers said by themselves: stored before it is handled, once for each webhook_id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from services.data.sources import Primary, Transaction

State = Literal["handled", "ignored"]

# An outage of some minutes at a peak; they are counted before every insert.
BACKLOG_MAX: Final = 20_000
HANDLED_KEPT: Final = timedelta(days=7)  # longer than any provider sends one again
TRIMMED: Final = 1000  # rows at once


class WebhookKey(NamedTuple):
    provider: str
    webhook_id: str


class Webhook(NamedTuple):
    """A webhook whose signature was right; payload: the bytes as they came."""

    provider: str
    webhook_id: str
    payload: bytes

    @property
    def key(self) -> WebhookKey:
        return WebhookKey(self.provider, self.webhook_id)


class Due(NamedTuple):
    """A webhook that waits, and for how long by the database's clock."""

    webhook: Webhook
    age: timedelta


class Done(NamedTuple):
    """What became of a webhook; detail says why, where it was ignored."""

    key: WebhookKey
    state: State
    detail: str = ""


class BacklogFull(Exception):
    """Too many wait to be handled; nothing was stored."""


# Counted no further than the limit, by an index of those that wait.
IS_FULL = """
    select exists (select from webhook_events where state = 'waiting' offset $1 limit 1)
"""

# Waits for a transaction that is just inserting the same one, and then leaves it alone. All insert
# in one order, so that no two wait for each other.
INSERT_WEBHOOKS = """
    insert into webhook_events (provider, webhook_id, payload, next_attempt_at)
    select provider, webhook_id, payload, now() + $4::interval
    from unnest($1::text[], $2::text[], $3::bytea[]) as n (provider, webhook_id, payload)
    order by provider, webhook_id
    on conflict on constraint webhook_events_pkey do nothing
    returning provider, webhook_id
"""

# Pushing next_attempt_at is the lease: another worker leaves these alone until then.
CLAIM_DUE = """
    with due as (
        select provider, webhook_id from webhook_events
        where state = 'waiting' and next_attempt_at <= now()
        order by next_attempt_at limit $1 for update skip locked
    )
    update webhook_events e set attempt_count = e.attempt_count + 1,
        next_attempt_at = now() + least($2::interval * power(2, least(e.attempt_count, 12)), $3)
    from due d where e.provider = d.provider and e.webhook_id = d.webhook_id
    returning e.provider, e.webhook_id, e.payload, now() - e.received_at as age
"""

END_WEBHOOKS = """
    update webhook_events e set state = n.state, detail = n.detail, handled_at = now()
    from unnest($1::text[], $2::text[], $3::text[], $4::text[])
        as n (provider, webhook_id, state, detail)
    where e.provider = n.provider and e.webhook_id = n.webhook_id and e.state = 'waiting'
"""

TRIM = """
    with old as (
        select provider, webhook_id from webhook_events
        where handled_at < now() - $1::interval
        order by handled_at limit $2 for update skip locked
    ), gone as (
        delete from webhook_events e using old
        where e.provider = old.provider and e.webhook_id = old.webhook_id returning true
    )
    select count(*) from gone
"""


async def insert_webhooks(
    tx: Transaction, webhooks: Sequence[Webhook], *, lease: timedelta
) -> set[WebhookKey]:
    """Store webhooks; returns the keys of those that are new. Raises BacklogFull.

    lease: for so long they are left to the process that received them.
    """
    if await tx.fetchval(IS_FULL, BACKLOG_MAX - 1):
        raise BacklogFull
    columns = [list(column) for column in zip(*webhooks, strict=True)]
    return {WebhookKey(*row) for row in await tx.fetch(INSERT_WEBHOOKS, *columns, lease)}


async def claim_due_webhooks(
    tx: Transaction, limit: int, *, first_wait: timedelta, longest_wait: timedelta
) -> list[Due]:
    """Webhooks whose next attempt is due, leased to the caller until the one after it."""
    rows = await tx.fetch(CLAIM_DUE, limit, first_wait, longest_wait)
    return [Due(Webhook(*row[:-1]), row[-1]) for row in rows]


async def end_webhooks(tx: Transaction, done: Sequence[Done]) -> None:
    """Note what became of webhooks; one that is not waiting stays as it is."""
    if done:
        rows = [(*one.key, one.state, one.detail) for one in done]
        await tx.execute(END_WEBHOOKS, *map(list, zip(*rows, strict=True)))


async def trim_webhooks(primary: Primary) -> bool:
    """Drop a portion of those that were handled long ago; returns whether there may be more."""
    async with primary.transaction() as tx:
        return bool(await tx.fetchval(TRIM, HANDLED_KEPT, TRIMMED) == TRIMMED)
