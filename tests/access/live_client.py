"""A client of live streams that keeps what it was told, as EventSource does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.waiting import until

TOLD_WITHIN_S = 10.0


@dataclass
class Listener:
    """One connection. events: (event, data) as they came; last_id: as EventSource keeps it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""
    body: bytes = b""
    retry_ms: int = 0
    last_id: str = ""
    comments: int = 0
    ended: bool = False
    events: list[tuple[str, bytes]] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def data(self) -> list[bytes]:
        return [data for event, data in self.events if event != "reset"]

    @property
    def resets(self) -> int:
        return sum(event == "reset" for event, _ in self.events)

    async def read_on(self) -> None:
        """Read the head, and what comes after it from now on in the background."""
        async with asyncio.timeout(TOLD_WITHIN_S):
            self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        self._task = asyncio.create_task(self._read())

    async def told(self, data: bytes) -> None:
        await until(lambda: data in self.data, within_s=TOLD_WITHIN_S, what=f"{data!r} is told")

    async def begun(self) -> None:
        """Until it has been given what there was."""
        await until(lambda: bool(self.last_id), within_s=TOLD_WITHIN_S, what="it has begun")

    async def gone(self) -> None:
        await until(lambda: self.ended, within_s=TOLD_WITHIN_S, what="the stream ends")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def _read(self) -> None:
        rest = b""
        with suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                self.body += piece
                *blocks, rest = (rest + piece).split(b"\n\n")
                for block in blocks:
                    self._take(block)
        self.ended = True

    def _take(self, block: bytes) -> None:
        """As the WHATWG's HTML standard, 9.2.6, has it; every line here has a space behind `:`."""
        event, data = "message", b""
        for line in block.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"retry":
                self.retry_ms = int(value)
            elif name == b"id":
                self.last_id = value.decode()
            elif name == b"event":
                event = value.decode()
            elif name == b"data":
                data = value
            elif line == b":":
                self.comments += 1
        if data:
            self.events.append((event, data))


opened: list[Listener] = []  # and to be closed when a test is over, however that ends


async def close_all() -> None:
    while opened:
        await opened.pop().close()


async def listen(port: int, query: str, *lines: str, host: str = "127.0.0.1") -> Listener:
    """GET /live with that query; the head has been read."""
    listener = Listener(*await asyncio.open_connection(host, port))
    opened.append(listener)
    head = [f"GET /live?{query} HTTP/1.1", "Host: shop.example", *lines, "", ""]
    listener.writer.write("\r\n".join(head).encode())
    await listener.read_on()
    return listener
