"""What a part of the stack is: how it is prepared, started, seen to be ready and ended."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.local.processes import Identity, started_at

State = Literal[
    "waiting",  # for the parts it needs
    "preparing",  # its folder, its slot, …
    "starting",  # its process runs, it does not answer yet
    "running",
    "not answering",  # it ran, and its process still does
    "restarting",  # it died and waits for its next start
    "done",  # a task that ended well
    "skipped",  # a task with nothing to do
    "external",  # a server of somebody else's that the settings name
    "stopping",
    "stopped",
    "failed",
]


class NotReadyError(Exception):
    """The part does not do its work yet (or any more); the message says what is amiss."""


@dataclass
class Part:
    """One part. Subclasses say what is different; the supervisor does the rest."""

    name: str
    needs: tuple[str, ...] = ()  # started when these are ready
    uses: tuple[str, ...] = ()  # stopped before these, but started without waiting for them
    is_task: bool = False  # runs to its end, once
    stop_signal: int = signal.SIGTERM
    stop_grace_s: float = 1.5
    death_signal: int = signal.SIGKILL  # what the kernel sends when the supervisor dies
    identity: Identity = "self"
    address: str = ""
    internal_address: str = ""  # where it tells about itself, for this machine only

    state: State = field(default="waiting", init=False)
    detail: str = field(default="", init=False)
    restarts: int = field(default=0, init=False)
    last_exit: str = field(default="", init=False)
    memory_bytes: int = field(default=0, init=False)
    has_been_ready: bool = field(default=False, init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    async def prepare(self) -> None:
        """What has to be there before each start."""

    def command(self) -> Sequence[str]:
        """The program and its arguments, made anew for each start."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """The whole environment of the program."""
        raise NotImplementedError

    async def check(self) -> str:
        """Return a word about how it is, or raise NotReadyError or OSError when it is not ready."""
        return ""

    async def reason_to_skip(self) -> str | None:
        """Why a task has nothing to do."""
        return None

    async def completed(self) -> None:
        """What a task leaves to do after it has ended well."""

    def died_before_ready(self, times: int) -> None:
        """Told when it ended without having been ready, `times` in a row."""

    def as_dict(self) -> dict[str, Any]:
        """What state.json says about it."""
        pid = self.process.pid if self.process else None
        return {
            "name": self.name,
            "pid": pid,
            "created": started_at(pid) if pid else None,
            "address": self.address,
            "internal_address": self.internal_address,
            "state": self.state,
            "is_task": self.is_task,
            "detail": self.detail,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "memory_bytes": self.memory_bytes,
        }


@dataclass
class External(Part):
    """A server that the settings name; it is neither started nor stopped here."""

    def __post_init__(self) -> None:
        self.state = "external"
