"""Customers and the tokens that stand for them; a token is stored as its hash only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.data.link import Record
from services.data.sources import Primary, Replica, Transaction

GUEST_TOKEN_LIFETIME: Final = timedelta(days=90)  # how long a guest can come back to an order

# Made by migration 0002: whom the keys of operators are scoped to.
OPERATOR: Final = UUID("00000000-0000-0000-0000-000000000001")


class Identity(NamedTuple):
    """Who a token stands for. role: of customers.kind. session_id: None of a guest's token.

    guests: who it was before, newest first. expires_in_s: at most LOOKED_UP_FOR.
    """

    customer_id: UUID
    role: str
    session_id: UUID | None
    guests: list[UUID]
    expires_in_s: int


class Found(NamedTuple):
    """is_idle: a session that nobody has used for minutes, as far as is noted."""

    identity: Identity
    is_idle: bool


INSERT_GUESTS = """
    with fresh as materialized (
        select token_sha256, uuidv7() as customer_id from unnest($1::bytea[]) as token_sha256
    ), guests as (
        insert into customers (customer_id, kind) select customer_id, 'guest' from fresh
    ), tokens as (
        insert into customer_tokens (token_sha256, customer_id, expires_at)
        select token_sha256, customer_id, now() + $2::interval from fresh
    )
    select token_sha256, customer_id from fresh
"""

SELECT_IDENTITY = """
    select t.token_sha256, c.customer_id, c.kind, t.session_id,
        array(
            select l.guest_id from guest_links l where l.customer_id = c.customer_id
            order by l.linked_at desc limit 50
        ) as guests,
        floor(extract(epoch from least(t.expires_at - now(), interval '1 day')))::int,
        t.last_used_at < now() - interval '5 minutes' as is_idle
    from (
        select token_sha256, customer_id, null::uuid as session_id, expires_at,
            now() as last_used_at
        from customer_tokens where token_sha256 = any($1::bytea[])
        union all
        select token_sha256, customer_id, session_id, expires_at, last_used_at
        from sessions where token_sha256 = any($1::bytea[]) and ended_at is null
    ) t join customers c using (customer_id)
    where t.expires_at > now()
"""


# By tercet_read, who may not read the tables.
SELECT_ON_STANDBY = "select * from identities_of($1::bytea[])"


async def insert_guests(tx: Transaction, tokens: Sequence[str]) -> dict[str, UUID]:
    """New customers, each known by a token and nothing else; their ids by it."""
    if not tokens:
        return {}
    hashes = {hashlib.sha256(token.encode()).digest(): token for token in tokens}
    rows = await tx.fetch(INSERT_GUESTS, list(hashes), GUEST_TOKEN_LIFETIME)
    return {hashes[row["token_sha256"]]: row["customer_id"] for row in rows}


async def select_identity(primary: Primary, token_sha256: bytes) -> Found | None:
    """Whose token it is; None when it is unknown or over."""
    return _found(await primary.find(SELECT_IDENTITY, token_sha256))


async def select_identity_on_standby(standby: Replica, token_sha256: bytes) -> Found | None:
    """The same, as the standby has heard of it: for while there is no primary."""
    return _found(await standby.find(SELECT_ON_STANDBY, token_sha256))


def _found(rows: Sequence[Record]) -> Found | None:
    return Found(Identity(*rows[0][1:-1]), rows[0][-1]) if rows else None
