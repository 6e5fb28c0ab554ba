"""Alembic's entry: one connection as tercet_owner, one transaction a migration."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy.engine import Connection

from migrations.operator_session import engine_of
from services.settings import MigrateSettings, load


def _run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


async def _migrate() -> None:
    engine = engine_of(load(MigrateSettings))
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


asyncio.run(_migrate())
