"""One proxied connection: two directions, each carried by a pump that obeys its toxics."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.faults.toxics import Toxics

READ_BYTES: Final = 65_536
# What one direction of one connection may hold while it is late. Latency keeps bytes in flight:
# with this much, 100 ms still let 10 MB/s through.
IN_FLIGHT_BYTES: Final = 1_048_576
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Tally:
    """Bytes of one direction: handed over, and thrown away."""

    passed_bytes: int = 0
    dropped_bytes: int = 0


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side sees a reset."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


class Pump:
    """One direction: reads, holds what it read as long as it is late, hands over."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        toxics: Callable[[], Toxics],
        tally: Tally,
        dice: random.Random,
    ) -> None:
        self.in_flight_bytes = 0
        self._reader = reader
        self._writer = writer
        self._toxics = toxics
        self._tally = tally
        self._dice = dice
        self._late: deque[tuple[float, bytes]] = deque()  # (when to hand over, what); b"": the end
        self._failure: OSError | None = None
        self._changed = asyncio.Condition()
        self._now = asyncio.get_running_loop().time
        self._last_due = self._wire_free_at = 0.0
        self._passed_bytes = 0
        # With no buffer of its own below it, a drained writer has given its bytes to the kernel:
        # a reset that follows does not take them along.
        writer.transport.set_write_buffer_limits(high=0)

    async def run(self) -> bool:
        """Carry until the sender ends (False) or a cut does (True). A reset raises OSError."""
        reading = asyncio.create_task(self._read())
        try:
            return await self._hand_over_all()
        finally:
            reading.cancel()

    async def drop_rest(self) -> None:
        """Read and throw away until the sender ends."""
        with suppress(OSError):
            while data := await self._reader.read(READ_BYTES):
                self._tally.dropped_bytes += len(data)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ_BYTES):
                toxics = self._toxics()
                if toxics.drop:
                    self._tally.dropped_bytes += len(data)
                    continue
                await self._hold(data, toxics.delay_s(self._dice))
            await self._hold(b"", 0.0)
        except OSError as error:
            self._failure = error
            async with self._changed:
                self._changed.notify_all()

    async def _hold(self, data: bytes, delay_s: float) -> None:
        """Keep the piece for its delay, but never let it overtake; wait while there is no room."""
        self._last_due = max(self._last_due, self._now() + delay_s)
        async with self._changed:
            self._late.append((self._last_due, data))
            self.in_flight_bytes += len(data)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self.in_flight_bytes < IN_FLIGHT_BYTES)

    async def _hand_over_all(self) -> bool:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._late or self._failure)
            if self._failure is not None:
                raise self._failure
            due, data = self._late.popleft()
            await self._sleep_until(due)
            if not data:
                self._writer.write_eof()
                return False
            if await self._hand_over(memoryview(data)):
                return True
            async with self._changed:
                self.in_flight_bytes -= len(data)
                self._changed.notify_all()

    async def _hand_over(self, data: memoryview) -> bool:
        """Hand over in portions, with the toxics of that moment; true when a cut came."""
        while data:
            toxics = self._toxics()
            size = toxics.portion_bytes(len(data))
            self._wire_free_at = max(self._wire_free_at, self._now()) + toxics.portion_s(size)
            await self._sleep_until(self._wire_free_at)
            left = toxics.left_bytes(self._passed_bytes)
            ends = left is not None and size >= left
            await self._write(data[:left] if ends else data[:size])
            if ends and toxics.ends_by_reset():
                raise ConnectionResetError("the reset that the toxics ask for")
            if ends:
                return True
            data = data[size:]
        return False

    async def _write(self, portion: memoryview) -> None:
        self._writer.write(portion)
        await self._writer.drain()
        self._passed_bytes += len(portion)
        self._tally.passed_bytes += len(portion)

    async def _sleep_until(self, moment: float) -> None:
        wait_s = moment - self._now()
        if wait_s > 0:
            await asyncio.sleep(wait_s)


class Link:
    """A client's connection and the one to the server behind it."""

    def __init__(self, client: Stream, server: Stream, to_server: Pump, to_client: Pump) -> None:
        self._writers = (client[1], server[1])
        self._pumps = (to_server, to_client)
        self._tasks: list[asyncio.Task[bool]] = []

    @property
    def in_flight_bytes(self) -> int:
        return sum(pump.in_flight_bytes for pump in self._pumps)

    async def run(self) -> None:
        """Carry both directions until both have ended or a fault ends the connection."""
        self._tasks = [asyncio.create_task(pump.run()) for pump in self._pumps]
        try:
            for finished in asyncio.as_completed(self._tasks):
                if await finished:
                    await self._stop_pumps()
                    await self._cut()
                    break
        except OSError:  # one side was reset, by a fault or by its owner: so is the other
            self.reset()
        finally:
            try:
                await self._stop_pumps()
            finally:  # cancelled once more while they stop
                for writer in self._writers:
                    writer.close()

    def reset(self) -> None:
        """Reset both sides, now."""
        for writer in self._writers:
            reset(writer)

    async def _stop_pumps(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self) -> None:
        """End both sides in order: nothing more is sent, and what still comes is thrown away.

        Closing with bytes unread would be a reset, and take along what has just been sent.
        """
        for writer in self._writers:
            with suppress(OSError):
                writer.write_eof()
        await asyncio.gather(*(pump.drop_rest() for pump in self._pumps))
