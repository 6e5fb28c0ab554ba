"""Migrating up and down from code: what `tercet migrate` calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

from migrations.operator_session import register


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(revision: str = "head") -> None:
    """Bring the database that the settings name up to `revision`; the newest knows the operator."""
    command.upgrade(_config(), revision)
    if revision == "head":
        asyncio.run(register())


def downgrade(revision: str) -> None:
    """Take the database back to `revision`; "base" leaves nothing of Tercet's tables."""
    command.downgrade(_config(), revision)
