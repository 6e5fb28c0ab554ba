"""The session of the first operator, whose token is a secret of the settings."""

from __future__ import annotations

import hashlib
from typing import Final

from sqlalchemy import pool, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.settings import MigrateSettings, load

SETTINGS_SESSION: Final = "TERCET_OPERATOR_TOKEN"  # in place of a user agent

# A token that the settings do not name any more is over, and access is told.
REGISTER: Final = text("""
    with ended as (
        update sessions set ended_at = now()
        where user_agent = :agent and ended_at is null and token_sha256 <> :token
        returning customer_id
    ), told as (
        insert into outbox (kind, name, aggregate_id)
        select distinct 'tag', 'customer-' || customer_id, 'customer-' || customer_id from ended
    )
    insert into sessions (token_sha256, customer_id, user_agent, expires_at)
    select :token, customer_id, :agent, 'infinity' from customers
    where customer_id = '00000000-0000-0000-0000-000000000001'
    on conflict (token_sha256) do update set ended_at = null
        where sessions.user_agent = :agent and sessions.ended_at is not null
""")


def engine_of(settings: MigrateSettings) -> AsyncEngine:
    """Connections as tercet_owner, none of them kept."""
    url = make_url(settings.owner_dsn).set(
        drivername="postgresql+asyncpg", password=settings.owner_password.get_secret_value()
    )
    return create_async_engine(url, poolclass=pool.NullPool)


async def register() -> None:
    """Make the token of the settings, if they name one, the operator's only one without end."""
    settings = load(MigrateSettings)
    if settings.operator_token is None:
        return
    token = hashlib.sha256(settings.operator_token.get_secret_value().encode()).digest()
    engine = engine_of(settings)
    try:
        async with engine.begin() as connection:
            await connection.execute(REGISTER, {"token": token, "agent": SETTINGS_SESSION})
    finally:
        await engine.dispose()
