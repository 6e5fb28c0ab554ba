"""Sessions: who is logged in, each known by the hash of a token."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from services.data.outbox import insert_tags
from services.data.sources import Reader, Transaction


class SessionRow(NamedTuple):
    session_id: UUID
    user_agent: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


INSERT_SESSION = """
    insert into sessions (token_sha256, customer_id, user_agent, expires_at)
    values ($1, $2, $3, now() + $4::interval)
    returning session_id, user_agent, created_at, last_used_at, expires_at
"""

# That of the settings has no end but theirs.
END_SESSION = """
    update sessions set ended_at = now()
    where session_id = $1 and customer_id = $2 and ended_at is null
        and expires_at > now() and expires_at < 'infinity'
    returning customer_id
"""

# Whoever shows another session at login has ended that one.
END_SHOWN = """
    update sessions set ended_at = now() where session_id = $1 and ended_at is null
        and expires_at < 'infinity'
    returning customer_id
"""

END_SESSIONS = """
    update sessions set ended_at = now()
    where customer_id = $1 and ended_at is null and session_id is distinct from $2
        and expires_at < 'infinity'
"""

END_OLDEST = """
    update sessions set ended_at = now() where session_id in (
        select session_id from sessions where customer_id = $1 and ended_at is null
        order by created_at desc offset $2
    )
"""

SELECT_SESSIONS = """
    select session_id, user_agent, created_at, last_used_at, least(expires_at, '9999-01-01')
    from sessions where customer_id = $1 and ended_at is null and expires_at > now()
    order by created_at desc
"""

# Not at each request: access asks once a minute, and a row is written once in five.
TOUCH = """
    update sessions set last_used_at = now()
    where session_id = $1 and last_used_at < now() - interval '5 minutes'
"""

TRIM_SESSIONS = """
    with old as (
        select session_id from sessions
        where least(ended_at, expires_at) < now() - interval '30 days'
        order by least(ended_at, expires_at) limit $1 for update skip locked
    ), gone as (
        delete from sessions s using old where s.session_id = old.session_id returning true
    )
    select count(*) from gone
"""


def tag_of(customer_id: UUID) -> str:
    """What access hears when something about a customer has changed that it may know."""
    return f"customer-{customer_id}"


async def insert_session(
    tx: Transaction,
    token_sha256: bytes,
    customer_id: UUID,
    *,
    user_agent: str,
    lifetime: timedelta,
    at_most: int,
) -> SessionRow:
    """A new session of a locked account; beyond at_most its oldest ones end."""
    row = await tx.fetchrow(INSERT_SESSION, token_sha256, customer_id, user_agent, lifetime)
    assert row is not None  # noqa: S101 - what is inserted is returned
    await tx.execute(END_OLDEST, customer_id, at_most)
    await insert_tags(tx, [tag_of(customer_id)])
    return SessionRow(*row)


async def end_session(tx: Transaction, session_id: UUID, customer_id: UUID) -> bool:
    """End a customer's own session, and tell access; whether there was one."""
    ended = await tx.fetchrow(END_SESSION, session_id, customer_id)
    if ended is not None:
        await insert_tags(tx, [tag_of(customer_id)])
    return ended is not None


async def end_shown_session(tx: Transaction, session_id: UUID) -> None:
    """End the session that a login shows, whoever's it is; one without end stays."""
    ended = await tx.fetchrow(END_SHOWN, session_id)
    if ended is not None:
        await insert_tags(tx, [tag_of(ended["customer_id"])])


async def end_sessions(tx: Transaction, customer_id: UUID, *, but: UUID | None = None) -> None:
    """End all sessions of a customer but one, and tell access."""
    await tx.execute(END_SESSIONS, customer_id, but)
    await insert_tags(tx, [tag_of(customer_id)])


async def tell_access(tx: Transaction, customer_id: UUID) -> None:
    """Have access ask anew who this customer is."""
    await insert_tags(tx, [tag_of(customer_id)])


async def select_sessions(reader: Reader, customer_id: UUID) -> list[SessionRow]:
    """Those that can be used now, newest first."""
    return [SessionRow(*row) for row in await reader.fetch(SELECT_SESSIONS, customer_id)]


async def touch_session(tx: Transaction, session_id: UUID) -> None:
    """Note that a session is in use."""
    await tx.execute(TOUCH, session_id)


async def trim_sessions(tx: Transaction, limit: int) -> int:
    """Delete what was over a month ago; returns how many."""
    return int(await tx.fetchval(TRIM_SESSIONS, limit))
