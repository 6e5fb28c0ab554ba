"""The tag stream as it is heard: which pages are old, told to everybody who holds pages.

A message carries tags, the WAL position at which the change that caused them is visible, and a
sequence number of the relay that sent it. A gap in the sequence, or silence, means that something
may have been missed: what is held is then unverified, never thrown away.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

import msgspec
from redis.asyncio import Redis

from services.telemetry import logger
from services.valkey import LOST

log = logger(__name__)

CHANNEL: Final = "tercet:tags"
HEARTBEAT_S: Final = 0.5
SILENCE_S: Final = 1.5  # three heartbeats
RECONNECT_S: Final = 0.2
# For who may be a second late and no more: a heartbeat that is late by less than another one, and
# 0.1 s for a relay from looking for tags to telling them.
STEADY_S: Final = 0.9
DEAF_S: Final = 3 * SILENCE_S  # a connection that half died says nothing: make another
# Of a customer, whose id follows: an identity has ended or changed. No page has such a tag.
CUSTOMER_TAG: Final = "customer-"


class TagMessage(msgspec.Struct, frozen=True):
    """sequence counts the messages of one relay; position is in bytes of WAL."""

    relay: str
    sequence: int
    position: int
    tags: list[str]


_decode = msgspec.json.Decoder(TagMessage).decode


class TagSubscriber:
    """Tells every holder of pages what is old, and knows whether all of it has arrived."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey
        self._purges: list[Callable[[list[str], int], None]] = []
        # For each relay that speaks: the sequence number expected next, and when it was heard.
        self._relays: dict[str, tuple[int, float]] = {}
        # Public because they are looked at for each page: before silent_at (monotonic) all that has
        # come since sure_since has come whole; infinity: nothing is certain.
        self.silent_at = 0.0
        self.sure_since = math.inf
        self._verified_since = float("-inf")
        self._steady_since = float("-inf")
        self._lost = False

    def on_purge(self, purge: Callable[[list[str], int], None]) -> None:
        """Have `purge` called with the tags and the position of each message from now on."""
        self._purges.append(purge)

    def verified_since(self) -> float | None:
        """Since when (monotonic) every message has arrived; None while that is not certain.

        What was filled before that moment may have missed a purge.
        """
        now = time.monotonic()
        if now >= self.silent_at:  # asked for with each page, so the short way first
            self._forget_silent(now)
        return self._verified_since if self._relays else None

    def steady_since(self) -> float | None:
        """The same, and no relay that speaks was silent for STEADY_S; None while one is.

        What is told may come late without a gap: by a network that stands still for a while. So
        where that matters, silence counts as a gap sooner.
        """
        silent_at = self.silent_at - SILENCE_S + STEADY_S
        if not self._relays or time.monotonic() >= silent_at:
            return None
        return max(self._verified_since, self._steady_since)

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except (*LOST, TimeoutError) as error:
                if not self._lost:  # said once, not at each try
                    log.warning("tag stream lost", error=repr(error))
                self._lost = True
            except Exception:  # a bug, of whoever purges perhaps: what is held is not certain now
                log.exception("tag stream broken")
            self.lose()
            await asyncio.sleep(RECONNECT_S)

    def lose(self) -> None:
        """The connection is gone, and with it what was told meanwhile."""
        self._relays.clear()
        self.sure_since = math.inf

    async def _listen(self) -> None:
        async with self._valkey.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(CHANNEL)
            heard_at = time.monotonic()
            while time.monotonic() - heard_at < DEAF_S:
                message = await channel.get_message(timeout=SILENCE_S)
                if message is not None:
                    heard_at = time.monotonic()
                    if self._lost:
                        log.info("tag stream heard again")
                    self._lost = False
                    self.receive(message["data"])

    def receive(self, data: bytes) -> None:
        """Take one message in; public so that its rules can be tested without a network."""
        now = time.monotonic()
        if now >= self.silent_at - SILENCE_S + STEADY_S:
            self._steady_since = now
        self._forget_silent(now)
        try:
            message = _decode(data)
        except msgspec.DecodeError as error:
            log.warning("tag message not understood", error=repr(error))
            self._verified_since = now
            self.sure_since = now if self._relays else math.inf
            return
        expected, _ = self._relays.get(message.relay, (None, now))
        if message.sequence != expected:
            self._verified_since = now
        self._relays[message.relay] = (message.sequence + 1, now)
        self.silent_at = min(at for _, at in self._relays.values()) + SILENCE_S
        self.sure_since = self._verified_since
        if message.tags:
            for purge in self._purges:
                purge(message.tags, message.position)

    def _forget_silent(self, now: float) -> None:
        """A relay that has gone silent may have said something last that was missed."""
        silent = [relay for relay, (_, at) in self._relays.items() if now - at > SILENCE_S]
        for relay in silent:
            del self._relays[relay]
            self._verified_since = now
            self.sure_since = now if self._relays else math.inf
