"""Waking the outbox relay: a Valkey channel, because NOTIFY would serialise commits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis

from services import valkey
from services.data.joined import JoinedValkey
from services.data.tags import WAKE_CHANNEL
from services.settings import ValkeySettings
from services.tags import RECONNECT_S
from services.tasks import end_tasks
from services.telemetry import logger

log = logger(__name__)

SEND_EVERY_S: Final = 0.02  # a relay makes no more rounds than that in a stream of commits
LISTEN_S: Final = 5.0
RENEW_S: Final = 60.0


class WakeUps:
    """Tells the relays that there is something to publish: called after each commit.

    The first is sent at once, and one PUBLISH serves all the commits that come within SEND_EVERY_S.
    """

    def __init__(self, valkey: JoinedValkey) -> None:
        self._valkey = valkey
        self._wanted = False
        self._sending = False
        self.asked = 0
        self.sent = 0

    def ask(self) -> bool:
        """Have one sent; whether the caller has to run `send`, because nobody does."""
        self.asked += 1
        self._wanted = True
        first, self._sending = not self._sending, True
        return first

    async def send(self) -> None:
        """Send until nobody asks any more. What does not arrive is found by the relay's polling."""
        try:
            while self._wanted:
                self._wanted = False
                self.sent += 1
                await self._valkey.call(_publish)
                await asyncio.sleep(SEND_EVERY_S)
        finally:
            self._sending = False


async def _publish(valkey: Redis) -> None:
    await valkey.publish(WAKE_CHANNEL, b"")


class Wake:
    """Any number of wake-ups between two looks count as one."""

    def __init__(self, settings: ValkeySettings, *channels: str) -> None:
        """channels: which are listened to besides that of commits."""
        self._channels = (WAKE_CHANNEL, *channels)
        self._valkey = valkey.connect(settings, timeout_s=2 * LISTEN_S)
        self._woken = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            await end_tasks(task)
            await valkey.close(self._valkey)

    async def wait(self, most_s: float) -> None:
        """Return once woken; raises TimeoutError after most_s."""
        async with asyncio.timeout(most_s):
            await self._woken.wait()
        self._woken.clear()

    async def _run(self) -> None:
        while True:
            try:
                async with self._valkey.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(*self._channels)
                    # Silence is usual here, and a connection that half died is silent too.
                    renew_at = time.monotonic() + RENEW_S
                    while time.monotonic() < renew_at:
                        if await channel.get_message(timeout=LISTEN_S) is not None:
                            self._woken.set()
            except (*valkey.LOST, TimeoutError) as error:
                log.debug("wake channel lost", error=repr(error))
            await asyncio.sleep(RECONNECT_S)
