"""Faults of processes: pause, resume, kill and restart any part of a running local stack by name.

By hand: python -m tests.faults.parts
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from infra.local.addresses import get
from infra.local.folder import DEFAULT_DATA_DIR, DataFolder
from infra.local.processes import same_process
from loadtests.waiting import until

HEALTHY_WITHIN_S: Final = 45.0  # above the supervisor's longest back-off of 30 s
# A fast shutdown: PostgreSQL waits on SIGTERM until every client has gone.
STOP_SIGNALS: Final = dict.fromkeys(("primary", "standby", "standby-2"), signal.SIGINT)
HEALTH_PATHS: Final = {
    "access": "/ready",
    "business": "/ready",
    "provider": "/live",
    "mailbox": "/live",
}


class UnknownPartError(Exception):
    """No part of the stack has this name, or it has no process; the message lists those it has."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A part as the supervisor last wrote it down."""

    name: str
    state: str
    address: str
    pid: int | None
    created: float

    def process(self) -> psutil.Process | None:
        """Its process, if that still runs: another one with the same id does not count."""
        return same_process(self.pid, self.created) if self.pid else None


class Parts:
    """The parts of the stack that runs on one data folder. The supervisor restarts what dies."""

    def __init__(self, data_dir: Path = DEFAULT_DATA_DIR) -> None:
        self._folder = DataFolder.at(data_dir)

    def names(self) -> list[str]:
        """The parts that have a process now."""
        return [part["name"] for part in self._entries() if part["pid"]]

    def look(self, name: str) -> Seen:
        """How the part is, or UnknownPartError; NotRunningError where no stack runs."""
        entries = self._entries()
        for part in entries:
            if part["name"] == name:
                return Seen(
                    name=name,
                    state=str(part["state"]),
                    address=str(part["address"]),
                    pid=part["pid"],
                    created=float(part["created"] or 0.0),
                )
        raise UnknownPartError(f"no part {name}; there are {', '.join(p['name'] for p in entries)}")

    def process(self, name: str) -> psutil.Process:
        """The part's main process, or UnknownPartError when it has none now."""
        process = self.look(name).process()
        if process is None:
            raise UnknownPartError(f"{name} has no process now; {', '.join(self.names())} have one")
        return process

    def kill(self, name: str) -> int:
        """kill -9 its main process; returns the id it had."""
        process = self.process(name)
        process.kill()
        return process.pid

    def pause(self, name: str, *, child: str | None = None) -> list[int]:
        """SIGSTOP it with its children, or only children with that word in their command line.

        Returns the ids of what was stopped: a standby is held back by child="walreceiver".
        """
        process = self.process(name)
        stopped: list[int] = []
        while fresh := [p for p in _family(process, child) if p.pid not in stopped]:
            for member in fresh:  # again until no fork of the last moment is left running
                with suppress(psutil.NoSuchProcess):
                    member.suspend()
                stopped.append(member.pid)
        if not stopped:
            raise UnknownPartError(f"{name} has no child process with {child} in its command line")
        return stopped

    def resume(self, name: str) -> None:
        """SIGCONT it with all its children, the last paused first."""
        for member in reversed(_family(self.process(name), None)):
            with suppress(psutil.NoSuchProcess):
                member.resume()

    def stop(self, name: str) -> int:
        """Ask it to stop in good order; returns the id it had. The supervisor starts it again."""
        process = self.process(name)
        process.send_signal(STOP_SIGNALS.get(name, signal.SIGTERM))
        return process.pid

    def serving(self, name: str) -> set[int]:
        """The ids of the processes that serve under the part's own: of access and business."""
        try:
            return {child.pid for child in self.process(name).children()}
        except psutil.NoSuchProcess:
            return set()

    def crash(self, name: str) -> set[int]:
        """kill -9 one of the processes that serve, the oldest; returns its id."""
        serving = self.serving(name)
        if not serving:
            raise UnknownPartError(f"{name} has no process that serves now")
        victim = min(serving)
        with suppress(psutil.NoSuchProcess):
            psutil.Process(victim).kill()
        return {victim}

    def reload(self, name: str) -> set[int]:
        """Ask for a rolling restart; returns the ids of the processes that served until then."""
        serving = self.serving(name)
        self.process(name).send_signal(signal.SIGHUP)
        return serving

    async def wait_until_replaced(
        self, name: str, old: set[int], *, within_s: float = HEALTHY_WITHIN_S
    ) -> float:
        """Wait until none of these processes serves, and others do; returns the seconds."""

        async def is_replaced() -> bool:
            serving = self.serving(name)
            return bool(serving) and not serving & old and await self.is_healthy(name)

        return await until(is_replaced, within_s=within_s, what=f"{name} is replaced")

    async def start(self, name: str, *, within_s: float = HEALTHY_WITHIN_S) -> float:
        """Let it run again, whatever was done to it; returns the seconds until it was healthy."""
        with suppress(UnknownPartError):
            self.resume(name)
        return await self.wait_until_healthy(name, within_s=within_s)

    async def restart(self, name: str, *, within_s: float = HEALTHY_WITHIN_S) -> float:
        """Stop it in good order; returns the seconds until another process of it is healthy."""
        old_pid = self.stop(name)
        return await self.wait_until_healthy(name, after_pid=old_pid, within_s=within_s)

    async def wait_until_healthy(
        self, name: str, *, after_pid: int | None = None, within_s: float = HEALTHY_WITHIN_S
    ) -> float:
        """Wait until it does its work, in another process than `after_pid`; returns the seconds."""

        async def is_healthy() -> bool:
            return self.look(name).pid != after_pid and await self.is_healthy(name)

        return await until(is_healthy, within_s=within_s, what=f"{name} is healthy")

    async def is_healthy(self, name: str) -> bool:
        """Whether its process runs, is not paused, and answers where it has an address for that."""
        seen = self.look(name)
        process = seen.process()
        if seen.state != "running" or process is None or _is_paused(process):
            return False
        if name not in HEALTH_PATHS:
            return True
        host, _, port = seen.address.rpartition(":")
        try:
            status, _ = await get(host.strip("[]"), int(port), HEALTH_PATHS[name])
        except (OSError, ValueError, IndexError):
            return False
        return status == 200

    @asynccontextmanager
    async def paused(self, name: str, *, child: str | None = None) -> AsyncIterator[None]:
        """Paused inside the block."""
        self.pause(name, child=child)
        try:
            yield
        finally:
            with suppress(UnknownPartError):  # it was killed meanwhile
                self.resume(name)

    @asynccontextmanager
    async def held_down(
        self, name: str, *, within_s: float = HEALTHY_WITHIN_S
    ) -> AsyncIterator[None]:
        """Away inside the block: killed, while the supervisor is paused so that nothing restarts.

        Afterwards the supervisor sees the death and starts the part with its shortest back-off.
        """
        entry = self._folder.running_state()["supervisor"]
        supervisor = same_process(entry["pid"], entry["created"])
        if supervisor is None:
            raise UnknownPartError("the supervisor has no process now")
        supervisor.suspend()
        try:
            self.kill(name)
            await until(
                lambda: self.look(name).process() is None,
                within_s=within_s,
                what=f"{name} is gone",
            )
            yield
        finally:
            supervisor.resume()

    def _entries(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._folder.running_state()["parts"]
        return entries


def _family(process: psutil.Process, child: str | None) -> list[psutil.Process]:
    """The process and all below it, parents first; with a word, only those below that have it."""
    try:
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    if child is None:
        return [process, *children]
    return [member for member in children if child in _command_line(member)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is_paused(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
