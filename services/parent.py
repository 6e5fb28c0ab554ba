"""The parent of processes that share their listening sockets: starts, replaces and stops them.

It imports next to nothing, so that it takes 5 MB and a child imports what is on the disk when it
starts: a rolling restart runs the new release. It reads no settings; its first child tells it what
it has to know.

    SIGTERM, SIGINT  stop, all of them; what is in flight ends
    SIGHUP           replace them one by one: the next one goes when its successor is ready
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from services.child import THE_END, Child
from services.slots import Slots

BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_LONGEST_S: Final = 30.0
STEADY_AFTER_S: Final = 10.0  # who was ready for so long did not die of its start
TICK_S: Final = 1.0
# Ticks, not seconds: a parent that was paused with its children does not hold it against them.
SILENT_TICKS: Final = 30  # a start, or a turn of the event loop, takes less even under load
STOP_LIMIT_S: Final = 5.0  # a stop takes 3 s at most, unless something hangs
READY_FILE_VARIABLE: Final = "TERCET_READY_FILE"


class Member:
    """A child as its parent sees it."""

    def __init__(self, pid: int, line: socket.socket, slot: int, generation: int) -> None:
        self.pid = pid
        self.line = line
        self.slot = slot
        self.generation = generation
        self.heard = b""
        self.ready_at: float | None = None
        self.silent_ticks = 0
        self.stop_by: float | None = None  # once it was told to stop


class Parent:
    """Runs `work` in as many children as the first one wants, until told to stop."""

    def __init__(self, name: str, work: Callable[[Child], int]) -> None:
        self._name = name
        self._work = work
        self._slots = Slots()
        self._members: dict[int, Member] = {}
        self._listeners: dict[str, list[socket.socket]] = {}
        self._selector = selectors.DefaultSelector()
        self._wanted = 1
        self._told = False  # how many are wanted; all sockets are there then
        self._generation = 0
        self._failures = 0
        self._start_at = 0.0
        self._serving = False  # since the first time that all wanted were ready
        self._code: int | None = None  # set: all are to stop, and this is the end
        self._signals: list[int] = []

    def run(self) -> int:
        """Blocks; returns the exit code."""
        wakeup, written = self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self._signals.append(number))
        self._selector.register(wakeup, selectors.EVENT_READ)
        next_tick = time.monotonic() + TICK_S
        while True:
            self._step()
            if self._code is not None and not self._members:
                return self._code
            for key, _ in self._selector.select(self._wait_s(next_tick)):
                if isinstance(key.data, Member):
                    self._hear(key.data)
                else:
                    with suppress(BlockingIOError):
                        wakeup.recv(4096)
            self._obey()
            self._reap()
            if time.monotonic() >= next_tick:
                self._tick()
                next_tick = time.monotonic() + TICK_S

    def _wait_s(self, next_tick: float) -> float:
        now = time.monotonic()
        until = next_tick
        if self._start_at > now:
            until = min(until, self._start_at)
        return max(0.0, until - now)

    # What it is told

    def _obey(self) -> None:
        numbers, self._signals = self._signals, []
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(0)
            elif number == signal.SIGHUP and self._code is None:
                self._generation += 1
                self._failures, self._start_at = 0, 0.0
                self._say("replacing each process", "info")

    def _hear(self, member: Member) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(member.line, 4096, 16)
        except OSError:
            return
        if not data:
            self._selector.unregister(member.line)  # it ended, or is about to
            return
        member.silent_ticks = 0
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        *lines, member.heard = (member.heard + data).split(b"\n")
        for line in lines:
            word, *values = line.decode().split(" ")
            if word == "listen":
                count = int(values[1])
                self._listeners[values[0]], sockets = sockets[:count], sockets[count:]
            elif word == "workers":
                self._wanted, self._told = int(values[0]), True
            elif word == "ready":
                member.ready_at = time.monotonic()

    def _reap(self) -> None:
        for member in list(self._members.values()):
            pid, status = os.waitpid(member.pid, os.WNOHANG)
            if pid:
                self._gone(member, os.waitstatus_to_exitcode(status))

    def _gone(self, member: Member, code: int) -> None:
        del self._members[member.pid]
        with suppress(KeyError):
            self._selector.unregister(member.line)
        member.line.close()
        self._slots.free(member.slot)
        if member.stop_by is not None:
            return
        if not self._serving and member.ready_at is None:
            self._stop(code if code > 0 else 1)  # whoever started this hears why
            return
        was_ready = member.ready_at is not None
        if member.ready_at is not None and time.monotonic() - member.ready_at > STEADY_AFTER_S:
            self._failures = 0
        wait_s = 0.0
        if self._failures or not was_ready:
            doublings = self._failures - (1 if was_ready else 0)
            wait_s = min(BACK_OFF_LONGEST_S, BACK_OFF_FIRST_S * 2 ** min(doublings, 10))
        self._failures += 1
        self._start_at = time.monotonic() + wait_s
        how = "exited" if code >= 0 else "was killed"
        when = "" if was_ready else " before it was ready"
        self._say(
            f"a process {how}{when}", "error", child=member.pid, code=code, next_start_s=wait_s
        )

    # What it does

    def _step(self) -> None:
        """One step towards as many ready children of the newest generation as are wanted."""
        now = time.monotonic()
        members = self._members.values()
        for member in members:
            if member.stop_by is not None and now > member.stop_by:
                os.kill(member.pid, signal.SIGKILL)
        if self._code is not None:
            return
        for member in members:  # overtaken by a newer release before it was ready
            if member.generation < self._generation and member.ready_at is None:
                self._tell_to_stop(member)
        staying = [member for member in members if member.stop_by is None]
        old = [member for member in staying if member.generation < self._generation]
        new = [member for member in staying if member.generation == self._generation]
        ready = [member for member in new if member.ready_at is not None]
        if len(ready) == self._wanted and not old and not self._serving:
            self._serving = True
            self._touch_ready_file()
        surplus = len(ready) + len(old) - self._wanted
        for member in [*old, *ready][: max(surplus, 0)]:
            self._tell_to_stop(member)
            staying.remove(member)
        missing = self._wanted - len(staying)
        if old and len(new) == len(ready) and len(members) == len(staying):
            missing = max(missing, 1)  # the next successor, once the one before it has its place
        if not self._told:
            missing = min(missing, 1 - len(members))  # the first one makes the sockets
        if now >= self._start_at:
            for _ in range(missing):
                self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        slot = self._slots.take()
        sys.stdout.flush()
        sys.stderr.flush()
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                self._leave_parent()
                child = Child(theirs, self._listeners, self._slots, slot)
                child.tie(parent_pid)
                code = _code_of(self._work, child)
            finally:
                os._exit(code)
        theirs.close()
        ours.setblocking(False)
        member = self._members[pid] = Member(pid, ours, slot, self._generation)
        self._selector.register(ours, selectors.EVENT_READ, member)

    def _leave_parent(self) -> None:
        """In a child: nothing of the parent's own is left open or set."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to everybody
        self._selector.close()
        for end in self._wakeup:
            end.close()
        for member in self._members.values():
            member.line.close()
        os.environ.pop(READY_FILE_VARIABLE, None)  # it is the parent's to say

    def _tell_to_stop(self, member: Member) -> None:
        if member.stop_by is not None:
            return
        member.stop_by = time.monotonic() + STOP_LIMIT_S
        os.kill(member.pid, signal.SIGTERM)

    def _stop(self, code: int) -> None:
        if self._code is not None:
            return
        self._code = code
        # The children hold the sockets now: the last of them closes them, once they are empty.
        for sockets in self._listeners.values():
            for listener in sockets:
                listener.close()
        for member in self._members.values():
            with suppress(OSError):
                member.line.send(THE_END)
            self._tell_to_stop(member)

    def _tick(self) -> None:
        for member in self._members.values():
            member.silent_ticks += 1
            if member.silent_ticks > SILENT_TICKS and member.stop_by is None:
                self._say("a process does not answer", "error", child=member.pid)
                member.silent_ticks = 0
                os.kill(member.pid, signal.SIGKILL)

    def _touch_ready_file(self) -> None:
        path = os.environ.get(READY_FILE_VARIABLE)
        if path:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    def _say(self, event: str, level: str, **values: float) -> None:
        """A log line like those of the children; there is nothing in it that JSON would escape."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        more = "".join(f',"{name}":{value}' for name, value in values.items())
        line = f'{{"process":"{self._name}","event":"{event}","level":"{level}"{more},'
        sys.stderr.write(f'{line}"logger":"services.parent","timestamp":"{at}"}}\n')
        sys.stderr.flush()


def _code_of(work: Callable[[Child], int], child: Child) -> int:
    """Run the work to its end as a program of its own would: the exit code."""
    try:
        code: object = work(child)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        import traceback  # in the child: the parent does without it

        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else 0
