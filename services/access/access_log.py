"""The access log: a sample of the requests, one JSON object a line, written off the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from queue import SimpleQueue
from random import random
from threading import Thread
from time import time
from typing import Final

import orjson

FLUSH_S: Final = 0.25
CLOSE_S: Final = 1.0  # of a stop, for what is left
# Some 12 MB when nobody takes them: a line that waits is 0.5 KB, and its path up to 1 KB more.
WAITING_LINES: Final = 8_192
PATH_BYTES: Final = 1_024  # a URL may have 8 times that, and would be kept 8,192 times
# What is left of a client's address: a network, not a person (IPv4 /24, IPv6 /48).
KEPT_BITS: Final = {4: 24, 6: 48}

Line = tuple[float, str, bytes, int, int, float, str, str, str, str]


class AccessLog:
    """Lines wait in memory and are written four times a second by a thread of its own.

    When what takes them (a pipe, a disk) does not keep up, new lines are dropped and counted:
    the log never slows a request down.
    """

    def __init__(self, share: float, write: Callable[[bytes], object] | None = None) -> None:
        self.share = share  # 0: off, 1: every request
        self.written_total = self.dropped_total = 0
        self._write = write or _write_to_stdout
        self._lines: list[Line] = []
        self._timer: asyncio.TimerHandle | None = None
        self._handed: SimpleQueue[list[Line] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._written = asyncio.Event()  # the thread has nothing to do
        self._written.set()

    def sample(self) -> bool:
        """Whether this request is to be written."""
        return self.share > 0.0 and random() < self.share  # noqa: S311  # chooses lines, no secret

    def write(  # noqa: PLR0917  # positional: called for each request when all are written
        self,
        method: str,
        target: bytes,
        status: int,
        size_bytes: int,
        duration_s: float,
        route: str,
        cache: str,
        request_id: str,
        client: str,
    ) -> None:
        """Keep a line. target: path and query as sent; cache: as in Cache-Status, or empty."""
        if len(self._lines) >= WAITING_LINES:
            self.dropped_total += 1
            return
        path = target.partition(b"?")[0][:PATH_BYTES]
        self._lines.append(
            (time(), method, path, status, size_bytes, duration_s, route, cache, request_id, client)
        )
        if self._timer is None and self._written.is_set():
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    async def aclose(self) -> None:
        """Write what is left; gives up on a reader that takes nothing for a second."""
        if self._timer is not None:
            self._timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._lines or not self._written.is_set():
                    if self._written.is_set():
                        self._flush()
                    await self._written.wait()
        self._handed.put(None)

    def _flush(self) -> None:
        self._timer = None
        lines, self._lines = self._lines, []
        if self._thread is None:
            # A daemon: a reader that takes nothing must not keep the process from its end.
            arguments = (asyncio.get_running_loop(),)
            self._thread = Thread(target=self._work, args=arguments, name="log", daemon=True)
            self._thread.start()
        self._written.clear()
        self._handed.put(lines)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (lines := self._handed.get()) is not None:
            try:
                self._write(b"".join(map(_rendered, lines)))
            except OSError:
                self.dropped_total += len(lines)
            else:
                self.written_total += len(lines)
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(self._after_write)

    def _after_write(self) -> None:
        self._written.set()
        if self._lines and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)


def _write_to_stdout(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def _rendered(line: Line) -> bytes:
    """One line whatever the fields contain: JSON escapes every control character."""
    at, method, path, status, size_bytes, duration_s, route, cache, request_id, client = line
    document = {
        "timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "event": "request",
        "method": method,
        "path": path.decode("latin-1"),
        "status": status,
        "size_bytes": size_bytes,
        "duration_ms": round(duration_s * 1000, 3),
        "route": route,
        "cache": cache,
        "request_id": request_id,
        "client": network_of(client),
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def network_of(client: str) -> str:
    """The network that an address belongs to, without the part that names a machine."""
    try:
        address = ip_address(client)
    except ValueError:
        return ""
    return str(ip_network((address, KEPT_BITS[address.version]), strict=False).network_address)
