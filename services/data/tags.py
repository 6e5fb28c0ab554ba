"""The tag stream: which pages are old, from the outbox relay to everybody who holds pages.

A message carries tags, the WAL position at which the change that caused them is visible, and a
sequence number of the relay that sent it. A gap in the sequence, or silence, means that something
may have been missed: what is held is then unverified, never thrown away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec
from redis.asyncio import Redis

from services.data.valkey import LOST
from services.telemetry import logger

log = logger(__name__)

CHANNEL: Final = "tercet:tags"
WAKE_CHANNEL: Final = "tercet:outbox-wake"
HEARTBEAT_S: Final = 0.5
SILENCE_S: Final = 1.5  # three heartbeats
RECONNECT_S: Final = 0.2
DEAF_S: Final = 3 * SILENCE_S  # a connection that half died says nothing: make another
POSITION_KEY: Final = "tercet:tag:"
POSITION_TTL_S: Final = 3600  # longer than anything cached lives


# Two relays may tell the same tag, the slower one with the older position.
RAISE_POSITIONS: Final = """
for _, key in ipairs(KEYS) do
    local held = tonumber(redis.call('GET', key))
    if not held or held < tonumber(ARGV[1]) then
        redis.call('SET', key, ARGV[1], 'EX', ARGV[2])
    end
end
"""


class TagMessage(msgspec.Struct, frozen=True):
    """sequence counts the messages of one relay; position is in bytes of WAL."""

    relay: str
    sequence: int
    position: int
    tags: list[str]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(TagMessage).decode


class TagPublisher:
    """One relay's end of the stream."""

    def __init__(self, valkey: Redis, relay: str) -> None:
        self._valkey = valkey
        self._relay = relay
        self._sequence = 0
        self.spoke_at = float("-inf")  # monotonic

    async def publish(self, tags: list[str], position: int) -> None:
        """Send tags, or none as a heartbeat; raises what redis raises, and may be called again.

        The position of each tag is stored before the message is sent: a process that starts later
        still knows which cached values are older than the change.
        """
        message = TagMessage(self._relay, self._sequence + 1, position, tags)
        async with self._valkey.pipeline(transaction=False) as pipeline:
            if tags:
                keys = [POSITION_KEY + tag for tag in tags]
                pipeline.eval(RAISE_POSITIONS, len(keys), *keys, position, POSITION_TTL_S)
            pipeline.publish(CHANNEL, _encode(message))
            await pipeline.execute()
        self._sequence += 1
        self.spoke_at = time.monotonic()


class TagSubscriber:
    """The other end: tells every holder of pages what is old, and knows whether all has arrived."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey
        self._purges: list[Callable[[list[str], int], None]] = []
        # For each relay that speaks: the sequence number expected next, and when it was heard.
        self._relays: dict[str, tuple[int, float]] = {}
        self._verified_since = float("-inf")

    def on_purge(self, purge: Callable[[list[str], int], None]) -> None:
        """Have `purge` called with the tags and the position of each message from now on."""
        self._purges.append(purge)

    def verified_since(self) -> float | None:
        """Since when (monotonic) every message has arrived; None while that is not certain.

        What was filled before that moment may have missed a purge.
        """
        self._forget_silent(time.monotonic())
        return self._verified_since if self._relays else None

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except (*LOST, TimeoutError) as error:
                log.warning("tag stream lost", error=repr(error))
            self._relays.clear()
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        async with self._valkey.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(CHANNEL)
            heard_at = time.monotonic()
            while time.monotonic() - heard_at < DEAF_S:
                message = await channel.get_message(timeout=SILENCE_S)
                if message is not None:
                    heard_at = time.monotonic()
                    self.receive(message["data"])

    def receive(self, data: bytes) -> None:
        """Take one message in; public so that its rules can be tested without a network."""
        now = time.monotonic()
        self._forget_silent(now)
        try:
            message = _decode(data)
        except msgspec.DecodeError as error:
            log.warning("tag message not understood", error=repr(error))
            self._verified_since = now
            return
        expected, _ = self._relays.get(message.relay, (None, now))
        if message.sequence != expected:
            self._verified_since = now
        self._relays[message.relay] = (message.sequence + 1, now)
        if message.tags:
            for purge in self._purges:
                purge(message.tags, message.position)

    def _forget_silent(self, now: float) -> None:
        """A relay that has gone silent may have said something last that was missed."""
        silent = [relay for relay, (_, at) in self._relays.items() if now - at > SILENCE_S]
        for relay in silent:
            del self._relays[relay]
            self._verified_since = now
