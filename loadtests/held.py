"""Connections that are opened and stay: idle ones, and live streams with what they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast
from urllib.parse import urlsplit

from loadtests.answers import request_bytes
from loadtests.generator import Failed, Start
from services.exchange import AnswerTimedOut, ConnectFailed, ConnectionLost

HEAD_END: Final = b"\r\n\r\n"
GOOD: Final = b"HTTP/1.1 200"
MESSAGE: Final = b"\ndata:"  # of an event stream: one line begins so in each message


class Held(asyncio.Protocol):
    """One connection: asks once, and is held from the first byte of a good answer's body on."""

    def __init__(self, request: bytes, lost: Callable[[Held], None]) -> None:
        self._request, self._lost = request, lost
        self._head = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.messages = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            self.messages += data.count(MESSAGE)
            return
        self._head += data
        if HEAD_END not in self._head:
            return
        if self._head.startswith(GOOD):
            self.opened.set_result(None)
            self.messages += self._head.count(MESSAGE)
        else:
            status = self._head[9:12].decode("latin-1")
            self.opened.set_exception(Failed(f"status {status}"))
        self._head = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionLost("closed before its answer"))
        else:
            self._lost(self)


class HeldConnections:
    """Opens one more connection each time it is called, and keeps it until it is closed."""

    def __init__(self, url: str, target: Callable[[], str], accept: str) -> None:
        place = urlsplit(url)
        self._address = (place.hostname or "", place.port or 80)
        self._host, self._target = place.netloc, target
        self._lines = [f"Accept: {accept}"]
        self._open: set[Held] = set()
        self._messages_of_lost = 0
        self.lost = 0

    async def __call__(self, start: Start) -> None:
        request = request_bytes(self._host, self._target(), lines=self._lines)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(start.deadline.left_s()):
                _, held = await loop.create_connection(
                    lambda: Held(request, self._ended), *self._address
                )
                try:
                    await held.opened
                except BaseException:
                    held.transport.abort()
                    raise
        except TimeoutError:
            raise AnswerTimedOut("no answer in time") from None
        except OSError as error:
            raise ConnectFailed(str(error)) from None
        self._open.add(held)

    def _ended(self, held: Held) -> None:
        if held in self._open:
            self._open.discard(held)
            self._messages_of_lost += held.messages
            self.lost += 1

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def messages(self) -> int:
        return self._messages_of_lost + sum(held.messages for held in self._open)

    async def hold_until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))

    def close(self) -> None:
        held_now, self._open = self._open, set()
        self._messages_of_lost += sum(held.messages for held in held_now)
        for held in held_now:
            held.transport.abort()
