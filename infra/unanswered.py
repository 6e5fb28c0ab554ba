"""Why a database did not answer a command, in one line for a terminal."""

from __future__ import annotations

from typing import Final

import asyncpg

from services.problems import GatewayTimeout, Unavailable

# What a command meets where the database is away, refuses it, or is not the one it should be.
UNANSWERED: Final = (Unavailable, GatewayTimeout, asyncpg.PostgresError)


def why_unanswered(error: BaseException) -> str:
    """The reason that is behind an error, on one line."""
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return "the database has no tables, or old ones: .venv/bin/tercet migrate"
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split()) or type(cause).__name__
    return f"the database did not answer: {reason}"
