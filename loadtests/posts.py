"""The closed loop of loadtests.closed with requests that are each sent once: POSTs with effects.

python -m loadtests.posts --url URL --requests FILE --connections 64 --seconds 3 [--close] prints
JSON. FILE has one ready request an entry, as write_posts() makes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from loadtests.closed import Loop

CREATED: Final = b"HTTP/1.1 201 "
BETWEEN: Final = b"\0"  # never in a request


def post_bytes(host: str, target: str, body: bytes, lines: Sequence[str], *, close: bool) -> bytes:
    """A POST of JSON. lines: header lines besides."""
    head = [f"POST {target} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *lines]
    head += [f"Content-Length: {len(body)}", *(["Connection: close"] if close else [])]
    return "\r\n".join([*head, "", ""]).encode() + body


def write_posts(file: Path, requests: Iterable[bytes]) -> None:
    file.write_bytes(BETWEEN.join(requests))


class Spent(Exception):
    """Every request was sent; there were too few for the time."""


class Posts(Loop):
    """Sends each request once, and takes 201 alone for an answer."""

    def __init__(self, url: str, connections: int, requests: Sequence[bytes], *, close: bool):
        super().__init__(url, connections, close=close, good=CREATED)
        self._next_request = self._take
        self._left = iter(requests)

    def _take(self) -> bytes:
        request = next(self._left, None)
        if request is None:
            raise Spent
        return request


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.posts")
    add = parser.add_argument
    add("--url", required=True)
    add("--requests", type=Path, required=True)
    add("--connections", type=int, default=64)
    add("--seconds", type=float, default=3.0)
    add("--close", action="store_true", help="a new connection for each request")
    options = parser.parse_args()
    requests = options.requests.read_bytes().split(BETWEEN)
    loop = Posts(options.url, options.connections, requests, close=options.close)
    try:
        print(json.dumps(asdict(loop.run(options.seconds))))
    except Spent:
        print("all requests were sent before the time was over", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
