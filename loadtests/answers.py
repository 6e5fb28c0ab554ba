"""What the benchmarks ask for and how they see that an answer is whole, with as little as needed.

Only for servers of a benchmark, which answer 200, or what was asked for, with a Content-Length.
Everything else is an error by name, and never counted as an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

GOOD: Final = b"HTTP/1.1 200 "
LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)\r\n")
HEAD_LIMIT_BYTES: Final = 16 * 1024


def request_bytes(
    host: str, target: str, *, close: bool = False, lines: Sequence[str] = ()
) -> bytes:
    """A GET as wrk sends it. lines: header lines besides."""
    ending = "".join(f"{line}\r\n" for line in (*lines, *(["Connection: close"] if close else [])))
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{ending}\r\n".encode()


class Answers:
    """Puts answers together that come in parts; by any number that names a connection."""

    def __init__(self, good: bytes = GOOD) -> None:
        self.good: Final = good
        self.size = 0  # of the last whole answer, head and body
        self._parts: dict[int, bytes] = {}

    def complete(self, number: int, buffer: bytearray, size: int) -> bool:
        """Take `size` more bytes of a connection; whether its answer is whole now.

        Raises ValueError, in words, for anything but one answer that begins as a good one does.
        """
        if size == 0:
            raise ValueError("closed before the whole answer")
        received = self._parts.pop(number, b"") + buffer[:size]
        whole = _whole_size(received, self.good)
        if whole is None or len(received) < whole:
            self._parts[number] = received
            return False
        if len(received) > whole:
            raise ValueError("more than one answer")
        self.size = whole
        return True

    def forget(self, number: int) -> None:
        """Another connection has this number now."""
        self._parts.pop(number, None)


def _whole_size(received: bytes, good: bytes) -> int | None:
    """How long the answer is that begins so; None while its head is not whole."""
    if not received.startswith(good[: len(received)]):
        wanted = good.split()[1].decode()
        raise ValueError(f"not {wanted}: {received[:12].decode('latin-1')}")
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > HEAD_LIMIT_BYTES:
            raise ValueError("a head without an end")
        return None
    length = LENGTH.search(received, 0, end + 2)
    if length is None:
        raise ValueError("an answer without Content-Length")
    return end + 4 + int(length[1])
