"""What a stack is made of: servers of somebody else's, and PostgreSQL as another user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import psutil
import pytest

from infra.local.folder import NotRunningError
from infra.local.processes import end_all
from infra.local.stack import environment_of
from infra.local.tiers import newest_revision
from tests.infra.leftovers import processes_of
from tests.running_stack import RunningStack, running_stack


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass through to; pytest's own are closed."""
    folder = Path(mkdtemp(prefix="tercet-"))
    folder.chmod(0o755)
    yield folder / "data"
    end_all(processes_of(folder))
    subprocess.run(["rm", "-rf", str(folder)], check=True)  # noqa: S607


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_where_root_may_make_no_namespace_postgresql_runs_as_nobody(
    open_folder: Path, server_folder: Callable[[Path], Path]
) -> None:
    server_folder(open_folder)  # made by root in a namespace: the files change hands
    environment = {"TERCET_ROOT_MODE": "nobody"}
    with running_stack(open_folder, "--servers-only", environment=environment) as stack:
        assert psutil.Process(stack.part("primary")["pid"]).username() == "nobody"
        assert "streaming" in stack.part("standby")["detail"]


def test_servers_of_somebody_else_are_used_and_not_started(
    stack: RunningStack, tmp_path: Path
) -> None:
    environment = {
        "TERCET_PRIMARY_DSN": stack.environment["TERCET_PRIMARY_DSN"],
        "TERCET_STANDBY_DSNS": stack.environment["TERCET_STANDBY_DSNS"],
        "TERCET_VALKEY_URL": stack.environment["TERCET_VALKEY_URL"],
        "TERCET_EVENTS_URL": stack.environment["TERCET_EVENTS_URL"],
        "TERCET_OWNER_PASSWORD": stack.secret("owner_password"),
        # Another one would take the place of the one there, as a changed secret does.
        "TERCET_OPERATOR_TOKEN": stack.secret("operator_token"),
    }
    with running_stack(tmp_path / "data", "--servers-only", environment=environment) as other:
        states = {part["name"]: part["state"] for part in other.state["parts"]}
        assert states == {
            "primary": "external",
            "standby": "external",
            "valkey": "external",
            "events": "external",
            "migrate": "skipped",
        }
        assert other.part("primary")["address"] == stack.part("primary")["address"] + "/tercet"
        assert other.part("primary")["pid"] is None


def test_a_command_learns_the_addresses_of_a_running_stack(stack: RunningStack) -> None:
    variables = environment_of(stack.data_dir)
    assert variables["TERCET_VALKEY_URL"] == f"redis://{stack.part('valkey')['address']}/0"
    assert variables["TERCET_OWNER_DSN"].startswith("postgresql://tercet_owner@")
    assert variables["TERCET_SECRETS_DIR"] == str(stack.folder.secrets)


def test_a_command_on_a_folder_without_a_stack_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="no stack is running"):
        environment_of(tmp_path)


def test_the_newest_migration_is_the_one_that_none_follows(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('revision: str = "0001"\ndown_revision: str | None = None\n')
    (tmp_path / "b.py").write_text('revision = "0002"\ndown_revision = "0001"\n')
    assert newest_revision(tmp_path) == "0002"


def test_alembic_agrees_which_migration_is_the_newest() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from alembic.script import ScriptDirectory as S;"
            "print(S('migrations').get_current_head())",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.strip() == newest_revision()
