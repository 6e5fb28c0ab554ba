"""Writing one message to many: in slices, so that pages are answered between them.

A message that has not been written to anybody yet is replaced by a newer one of its key: states
are absolute, and a process that is behind catches up by leaving out what is old. So what waits is
one message a key, however fast they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from services.access.live_history import Message
from services.live_stream import Position

# Writes between two turns of the loop. Each is a system call of 5 to 8 microseconds at its end, so
# a page waits for a millisecond or two, and 10,000 clients have their message in 0.2 s.
SLICE: Final = 200


class Receiver(Protocol):
    """A stream that is open. since: it was given what was there up to this position."""

    since: Position

    def write(self, data: bytes) -> None: ...


Audience = Callable[[str], Iterable[Receiver]]


class FanOut:
    """audience: who listens to a topic, asked for when its message's turn comes."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._waiting: dict[str, Message] = {}  # by key, in the order of their positions
        self._receivers: Iterator[Receiver] = iter(())
        self._message: Message | None = None
        self._running = False
        self.writes_total = 0
        self.replaced_total = 0

    @property
    def behind(self) -> int:
        """Messages that wait for their turn."""
        return len(self._waiting)

    def add(self, message: Message) -> None:
        if self._waiting.pop(message.key, None) is not None:
            self.replaced_total += 1
        self._waiting[message.key] = message
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._turn)

    def clear(self) -> None:
        """Leave out what waits: it is of no use to anybody any more."""
        self._waiting.clear()
        self._message, self._receivers = None, iter(())

    def _turn(self) -> None:
        room = SLICE
        while room > 0:
            if self._message is None:
                if not self._waiting:
                    self._running = False
                    return
                self._message = message = self._waiting.pop(next(iter(self._waiting)))
                # As it is now: who comes while this is written has been given its state.
                self._receivers = iter(list(self._audience(message.topic)))
            room -= self._write(self._message, room)
        asyncio.get_running_loop().call_soon(self._turn)

    def _write(self, message: Message, room: int) -> int:
        """Write it to as many; returns how many it took, at least one."""
        data, position, count = message.data, message.position, 0
        for receiver in self._receivers:
            if receiver.since < position:
                receiver.write(data)
                count += 1
                if count >= room:
                    break
        else:
            self._message = None
        self.writes_total += count
        return max(1, count)
