"""What is watched: access processes say it in Valkey, and the worker `live` looks at nothing else.

A topic that is not said again runs out, so a process that dies takes what it watched along. The
clock is Valkey's: those of two machines differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from redis.asyncio import Redis

from services.telemetry import logger
from services.valkey import LOST

log = logger(__name__)

WATCHED: Final = "tercet:live:watched"  # sorted: each topic with the second at which it runs out
ASKED: Final = "tercet:live:asked"  # topics whose state somebody waits for
WAKE_CHANNEL: Final = "tercet:live-wake"
WATCHED_S: Final = 12.0
REFRESH_S: Final = 4.0  # so that two may fail
ASKED_S: Final = 60  # for a worker that is being replaced; then nobody waits any more
TOPICS_AT_ONCE: Final = 1000  # of one command: 40 KB, during which nobody else is served
RETRY_S: Final = 0.2


class Watcher:
    """Tells the worker what clients of this process watch.

    topics: names of all of them, asked for at each refresh.
    """

    def __init__(self, valkey: Redis, topics: Callable[[], Collection[str]]) -> None:
        self._valkey = valkey
        self._topics = topics
        self._asked: set[str] = set()
        self._wanted = asyncio.Event()

    def ask(self, topics: Iterable[str]) -> None:
        """Have their states written to the stream soon, whether or not they have changed."""
        self._asked.update(topics)
        self._wanted.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        refresh_at = loop.time()
        while True:
            try:
                if loop.time() >= refresh_at:
                    await self._say(list(self._topics()), ask=False)
                    refresh_at = loop.time() + REFRESH_S
                await self._send_asked()
            except Exception as error:
                if isinstance(error, (*LOST, TimeoutError)):
                    log.debug("live topics not said", error=repr(error))
                else:  # a bug: what is watched has to be said all the same
                    log.exception("live topics broken")
                self._asked.update(self._topics())  # they may run out meanwhile
                refresh_at = loop.time()
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async with asyncio.timeout_at(refresh_at):
                    await self._wanted.wait()
            except TimeoutError:
                continue
            self._wanted.clear()

    async def _send_asked(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, set()
            await self._say(list(asked), ask=True)

    async def _say(self, topics: Sequence[str], *, ask: bool) -> None:
        for at in range(0, len(topics), TOPICS_AT_ONCE):
            part = topics[at : at + TOPICS_AT_ONCE]
            seconds, _ = await self._valkey.time()
            until = dict.fromkeys(part, seconds + WATCHED_S)
            async with self._valkey.pipeline(transaction=False) as pipeline:
                pipeline.zadd(WATCHED, until)
                if ask:
                    pipeline.sadd(ASKED, *part)
                    pipeline.expire(ASKED, ASKED_S)
                    pipeline.publish(WAKE_CHANNEL, b"")
                await pipeline.execute()
