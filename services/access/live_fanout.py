"""Writing one message to many: in slices, so that pages are answered between them.

Where more writes wait than a moment takes, a message is replaced by a newer one of its key: states
are absolute, and a process that is behind catches up by leaving out what is old. So what waits is
bounded, however fast they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple, Protocol

from services.access.live_history import Message
from services.live_stream import Position

# Writes between two turns of the loop. Each is a system call of 5 to 8 microseconds at its end, so
# a page waits for a millisecond or two, and 10,000 clients have their message in 0.2 s.
SLICE: Final = 200
BEHIND_WRITES: Final = 10 * SLICE  # some 20 to 50 ms


class Receiver(Protocol):
    """A stream that is open. since: it was given what was there up to this position."""

    since: Position

    def write(self, data: bytes) -> None: ...


class Waiting(NamedTuple):
    message: Message
    writes: int  # as many as listened when it came


Audience = Callable[[str], Collection[Receiver]]


class FanOut:
    """audience: who listens to a topic, asked for when its message's turn comes."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._waiting: dict[Position, Waiting] = {}  # in their order
        self._newest: dict[str, Position] = {}  # of those that wait, by key
        self._owed = 0  # writes that wait
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
        """Write it to all who listen to its topic then, after those that were added before."""
        if self._owed >= BEHIND_WRITES and message.key in self._newest:
            self._take(self._newest[message.key])
            self.replaced_total += 1
        writes = len(self._audience(message.topic))
        self._waiting[message.position] = Waiting(message, writes)
        self._newest[message.key] = message.position
        self._owed += writes
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._turn)

    def clear(self) -> None:
        """Leave out what waits: it is of no use to anybody any more."""
        self._waiting.clear()
        self._newest.clear()
        self._owed = 0
        self._message, self._receivers = None, iter(())

    def _take(self, position: Position) -> Message:
        message, writes = self._waiting.pop(position)
        self._owed -= writes
        if self._newest.get(message.key) == position:
            del self._newest[message.key]
        return message

    def _turn(self) -> None:
        room = SLICE
        while room > 0:
            if self._message is None:
                if not self._waiting:
                    self._running = False
                    return
                self._message = message = self._take(next(iter(self._waiting)))
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
