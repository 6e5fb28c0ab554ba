"""The worker `live`: tells access what has changed of all that somebody watches.

It is woken by commits and looks at what is watched as it is then; who changes a thing writes
nothing for it. What is told are states, never differences, so it does not matter if one is told
twice, or only the last of several. One of several workers tells, the others stand by.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar
from uuid import UUID

from services.business.live_states import Told, order_states, product_states, sale_states
from services.business.shop import Shop
from services.data import live, outbox
from services.data.link import Record
from services.data.live import KEYS_AT_ONCE, LeaseLost, LiveDesk, live_variants, open_desk
from services.data.wake import Wake
from services.live_watch import WAKE_CHANNEL
from services.problems import Problem
from services.telemetry import logger, mark_ready
from services.valkey import LOST

T = TypeVar("T")
log = logger(__name__)

# Between two rounds at the least: five states a second of one thing are more than anybody reads.
PAUSE_S: Final = 0.2
# And as long as the last one took, four times: however much is watched, a standby's connection is
# free for most of the time.
REST: Final = 4
POLL_S: Final = 0.5  # what changes without a word to Valkey, and sales that open and close
WATCHED_S: Final = 1.0  # between two looks at all that is watched; what is new asks for itself
RENEW_S: Final = 0.5  # within a round that takes long; a quarter of what the lease lasts
TOPICS_LIMIT: Final = 100_000  # looked at: those of five full processes of access


class Teller:
    """What one worker knows: what is watched, and what it has told of it.

    leads: whether it is the one that tells.
    """

    def __init__(self, shop: Shop, desk: LiveDesk) -> None:
        self._shop = shop
        self._desk = desk
        self._told: dict[str, dict[str, bytes]] = {}  # by topic and key
        self._rows: dict[str, list[Record]] = {}  # of products by slug, as they were read last
        self._watched_at = self._renewed_at = float("-inf")
        self._wrote = False  # to this stream
        self.leads = False

    @property
    def watched(self) -> int:
        return len(self._told)

    async def run_once(self) -> int:
        """Tell what has changed since the last round; returns how many states that were."""
        turn = await self._desk.take()
        self._renewed_at = time.monotonic()
        if turn.anew or not turn.held:
            self.forget()
        if turn.anew:
            log.info("live states are told by this worker")
        self.leads = turn.held
        if not turn.held:
            return 0
        await self._look(turn.asked)
        news = await self._news() if self._told else []
        if news:
            await self._tell(news)
        return len(news)

    def forget(self) -> None:
        """Whatever was told, clients may not have it."""
        self._told.clear()
        self._rows.clear()
        self._watched_at = float("-inf")
        self._wrote = False

    async def _look(self, asked: Sequence[str]) -> None:
        """See what is watched; of what was asked for nothing counts as told."""
        if time.monotonic() - self._watched_at >= WATCHED_S:
            self._watched_at = time.monotonic()
            watched = (await self._desk.watched())[:TOPICS_LIMIT]
            self._told = {topic: self._told.get(topic, {}) for topic in watched}
            self._rows = {
                slug: self._rows[slug] for slug in self._names("product:") if slug in self._rows
            }
        for topic in asked:
            if len(self._told) < TOPICS_LIMIT:
                self._told[topic] = {}

    async def _news(self) -> list[Told]:
        """What is not as it was told, on a node that has replayed every commit until now."""
        database = self._shop.database
        position = await outbox.position_after(database.primary)
        reader = await database.own.source_at(position)
        news: list[Told] = []
        for slugs in _parts(self._names("product:")):
            news += self._changed(slugs, await live.select_variants(reader, slugs))
            await self._keep_lease()
        for ids in _parts(_uuids(self._names("sale:"))):
            news += filter(self._is_news, sale_states(ids, await live.select_sales(reader, ids)))
            await self._keep_lease()
        for ids in _parts(_uuids(self._names("customer:"))):
            news += filter(self._is_news, order_states(await live.select_orders(reader, ids)))
            await self._keep_lease()
        return news

    def _changed(self, slugs: Sequence[str], found: Mapping[str, list[Record]]) -> list[Told]:
        """States of those of which something is not as it was read before they were told."""
        changed = []
        for slug in slugs:
            rows = found.get(slug, [])
            if not self._told[f"product:{slug}"] or self._rows.get(slug) != rows:
                self._rows[slug] = rows
                changed.append(slug)
        states = product_states(
            changed, {slug: live_variants(found.get(slug, [])) for slug in changed}
        )
        return list(filter(self._is_news, states))

    async def _tell(self, news: Sequence[Told]) -> None:
        there = await self._desk.write([told.state for told in news])
        for state, compared in news:
            self._told.setdefault(state.topic, {})[state.key] = compared
        if self._wrote and not there:
            # It went with all that was not read of it yet: everything is told once more.
            self._told = {topic: {} for topic in self._told}
        self._wrote = True

    async def _keep_lease(self) -> None:
        if time.monotonic() - self._renewed_at >= RENEW_S:
            self._renewed_at = time.monotonic()
            await self._desk.renew()

    def _is_news(self, told: Told) -> bool:
        of_topic = self._told.get(told.state.topic)
        return of_topic is not None and of_topic.get(told.state.key) != told.compared

    def _names(self, kind: str) -> list[str]:
        return [topic[len(kind) :] for topic in self._told if topic.startswith(kind)]


async def run(shop: Shop) -> None:
    """Tell for ever, or stand by."""
    wake, ready = Wake(shop.settings, WAKE_CHANNEL), False
    rounds = shop.rounds_of("live")
    async with wake.listening(), open_desk(shop.settings) as desk:
        teller = Teller(shop, desk)
        while True:
            began_at = time.monotonic()
            try:
                rounds.worked(await teller.run_once(), began_at)
                shop.counts.live_watched = teller.watched if teller.leads else None
                if not ready:
                    ready = True
                    mark_ready()
            except (Problem, LeaseLost, *LOST, TimeoutError) as error:
                log.warning("live states wait", error=repr(error))
                rounds.errors_total += 1
                teller.forget()
            took_s = time.monotonic() - began_at
            await asyncio.sleep(max(PAUSE_S - took_s, REST * took_s))
            with contextlib.suppress(TimeoutError):
                await wake.wait(POLL_S)


def _parts(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    return (keys[at : at + KEYS_AT_ONCE] for at in range(0, len(keys), KEYS_AT_ONCE))


def _uuids(texts: Iterable[str]) -> list[UUID]:
    """Those that are; nobody else makes topics than access, which has looked."""
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            found.append(UUID(text))
    return found
