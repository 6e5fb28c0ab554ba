"""Commands on a database that refuses them or is away: one line, and the promised exit code."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from tests.running_stack import RunningStack

COMMANDS = (("prove", 2), ("stock receive A-1 1", 69), ("catalog generate --products 1", 69))
WRONG_PASSWORD = secrets.token_urlsafe(32)  # strong enough to be tried


@pytest.mark.parametrize(("command", "code"), COMMANDS)
def test_a_refused_password_is_told_in_one_line(
    stack: RunningStack, command: str, code: int
) -> None:
    environment = {
        **stack.environment,
        "TERCET_APP_PASSWORD": WRONG_PASSWORD,
        "TERCET_OWNER_PASSWORD": WRONG_PASSWORD,
    }
    assert "password authentication failed" in one_line(command, code, environment)


@pytest.mark.parametrize(("command", "code"), COMMANDS)
def test_a_database_that_is_not_there_is_told_in_one_line(
    stack: RunningStack, command: str, code: int
) -> None:
    nowhere = {
        name: f"postgresql://{role}@127.0.0.1:1/tercet"
        for name, role in (("TERCET_PRIMARY_DSN", "app"), ("TERCET_OWNER_DSN", "owner"))
    }
    said = one_line(command, code, {**stack.environment, **nowhere})
    assert "Connect call failed" in said


def one_line(command: str, code: int, environment: dict[str, str]) -> str:
    words = [sys.executable, "-m", "infra.cli", *command.split()]
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    return done.stderr
