"""Alembic's entry: one connection as tercet_owner, one transaction a migration."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import pool
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from services.settings import MigrateSettings, load


def _run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


async def _migrate() -> None:
    settings = load(MigrateSettings)
    url = make_url(settings.owner_dsn).set(
        drivername="postgresql+asyncpg", password=settings.owner_password.get_secret_value()
    )
    engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


asyncio.run(_migrate())
