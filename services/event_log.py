"""The log of events, between who writes them and who counts them: a stream in a Valkey of its own.

docs/events.md has what a broker in its place has to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from services.valkey import LOST

LOG: Final = "tercet:behaviour"
# Events that were ever appended. It grows in the transaction that appends them, so it is exact.
APPENDED: Final = "tercet:behaviour:appended"


class NotAppended(Exception):
    """The log did not say that it has the entries. It may have them all the same, all or none."""


class LogFull(NotAppended):
    """The log has no room: none of the entries is in it."""


class Entry(NamedTuple):
    """One batch of one sender.

    arrived_ms: since 1970, by the clock of who took it. visitor: 8 bytes that stand for a visitor
    for a day, or none. events: `number` events by services.events.write_events.
    """

    arrived_ms: int
    visitor: bytes
    number: int
    events: bytes


class EventLog(Protocol):
    """What writers need of a log."""

    async def append(self, entries: Sequence[Entry]) -> None:
        """Return once all are there for good, or raise NotAppended."""


class ValkeyEventLog:
    """A stream; appendfsync always makes an answer mean that it is on the disk."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey

    async def append(self, entries: Sequence[Entry]) -> None:
        count = sum(entry.number for entry in entries)
        try:
            async with self._valkey.pipeline(transaction=True) as pipeline:
                for entry in entries:
                    pipeline.execute_command(*_command(entry))
                pipeline.execute_command("INCRBY", APPENDED, count)
                await pipeline.execute()
        except OutOfMemoryError as error:
            raise LogFull(repr(error)) from error
        except LOST as error:
            raise NotAppended(repr(error)) from error


def _command(entry: Entry) -> tuple[str | int | bytes, ...]:
    arrived_ms, visitor, number, events = entry
    return "XADD", LOG, "*", "t", arrived_ms, "v", visitor, "n", number, "e", events
