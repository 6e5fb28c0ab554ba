"""The data folder of a local stack: what lies where, the lock on it, and its state file."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DEFAULT_DATA_DIR: Final = Path(".tercet")


class NotRunningError(Exception):
    """No stack runs on this data folder."""


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

    def create(self) -> None:
        """Make the folder and what every part expects to find in it."""
        # Others may pass through (the servers may run as another user), but not look around.
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        for path in (self.log, self.run, self.provider, self.valkey):
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
        """The state of the stack that runs here, or NotRunningError in words for a terminal."""
        state = self.read_state()
        if not state or not self.is_locked():
            raise NotRunningError(
                f"no stack is running on {self.root} (start one with: tercet up"
                f"{'' if self.root == DEFAULT_DATA_DIR.absolute() else f' --data-dir {self.root}'})"
            )
        return state
