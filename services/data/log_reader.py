"""Reading the log of events: each entry is one worker's at a time, until it is counted and dropped.

docs/events.md has what a broker in its place has to keep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.event_log import APPENDED, LOG
from services.valkey import LOST

GROUP: Final = "rollups"
LOG_ID: Final = "tercet:behaviour:id"
# A worker counts what it has read within a second or two. What it holds for longer is another's: a
# worker that is merely slow loses nothing by it, since an entry that is counted is known by its id.
STUCK_MS: Final = 2000
FORGOTTEN_MS: Final = 3_600_000  # a worker without entries that was silent for so long is gone


# What is beyond these was not written by us: it must not stop the reading of what was.
LAST_MS: Final = 4_102_444_800_000  # 2100
LAST_NUMBER: Final = 1_000_000


class LogAway(Exception):
    """The log does not answer, or not as it should."""


class LogEntry(NamedTuple):
    """An entry of services/event_log.py with its place in the log."""

    entry_ms: int
    entry_seq: int
    arrived_ms: int
    visitor: bytes
    number: int
    events: bytes

    @property
    def entry_id(self) -> str:
        return f"{self.entry_ms}-{self.entry_seq}"


class LogLag(NamedTuple):
    """Entries in the log that are not counted and dropped, and the age of the oldest."""

    entries: int
    oldest_s: float


class Appended(NamedTuple):
    """The log at one moment: what was ever appended to which log, and the entries still in it.

    entries: by their place the number of their events. newest: the place of the last one ever.
    """

    log_id: str
    events: int
    newest: tuple[int, int]
    entries: dict[tuple[int, int], int]


class LogReader(Protocol):
    """What a worker needs of a log. All methods raise LogAway."""

    async def open(self) -> str:
        """Begin to read; returns the id of the log, which a log that was lost does not keep."""

    async def read(self, count: int, wait_ms: int) -> list[LogEntry]:
        """Entries that nobody has read, at most `count`, waiting for the first for a while."""

    async def own(self, count: int) -> list[LogEntry]:
        """Entries that this worker has read before, and not dropped."""

    async def claim_stuck(self, count: int) -> list[LogEntry]:
        """Entries that another worker has read, and not dropped for STUCK_MS."""

    async def drop(self, entries: Sequence[LogEntry]) -> None:
        """Take entries out that are counted."""

    async def oldest_ms(self) -> int | None:
        """When the oldest entry in the log was appended."""


class ValkeyLogReader:
    """A consumer group on a stream. worker: a name that no other worker has."""

    def __init__(self, valkey: Redis, worker: str = "") -> None:
        self._valkey = valkey
        self._worker = worker or uuid4().hex

    async def open(self) -> str:
        try:
            await self._valkey.set(LOG_ID, uuid4().hex, nx=True)
            log_id: Any = await self._valkey.get(LOG_ID)
            try:
                await self._valkey.xgroup_create(LOG, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            return str(log_id.decode())
        except LOST as error:
            raise LogAway(repr(error)) from error

    async def read(self, count: int, wait_ms: int) -> list[LogEntry]:
        return _of_reply(
            await self._ask(
                *("XREADGROUP", "GROUP", GROUP, self._worker, "COUNT", count, "BLOCK", wait_ms),
                *("STREAMS", LOG, ">"),
            )
        )

    async def own(self, count: int) -> list[LogEntry]:
        return _of_reply(
            await self._ask(
                *("XREADGROUP", "GROUP", GROUP, self._worker, "COUNT", count),
                *("STREAMS", LOG, "0"),
            )
        )

    async def claim_stuck(self, count: int) -> list[LogEntry]:
        found = await self._ask(
            *("XAUTOCLAIM", LOG, GROUP, self._worker, STUCK_MS, "0-0", "COUNT", count)
        )
        return _entries(found[1])

    async def drop(self, entries: Sequence[LogEntry]) -> None:
        ids = [entry.entry_id for entry in entries]
        try:
            async with self._valkey.pipeline(transaction=True) as pipeline:
                pipeline.xack(LOG, GROUP, *ids)
                pipeline.xdel(LOG, *ids)
                await pipeline.execute()
        except LOST as error:
            raise LogAway(repr(error)) from error

    async def oldest_ms(self) -> int | None:
        found = await self._ask("XRANGE", LOG, "-", "+", "COUNT", 1)
        entries = _entries(found)
        return entries[0].entry_ms if entries else None

    async def lag(self) -> LogLag:
        """How far the workers are behind."""
        entries = int(await self._ask("XLEN", LOG))
        oldest_ms = await self.oldest_ms()
        age_s = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
        return LogLag(entries, age_s)

    async def forget_workers(self) -> None:
        """Take out of the group who has been gone for long and has left nothing."""
        for worker in await self._ask("XINFO", "CONSUMERS", LOG, GROUP):
            if worker[b"pending"] == 0 and worker[b"idle"] > FORGOTTEN_MS:
                await self._ask("XGROUP", "DELCONSUMER", LOG, GROUP, worker[b"name"])

    async def _ask(self, *command: str | int | bytes) -> Any:
        try:
            return await self._valkey.execute_command(*command)  # type: ignore[no-untyped-call]
        except LOST as error:
            raise LogAway(repr(error)) from error


# All at one moment; the numbers of events are told without the events themselves.
LOOK: Final = """
local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  local fields = entry[2]
  local number = '0'
  for at = 1, #fields, 2 do
    if fields[at] == 'n' then number = fields[at + 1] end
  end
  found[#found + 1] = entry[1] .. ' ' .. number
end
local newest = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then newest = info[at + 1] end
  end
end
return {redis.call('GET', KEYS[3]) or '', redis.call('GET', KEYS[2]) or '0', newest, found}
"""


async def look(valkey: Redis) -> Appended:
    """The log as it is at one moment, which holds everybody else up for a moment. Or LogAway."""
    try:
        told: Any = await valkey.eval(LOOK, 3, LOG, APPENDED, LOG_ID)
    except LOST as error:
        raise LogAway(repr(error)) from error
    log_id, events, newest, found = told
    entries = {}
    for line in found:
        place, _, number = line.decode().partition(" ")
        entries[_place(place)] = int(number)
    return Appended(log_id.decode(), int(events), _place(newest.decode()), entries)


def _place(entry_id: str) -> tuple[int, int]:
    entry_ms, _, entry_seq = entry_id.partition("-")
    return int(entry_ms), int(entry_seq)


def _of_reply(reply: dict[bytes, list[Any]]) -> list[LogEntry]:
    """The entries of the one stream that was read."""
    return [entry for (found,) in reply.values() for entry in _entries(found)]


def _entries(found: list[tuple[bytes, dict[bytes, bytes] | None]]) -> list[LogEntry]:
    entries = []
    for entry_id, told in found:
        fields = told or {}  # none of one that is not in the stream any more
        entry_ms, entry_seq = _place(entry_id.decode())
        entries.append(
            LogEntry(
                entry_ms,
                entry_seq,
                _number(fields.get(b"t"), entry_ms, LAST_MS),
                fields.get(b"v", b""),
                _number(fields.get(b"n"), 0, LAST_NUMBER),
                fields.get(b"e", b""),
            )
        )
    return entries


def _number(text: bytes | None, otherwise: int, most: int) -> int:
    if text is None or not text.isdigit() or int(text) > most:
        return otherwise
    return int(text)
