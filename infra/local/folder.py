"""The data folder of a local stack: what lies where, the lock on it, and its state file."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DEFAULT_DATA_DIR: Final = Path(".tercet")


class NotRunningError(Exception):
    """No stack runs on this data folder."""


class ClosedFolderError(Exception):
    """This user may not look into the data folder."""


class AlreadyRunningError(Exception):
    """Another supervisor holds this data folder."""


@dataclass(frozen=True)
class DataFolder:
    """Paths below one data folder; nothing of a stack is kept anywhere else."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> DataFolder:
        """The folder at `path`, which need not exist yet."""
        return cls(path.absolute())

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def primary(self) -> Path:
        return self.root / "primary"

    @property
    def standby(self) -> Path:
        return self.root / "standby"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def events(self) -> Path:
        return self.root / "events"

    @property
    def provider(self) -> Path:
        return self.root / "provider"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def state_file(self) -> Path:
        return self.root / "state.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    def command(self, words: str) -> str:
        """A `tercet` command on this folder, as it is typed in the project's folder."""
        given = "" if self.root == DEFAULT_DATA_DIR.absolute() else f" --data-dir {self._shell}"
        return f".venv/bin/tercet {words}{given}"

    @property
    def _shell(self) -> str:
        return shlex.quote(str(self.root))

    def other_owner(self) -> str | None:
        """The user whose data is in here, when that is somebody else."""
        if not self.root.exists():
            return None
        owner_uid = self.root.stat().st_uid
        if owner_uid == os.geteuid():
            return None
        try:
            if not any(self.root.iterdir()):
                return None
        except PermissionError:
            pass  # there is something to hide
        try:
            return pwd.getpwuid(owner_uid).pw_name
        except KeyError:
            return f"user id {owner_uid}"

    def create(self) -> None:
        """Make the folder and what every part expects to find in it."""
        # Others may pass through (the servers may run as another user), but not look around.
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        for path in (self.log, self.run, self.provider, self.valkey, self.events):
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
        self.run.chmod(0o711)  # a server that runs as another user reads its own file here
        # A data folder made inside a repository is never committed by accident.
        (self.root / ".gitignore").write_text("*\n")

    def lock(self) -> int:
        """Take the folder for this process and its forks, or raise AlreadyRunningError."""
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyRunningError from None
        return descriptor

    def is_locked(self) -> bool:
        """Whether a supervisor holds the folder now."""
        if not self.lock_file.exists():
            return False
        try:
            os.close(self.lock())
        except AlreadyRunningError:
            return True
        return False

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state file in one step; readers see the old one or the new one."""
        fresh = self.state_file.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(state, file, indent=1)
        fresh.replace(self.state_file)

    def read_state(self) -> dict[str, Any]:
        """What the last supervisor wrote; empty where there is nothing to read."""
        try:
            state = json.loads(self.state_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return state if isinstance(state, dict) else {}

    def running_state(self) -> dict[str, Any]:
        """The state of the stack that runs here.

        Raises NotRunningError or ClosedFolderError, in words for a terminal.
        """
        try:
            state = self.read_state()
            if not state or not self.is_locked():
                raise NotRunningError(
                    f"no stack is running on {self.root} (start one: {self.command('up')})"
                )
        except PermissionError:
            raise ClosedFolderError(self.closed()) from None
        return state

    def closed(self) -> str:
        """What to tell a user who may not look into the folder."""
        try:
            owner = self.other_owner()
        except OSError:
            owner = None
        whose = f"; it belongs to {owner}: run this as {owner}" if owner else ""
        return f"the data folder {self.root} can not be read by this user{whose}"
