"""Databases of a test's own, beside the stack's: migrated, empty, and nobody else's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import asyncpg
from pydantic import SecretStr

from migrations import run
from services.settings import BusinessSettings
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import business_settings

# As infra/postgres/bootstrap.sql makes the database of the shop.
LIKE_THE_SHOPS = """
    template template0 encoding 'UTF8' locale_provider builtin builtin_locale 'C.UTF-8'
    lc_collate 'C' lc_ctype 'C'
"""
REPLAYED_WITHIN_S = 30.0
EXTENSIONS = ("pg_trgm", "btree_gist", "unaccent", "fuzzystrmatch", "pg_stat_statements")


@dataclass(frozen=True)
class OwnDatabase:
    """A database on the stack's servers. pg_hba.conf lets only the superuser into it, who takes
    the role that is asked for: the rights are those of the role."""

    stack: RunningStack
    name: str

    def dsn(self, role: str, server: str = "primary") -> str:
        return f"{self.superuser_dsn(server)}?role={role}"

    def superuser_dsn(self, server: str = "primary") -> str:
        return _elsewhere(self.stack.dsn("postgres", server), self.name)

    def settings(self, **changes: object) -> BusinessSettings:
        """Business on this database and its copy on the standby, everything else the stack's."""
        password = SecretStr(self.stack.secret("superuser_password"))
        ours = {
            "primary_dsn": self.dsn("tercet_app"),
            "standby_dsns": [self.dsn("tercet_read", "standby")],
            "app_password": password,
            "read_password": password,
            "events_url": "",  # what is sold here is not to be counted by the stack's worker
        }
        return business_settings(self.stack, **{**ours, **changes})

    async def upgrade(self, revision: str = "head", *, operator_token: str = "") -> None:
        """operator_token: in place of the stack's."""
        given = {"TERCET_OPERATOR_TOKEN": operator_token} if operator_token else {}
        await self._migrate("upgrade", revision, given)

    async def downgrade(self, revision: str) -> None:
        await self._migrate("downgrade", revision)

    async def _migrate(
        self, way: str, revision: str, given: Mapping[str, str] | None = None
    ) -> None:
        environment = {
            **(given or {}),
            **self.stack.environment,
            "TERCET_OWNER_DSN": self.superuser_dsn(),
            "TERCET_OWNER_PASSWORD": self.stack.secret("superuser_password"),
        }
        with patch.dict(os.environ, environment):
            # In a thread, because Alembic's entry runs a loop of its own.
            await asyncio.to_thread(getattr(run, way), revision)


# Of each stack, the migrated database that others are copies of; it goes with the stack.
_migrated: dict[Path, OwnDatabase] = {}


@asynccontextmanager
async def migrated_database(stack: RunningStack) -> AsyncIterator[OwnDatabase]:
    """Migrated and otherwise empty: a copy, which takes a tenth of the time of all migrations."""
    if stack.data_dir not in _migrated:
        made = await _created(stack)
        await made.upgrade()
        _migrated[stack.data_dir] = made
    async with own_database(stack, like=_migrated[stack.data_dir]) as database:
        await until(
            lambda: _is_on_standby(database), within_s=REPLAYED_WITHIN_S, what="the standby has it"
        )
        yield database


async def _is_on_standby(database: OwnDatabase) -> bool:
    """A copy is made sooner than it is replayed, where something large was made just before."""
    try:
        connection = await asyncpg.connect(database.superuser_dsn("standby"))
    except asyncpg.InvalidCatalogNameError:
        return False
    await connection.close()
    return True


@asynccontextmanager
async def own_database(
    stack: RunningStack, *, like: OwnDatabase | None = None
) -> AsyncIterator[OwnDatabase]:
    """An empty database with roles and extensions, or a copy of one that nobody is using."""
    database = await _created(stack, like)
    try:
        yield database
    finally:
        async with _administrator(stack) as admin:
            await admin.execute(f"drop database if exists {database.name} with (force)")


async def _created(stack: RunningStack, like: OwnDatabase | None = None) -> OwnDatabase:
    database = OwnDatabase(stack, f"lab_{uuid4().hex}")
    async with _administrator(stack) as admin:
        if like is None:
            await admin.execute(
                f"create database {database.name} owner tercet_owner {LIKE_THE_SHOPS}"
            )
            await _equip(database)
        else:
            await admin.execute(f"create database {database.name} template {like.name}")
        # Who logs in to migrate is tercet_owner, as it is in the shop's own database.
        await admin.execute(
            f"alter role postgres in database {database.name} set role = 'tercet_owner'"
        )
    return database


@asynccontextmanager
async def _administrator(
    stack: RunningStack,
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    admin = await asyncpg.connect(_elsewhere(stack.dsn("postgres"), "postgres"))
    try:
        yield admin
    finally:
        await admin.close()


async def _equip(database: OwnDatabase) -> None:
    connection = await asyncpg.connect(database.superuser_dsn())
    try:
        for extension in EXTENSIONS:
            await connection.execute(f"create extension {extension}")
        await connection.execute("alter schema public owner to tercet_owner")
        await connection.execute("revoke create on schema public from public")
    finally:
        await connection.close()


def _elsewhere(dsn: str, database: str) -> str:
    return f"{dsn.rpartition('/')[0]}/{database}"
