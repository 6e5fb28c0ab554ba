"""Many clients of one stream of events, and when each of them is told something.

python -m loadtests.listeners --url URL --connections 10000 prints a line of JSON once all are
open: {"open": 10000, "seconds": 1.2}. A line on its standard input begins a round: it prints
"listening" and, once everybody was told the next event, the moments (monotonic seconds) at which
half, 99 of 100 and all of them had it. It ends with its standard input, and prints how many are
still open.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from typing import Final
from urllib.parse import urlsplit

from loadtests.pinning import raise_file_limit

AT_ONCE: Final = 256  # connections being opened: fewer than any server's backlog
PATIENCE_S: Final = 60.0
BUFFER_BYTES: Final = 64 * 1024
# Of one address of ours to one of the server's: fewer than Linux has ports by default.
PER_ADDRESS: Final = 25_000
FIRST: Final = b"retry:"  # the first thing that each of them is told
EVENT: Final = b"\ndata:"
BIND_WITHOUT_PORT: Final = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
MOST: Final = 0.99


class Listeners:
    """Connections to one address of a server, from as many of this machine's as that takes."""

    def __init__(self, url: str, first_address: int = 0) -> None:
        """first_address: so many of this machine's are left to others."""
        self._first_address = first_address
        place = urlsplit(url)
        self._address = (place.hostname or "", place.port or 80)
        target = f"{place.path}?{place.query}" if place.query else place.path or "/"
        self._request = f"GET {target} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode()
        self._buffer = bytearray(BUFFER_BYTES)
        self._poller = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self.closed = 0

    @property
    def open(self) -> int:
        return len(self._sockets)

    def connect(self, count: int) -> float:
        """Open that many; returns the seconds it took. Raises OSError or TimeoutError."""
        began_at = time.monotonic()
        waiting: set[int] = set()
        started = 0
        while started < count or waiting:
            while started < count and len(waiting) < AT_ONCE:
                waiting.add(self._start(started // PER_ADDRESS))
                started += 1
            for number, _ in self._poller.poll(1.0):
                if FIRST in self._read(number):
                    waiting.discard(number)
            if time.monotonic() - began_at > PATIENCE_S:
                raise TimeoutError(f"{len(waiting)} connections have no answer")
        return time.monotonic() - began_at

    def round(self) -> dict[str, float]:
        """Wait until all have been told an event; when half, most and all of them had it."""
        told: dict[int, float] = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(told) < self.open:
            for number, _ in self._poller.poll(1.0):
                if EVENT in self._read(number) and number not in told:
                    told[number] = time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.open - len(told)} of {self.open} were not told")
        moments = sorted(told.values())
        count = len(moments)
        return {
            "half": moments[count // 2],
            "most": moments[min(count - 1, int(count * MOST))],
            "all": moments[-1],
        }

    def run(self) -> None:
        """Rounds, until standard input ends; heartbeats are read meanwhile."""
        control = sys.stdin.fileno()
        self._poller.register(control, select.EPOLLIN | select.EPOLLHUP)
        while True:
            for number, _ in self._poller.poll(1.0):
                if number != control:
                    self._read(number)
                    continue
                if not os.read(control, BUFFER_BYTES):
                    return
                self._poller.unregister(control)
                print("listening", flush=True)
                print(json.dumps(self.round()), flush=True)
                self._poller.register(control, select.EPOLLIN | select.EPOLLHUP)
                break  # what this poll said is old

    def _start(self, address: int) -> int:
        connection = socket.socket()
        if self._address[0].startswith("127."):
            # The port is chosen when it connects, so that each address has all of them.
            connection.setsockopt(socket.IPPROTO_IP, BIND_WITHOUT_PORT, 1)
            connection.bind((f"127.0.0.{2 + self._first_address + address}", 0))
        connection.settimeout(PATIENCE_S)
        connection.connect(self._address)
        connection.sendall(self._request)
        connection.setblocking(False)
        number = connection.fileno()
        self._sockets[number] = connection
        self._poller.register(number, select.EPOLLIN)
        return number

    def _read(self, number: int) -> bytes:
        connection = self._sockets.get(number)
        if connection is None:
            return b""
        try:
            size = connection.recv_into(self._buffer)
        except BlockingIOError:
            return b""
        except OSError:
            size = 0
        if not size:
            self._poller.unregister(number)
            del self._sockets[number]
            connection.close()
            self.closed += 1
        return bytes(self._buffer[:size])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.listeners")
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--first-address", type=int, default=0)
    options = parser.parse_args()
    raise_file_limit()
    listeners = Listeners(options.url, options.first_address)
    seconds = listeners.connect(options.connections)
    print(json.dumps({"open": listeners.open, "seconds": seconds}), flush=True)
    listeners.run()
    print(listeners.open, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
