"""A local stack that tests run against: started as a user starts it, gone when the tests are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from infra.local import secret_files
from infra.local.folder import DataFolder
from infra.local.processes import tied_to_this_process

START_TIMEOUT_S: Final = 90.0  # a loaded machine, with nothing compiled to bytecode yet
STOP_TIMEOUT_S: Final = 10.0
# What a payment is before anybody has told us is what most tests look at; those of webhooks have
# a provider of their own. And charges of laboratories, which have databases of their own, are none
# that the stack knows: it must not give them back.
QUIET: Final = {"TERCET_WEBHOOK_URL": "", "TERCET_RETURN_ORPHAN_CHARGES": "false"}
PASSWORD_OF: Final = {
    "postgres": "superuser_password",
    "tercet_owner": "owner_password",
    "tercet_app": "app_password",
    "tercet_read": "read_password",
}


@dataclass(frozen=True)
class RunningStack:
    """Where the parts of a running stack are, and what it takes to talk to them."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    memory_when_ready_bytes: int = 0  # of its parts, before anybody had asked them anything

    @property
    def folder(self) -> DataFolder:
        return DataFolder.at(self.data_dir)

    @property
    def state(self) -> dict[str, Any]:
        """What the supervisor wrote last."""
        return self.folder.read_state()

    def part(self, name: str) -> dict[str, Any]:
        """One part, as the supervisor wrote it last."""
        return next(part for part in self.state["parts"] if part["name"] == name)

    @property
    def url(self) -> str:
        """The shop's base address."""
        return str(self.state["url"])

    @property
    def environment(self) -> dict[str, str]:
        """The TERCET_… variables by which a process reaches this stack."""
        return dict(self.state["environment"])

    @property
    def valkey_url(self) -> str:
        """Valkey's address with its password."""
        place = urlsplit(self.environment["TERCET_VALKEY_URL"])
        return f"redis://:{self.secret('valkey_password')}@{place.netloc}{place.path}"

    @property
    def events_url(self) -> str:
        """The log of events with its password."""
        place = urlsplit(self.environment["TERCET_EVENTS_URL"])
        return f"redis://:{self.secret('events_password')}@{place.netloc}{place.path}"

    def secret(self, name: str) -> str:
        """One of the stack's random secrets."""
        return secret_files.read_secret(self.folder.secrets, name)

    def dsn(self, role: str = "tercet_app", server: str = "primary") -> str:
        """How `role` (or the superuser, postgres) connects to the primary or the standby."""
        password = self.secret(PASSWORD_OF[role])
        return f"postgresql://{role}:{password}@{self.part(server)['address']}/tercet"


def let_through(data_dir: Path) -> None:
    """Root's temporary folders are closed to the user whom PostgreSQL may have to run as."""
    for folder in data_dir.parents:
        if os.geteuid() == 0 and Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(folder.stat().st_mode | 0o011)


def start_up(
    data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None, **popen: Any
) -> subprocess.Popen[bytes]:
    """`tercet up` in the foreground, which ends when this process does, however that ends."""
    let_through(data_dir)
    command = [sys.executable, "-m", "infra.cli", "up", "--data-dir", str(data_dir), *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TERCET_")}
    popen.setdefault("preexec_fn", tied_to_this_process(signal.SIGTERM))
    popen.setdefault("start_new_session", True)
    popen.setdefault("stdout", subprocess.PIPE)
    popen.setdefault("stderr", subprocess.STDOUT)
    return subprocess.Popen(command, env={**clean, **QUIET, **(environment or {})}, **popen)


def wait_until_ready(data_dir: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when everything runs; fail with what the start printed when it does not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    folder = DataFolder.at(data_dir)

    def is_ready() -> bool:
        state = folder.read_state()
        return bool(state) and state["guard"]["pid"] == process.pid and state["phase"] == "ready"

    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            said, _ = process.communicate(timeout=STOP_TIMEOUT_S)
            raise AssertionError(f"tercet up did not become ready:\n{(said or b'').decode()}")
        time.sleep(0.02)


@contextmanager
def running_stack(data_dir: Path, *arguments: str, **popen: Any) -> Iterator[RunningStack]:
    """A stack of its own for a test: ready at the beginning, stopped at the end."""
    output = data_dir.with_suffix(".out")
    with output.open("wb") as out:
        process = start_up(data_dir, "--port", "0", *arguments, stdout=out, **popen)
    try:
        try:
            wait_until_ready(data_dir, process)
        except AssertionError as error:
            raise AssertionError(f"{error}{output.read_text()}") from None
        parts = DataFolder.at(data_dir).read_state()["parts"]
        yield RunningStack(data_dir, process, sum(part["memory_bytes"] for part in parts))
    finally:
        ended_with = process.poll()
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        # Whatever a test does to its parts, the stack itself goes on until it is told to stop.
        if ended_with == 1:
            raise AssertionError(f"the stack ended by itself:\n{output.read_text()}")
