"""The stream of live states: what an entry is, and how a process follows it without a gap.

The worker `live` writes it (services/data/live.py); each access process reads all of it, once for
all its clients. It stands in the cache's Valkey, so it may be lost, and its reader notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.telemetry import logger
from services.valkey import LOST

log = logger(__name__)

STREAM: Final = "tercet:live"
# Of entries: what clients can have missed and still get. 500 changes a second fill it in 20 s,
# twice as long as clients wait before they come back.
STREAM_KEPT: Final = 10_000
READ_AT_ONCE: Final = 500
BLOCK_MS: Final = 2000
RECONNECT_S: Final = 0.2
EPOCH_DIGITS: Final = 8  # of the 40 that a server makes for itself when it starts

Position = tuple[int, int]  # an entry's id: milliseconds and a number within them
START: Final[Position] = (0, 0)


class Entry(NamedTuple):
    """What something is now. key: of what; entries of one key replace each other.

    topic: whose listeners get it. event: its name for clients. data: one line of JSON.
    """

    position: Position
    topic: str
    key: str
    event: str
    data: bytes


class Holder(Protocol):
    """Who is told what is read."""

    def began(self, epoch: str, floor: Position, entries: Sequence[Entry]) -> None:
        """These are all entries after `floor`; what was read before may be another stream's.

        epoch: the server's life, without which positions mean nothing.
        """

    def arrived(self, entries: Sequence[Entry]) -> None: ...

    def found(self) -> None:
        """The stream is read again after it could not be for a while; nothing was missed."""


class Follower:
    """Reads the stream for ever, from what it still has at the beginning."""

    def __init__(self, valkey: Redis, holder: Holder) -> None:
        self._valkey = valkey
        self._holder = holder
        self._epoch = ""
        self._last: Position = START
        self.following = False
        self.gaps_total = 0

    async def run(self) -> None:
        said = False
        while True:
            try:
                await self._follow()
            except (*LOST, TimeoutError) as error:
                if self.following or not said:  # said once, not at each try
                    log.warning("live stream lost", error=repr(error))
                said = True
            except Exception:  # a bug, of whoever is told perhaps: all is read again
                log.exception("live stream broken")
                self._epoch = ""
            self.following = False
            await asyncio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        server: dict[str, Any] = await self._valkey.info("server")
        epoch = str(server["run_id"])[:EPOCH_DIGITS]
        if epoch != self._epoch or not await self._is_there(self._last):
            await self._begin(epoch)
        else:
            self._holder.found()
        self.following = True
        while True:
            entries = await self._read()
            if len(entries) == READ_AT_ONCE and not await self._is_there(self._last):
                # It was cut off between the last read and this one, and more with it perhaps.
                self.gaps_total += 1
                await self._begin(epoch)
                continue
            if entries:
                self._last = entries[-1].position
                self._holder.arrived(entries)

    async def _begin(self, epoch: str) -> None:
        raw: Any = await self._valkey.xrevrange(STREAM, count=STREAM_KEPT)
        entries = _entries(raw[::-1])
        if entries:
            floor, self._last = entries[0].position, entries[-1].position
        else:
            floor = self._last = await self._end()
        self._epoch = epoch
        # Who has seen the first has missed nothing; who has not may have missed what was before it.
        self._holder.began(epoch, floor, entries)

    async def _end(self) -> Position:
        """The last position of a stream without entries."""
        try:
            state: dict[str, Any] = await self._valkey.xinfo_stream(STREAM)
        except ResponseError:  # there is none yet
            return START
        return position_of(state["last-generated-id"])

    async def _read(self) -> list[Entry]:
        streams: Any = {STREAM: text_of(self._last)}
        answer: Any = await self._valkey.xread(streams, count=READ_AT_ONCE, block=BLOCK_MS)
        if not answer:
            return []
        (found,) = answer.values() if isinstance(answer, dict) else [each[1] for each in answer]
        # RESP3 has one more list round the entries than RESP2.
        return _entries(found[0] if found and isinstance(found[0], list) else found)

    async def _is_there(self, position: Position) -> bool:
        """Whether an entry was not cut off; of a stream that began empty, whether none was."""
        if position == START:
            first = await self._valkey.xrange(STREAM, count=1)
            if not first:
                return True
            state: dict[str, Any] = await self._valkey.xinfo_stream(STREAM)
            return bool(state["entries-added"] == state["length"])
        text = text_of(position)
        return bool(await self._valkey.xrange(STREAM, min=text, max=text))


def text_of(position: Position) -> str:
    return f"{position[0]}-{position[1]}"


def position_of(text: bytes | str) -> Position:
    """Raises ValueError for what is no position."""
    milliseconds, _, number = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(milliseconds), int(number)


def _entries(raw: Sequence[Any]) -> list[Entry]:
    """What can not be read is passed over, but for its position: the next begins behind it."""
    return [_entry(entry_id, fields) for entry_id, fields in raw]


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    topic, key = fields.get(b"topic", b""), fields.get(b"key", b"")
    event, data = fields.get(b"event", b""), fields.get(b"data", b"")
    # A line end in them would be the client's, not ours.
    whole = topic and event.isalnum() and b"\n" not in data and b"\r" not in data
    if not whole:
        log.warning("live entry not understood", entry_id=entry_id.decode())
        return Entry(position_of(entry_id), "", "", "", b"")
    return Entry(
        position_of(entry_id), topic.decode(), (key or topic).decode(), event.decode(), data
    )
