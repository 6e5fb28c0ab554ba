"""Where the outbox relay puts what it has to tell: Valkey, or what is put in its place.

docs/outbox.md has what an implementation over NATS or Kafka has to keep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
from redis.asyncio import Redis

from services.data.ledger import BOOKED_EVENT
from services.data.outbox import OutboxRow
from services.data.tags import TagPublisher
from services.event_log import Entry, EventLog, NotAppended, ValkeyEventLog
from services.events import EVENTS_LIMIT, Booked, write_events
from services.valkey import LOST

EVENTS_STREAM: Final = "tercet:events"
EVENTS_KEPT: Final = 100_000  # about a day of orders of a shop that takes one a second
# One command for all: packing one for each and reading its answer took a third of the relay's time.
APPEND_EVENTS: Final = """
for at = 2, #ARGV, 4 do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'event_id', ARGV[at],
        'name', ARGV[at + 1], 'aggregate_id', ARGV[at + 2], 'payload', ARGV[at + 3])
end
"""
read_booked: Final = msgspec.json.Decoder(Booked).decode


class NotPublished(Exception):
    """What was to be published may not have arrived: it is claimed and published again."""


class Publisher(Protocol):
    """Both methods raise NotPublished, and may then have published a part, in order."""

    spoke_at: float  # monotonic: when tags, or a heartbeat, were last sent

    async def publish_tags(self, tags: Sequence[str], position: int) -> None:
        """Tell everybody who holds pages that these are old at `position`; none: a heartbeat."""

    async def publish_events(self, rows: Sequence[OutboxRow]) -> None:
        """Append events, those of one aggregate in the order given, with outbox_id as their id."""


class ValkeyPublisher:
    """Tags by pub/sub, events in a stream. relay: a name that no other relay has.

    events: the Valkey of the log of events, which has the stream too, and loses nothing. Transfers
    of the ledger go into the log besides, to be counted. Without one the stream is in the cache.
    """

    def __init__(self, valkey: Redis, relay: str, events: Redis | None = None) -> None:
        self._events = valkey if events is None else events
        self._log: EventLog | None = None if events is None else ValkeyEventLog(events)
        self._tags = TagPublisher(valkey, relay)

    @property
    def spoke_at(self) -> float:
        return self._tags.spoke_at

    @spoke_at.setter
    def spoke_at(self, moment: float) -> None:
        self._tags.spoke_at = moment

    async def publish_tags(self, tags: Sequence[str], position: int) -> None:
        try:
            await self._tags.publish(list(tags), position)
        except LOST as error:
            raise NotPublished(repr(error)) from error

    async def publish_events(self, rows: Sequence[OutboxRow]) -> None:
        try:
            fields = [
                field
                for row in rows
                for field in (row.outbox_id, row.name, row.aggregate_id, row.payload)
            ]
            await self._events.eval(APPEND_EVENTS, 1, EVENTS_STREAM, EVENTS_KEPT, *fields)
            if self._log is not None:
                entries = booked_entries(rows)
                if entries:
                    await self._log.append(entries)
        except (*LOST, NotAppended) as error:
            raise NotPublished(repr(error)) from error


def booked_entries(rows: Sequence[OutboxRow]) -> list[Entry]:
    """Entries of the log with the transfers that are among these events."""
    booked = [read_booked(row.payload) for row in rows if row.name == BOOKED_EVENT]
    now_ms = int(time.time() * 1000)
    parts = [booked[at : at + EVENTS_LIMIT] for at in range(0, len(booked), EVENTS_LIMIT)]
    return [Entry(now_ms, b"", len(part), write_events(part)) for part in parts]
