"""Connections that are opened, ask once, and stay: what keeping them costs a server.

python -m loadtests.idle --url URL --connections 10000 prints "open" when all have their answer,
holds them until its standard input ends, and then prints how many the server had not closed.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from typing import Final
from urllib.parse import urlsplit

from loadtests.answers import Answers, request_bytes
from loadtests.pinning import raise_file_limit

AT_ONCE: Final = 256  # connections being opened: fewer than any server's backlog
PATIENCE_S: Final = 60.0
BUFFER_BYTES: Final = 64 * 1024


class Holder:
    """Opens connections to one address and keeps them."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._address = (place.hostname or "", place.port or 80)
        self._request = request_bytes(place.netloc, place.path or "/")
        self._answers = Answers()
        self._sockets: list[socket.socket] = []

    def open(self, connections: int) -> None:
        """Open that many, each with one answer; raises OSError or ValueError when one fails."""
        buffer, deadline = bytearray(BUFFER_BYTES), time.monotonic() + PATIENCE_S
        asking: dict[int, socket.socket] = {}
        with select.epoll() as poller:
            while len(self._sockets) < connections or asking:
                while len(self._sockets) < connections and len(asking) < AT_ONCE:
                    connection = socket.create_connection(self._address, timeout=PATIENCE_S)
                    self._sockets.append(connection)
                    connection.sendall(self._request)
                    connection.setblocking(False)
                    asking[connection.fileno()] = connection
                    poller.register(connection, select.EPOLLIN)
                for number, _ in poller.poll(1.0):
                    size = asking[number].recv_into(buffer)
                    if self._answers.complete(number, buffer, size):
                        poller.unregister(number)
                        del asking[number]
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(asking)} connections have no answer")

    def still_open(self) -> int:
        """How many of them the server has not closed."""
        return sum(map(_is_open, self._sockets))


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.idle")
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    raise_file_limit()
    holder = Holder(options.url)
    holder.open(options.connections)
    print("open", flush=True)
    sys.stdin.read()
    print(holder.still_open(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
