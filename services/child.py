"""One of the processes that a parent runs on shared sockets, and what it says to the parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

from services import listener
from services.slots import Slots

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
# A child says one line at a time: "listen NAME COUNT" with so many sockets, "workers COUNT",
# "ready", "." once a second. The parent says one byte: that it stops too.
THE_END: Final = b"e"


class Child:
    """The child's end of the line to its parent."""

    def __init__(
        self,
        line: socket.socket,
        listeners: dict[str, list[socket.socket]],
        slots: Slots,
        slot: int,
    ) -> None:
        self.slots = slots
        self.slot = slot
        self._line = line
        self._listeners = listeners

    def tie(self, parent_pid: int) -> None:
        """End at once when the parent is killed: what is left would hold the port."""
        if sys.platform == "linux":
            import ctypes  # in the child: the parent does without it

            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)

    def listen(self, name: str, host: str, port: int, backlog: int) -> list[socket.socket]:
        """The parent's listening sockets of that name; the first child makes them for it."""
        if name not in self._listeners:
            made = self._listeners[name] = listener.listen(host, port, backlog)
            line = f"listen {name} {len(made)}\n".encode()
            socket.send_fds(self._line, [line], [each.fileno() for each in made])
        return self._listeners[name]

    def want(self, workers: int) -> None:
        """Say how many such processes there should be, once all sockets are made."""
        self._say(f"workers {workers}")

    def ready(self) -> None:
        """Say that this one serves."""
        self._say("ready")

    def beat(self) -> None:
        """Say that the event loop turns: a child that does not for long is killed."""
        self._say(".")

    def is_last(self) -> bool:
        """Whether the parent stops as well, so that nobody accepts connections after this one."""
        with suppress(BlockingIOError):
            told = self._line.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
            return told in (THE_END, b"")
        return False

    def _say(self, line: str) -> None:
        # A parent that is gone or does not read hears nothing; the child goes on serving.
        with suppress(OSError):
            self._line.send(line.encode() + b"\n", socket.MSG_DONTWAIT)
