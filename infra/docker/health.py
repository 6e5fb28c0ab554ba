"""The health check of a container: a URL that answers 200, or a file that a worker has made.

It runs every few seconds in every container, so it imports next to nothing: 15 ms of CPU with
`python -I -S`.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

TIMEOUT_S: Final = 2.0  # below the 3 s after which Docker gives up on the check


def status_of(url: str) -> int:
    """The status of GET url, of an http URL with a port; OSError or ValueError without one."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=TIMEOUT_S) as connection:
        request = f"GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        connection.sendall(request.encode())
        head = b""
        while b"\r\n" not in head:
            received = connection.recv(4096)
            if not received:
                raise ConnectionError("closed without an answer")
            head += received
    return int(head.split(b" ", 2)[1])


def main(target: str) -> int:
    """0 when healthy, 1 when not: the codes that Docker reads."""
    if not target.startswith("http://"):
        if os.path.exists(target):  # noqa: PTH110  # pathlib takes as long to import as all else
            return 0
        print(f"{target} is not there yet")
        return 1
    try:
        status = status_of(target)
    except (OSError, ValueError, IndexError) as error:
        print(f"{target}: {error}")
        return 1
    print(f"{target} answers {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
