"""`tercet account`: accounts with a role, from the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import httpx
from typer.testing import CliRunner, Result

from infra import accounts
from tests.running_stack import RunningStack


def tercet(*arguments: str) -> Result:
    """In this process; a start of Python takes longer than all that is done here."""
    with patch.dict(os.environ):
        return CliRunner().invoke(accounts.app, arguments)


def test_the_command_is_one_of_tercets(stack: RunningStack, data_dir: Path) -> None:
    command = [sys.executable, "-m", "infra.cli", "account", "list", "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_operator_is_made_listed_and_disabled(stack: RunningStack, data_dir: Path) -> None:
    here, email = ("--data-dir", str(data_dir)), f"{uuid4().hex}@example.com"
    made = tercet("create", email, "--role", "operator", *here)
    assert made.exit_code == 0, made.stderr
    password = re.findall(r"shown this once: (\S{24})$", made.stdout, re.MULTILINE)[0]
    assert f"{email}  operator, since " in tercet("list", *here).stdout
    again = tercet("create", email.upper(), *here)
    assert (again.exit_code, again.stderr) == (1, f"{email.upper()} has an account already\n")

    business = stack.environment["TERCET_BUSINESS_URL"]
    secret = {"x-internal-secret": stack.secret("internal_secret"), "x-forwarded-for": "192.0.2.9"}
    with httpx.Client(base_url=business, headers=secret, trust_env=False, timeout=15) as client:
        body = {"email": email, "password": password}
        session = client.post("/sessions", json=body)
        assert session.status_code == 201, session.text
        assert session.json()["role"] == "operator"
        disabled = tercet("disable", email, *here)
        assert disabled.exit_code == 0, disabled.stderr
        headers = {"authorization": f"Bearer {session.json()['token']}"}
        with httpx.Client(base_url=stack.url, trust_env=False, timeout=15) as shop:
            assert shop.get("/sessions", headers=headers).status_code == 401
        refused = client.post("/sessions", json=body)
        assert refused.status_code == 401
        assert tercet("enable", email, *here).exit_code == 0
        assert tercet("role", email, "merchant", *here).exit_code == 0
        assert client.post("/sessions", json=body).json()["role"] == "merchant"


def test_what_can_not_be_done_is_said_in_a_line(data_dir: Path) -> None:
    here = ("--data-dir", str(data_dir))
    for arguments, said in (
        (("create", "nobody"), "'nobody' is not an address\n"),
        (("create", "a@b.c\n"), "'a@b.c\\n' is not an address\n"),
        (("disable", "x@example.com"), "no account has the address 'x@example.com'\n"),
    ):
        done = tercet(*arguments, *here)
        assert (done.exit_code, done.stderr) == (1, said)
