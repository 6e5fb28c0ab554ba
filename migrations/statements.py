"""What the migrations share: a text of statements, run one by one."""

from __future__ import annotations

from alembic import op


def execute_each(statements: str) -> None:
    """Run statements that are separated by a semicolon at the end of a line."""
    for statement in statements.split(";\n"):
        op.execute(statement.replace(":", r"\:"))
