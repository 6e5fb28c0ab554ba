"""Held pages: a shared HTTP cache by RFC 9111 and 5861 on what business says.

The ordering argument, why no old page is ever put back, is docs/decisions/0008's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Final

from services.access.encodings import choice_of, choices
from services.access.flights import Failed, Flights, Landed, Outcome
from services.access.page import CLOSE, HEAD, KEYS_A_CHOICE, NOT_MODIFIED, Page
from services.access.purges import Purges
from services.access.ready import ReadyBytes
from services.access.refill import Fetch, Fetched
from services.access.shelf import Shelf
from services.access.targets import PageRule, Targets
from services.deadline import Deadline
from services.exchange import Response
from services.problems import Problem

monotonic = time.monotonic  # one name to look up less on the hot path
GET_OR_HEAD: Final = frozenset((b"GET", b"HEAD"))

BUDGET_S: Final = 5.0  # of a fetch with all its repetitions; a client's is the same by default
# RFC 9110 15.5.9, RFC 8470, RFC 6585: these say something about the moment, nothing of the page.
NOT_NOW: Final = frozenset((408, 425, 429))
NOT_HELD_S: Final = 2.0  # how long a page that must not be held is passed on without a question
NOT_HELD_KEPT: Final = 10_000
TRIES: Final = 2  # fetches that one caller waits for; with single flight also those of a thousand


class Pages:
    """Pages by canonical target. The counters are for metrics; hits_total includes stale_total.

    fetch asks business; verified_since tells since when (monotonic) no purge can have been missed,
    None while that is not certain; pressed, whether others wait for places at business.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        fetch: Fetch,
        verified_since: Callable[[], float | None],
        pressed: Callable[[], bool] = lambda: False,
        budget_s: float = BUDGET_S,
    ) -> None:
        self.hits_total = self.stale_total = self.misses_total = self.coalesced_total = 0
        self.revalidated_total = self.purged_total = 0
        self.not_held_total = 0
        self._verified_since = verified_since
        self._pressed = pressed
        self._rules: list[PageRule] = []
        self._targets = Targets()
        self._shelf = Shelf(memory_bytes)
        self._held = self._shelf.pages
        self._ready = ReadyBytes(self._shelf.room)
        self._purges = Purges()
        self._flights = Flights(fetch, self._purges, budget_s, self._landed)
        self._not_held: dict[bytes, float] = {}  # until when

    @property
    def bytes_held(self) -> int:
        return self._shelf.room.bytes_held

    @property
    def memory_bytes(self) -> int:
        return self._shelf.room.memory_bytes

    def bound(self, memory_bytes: int) -> None:
        """Hold no more than that from now on."""
        self._shelf.room.bound(memory_bytes)

    @property
    def fetches_total(self) -> int:
        return self._flights.begun_total

    @property
    def entries(self) -> int:
        return len(self._held)

    @property
    def evicted_total(self) -> int:
        return self._shelf.room.evicted_total

    def learn(self, rules: Iterable[PageRule]) -> None:
        """Take the allow-list from business; what is no page by it is let go."""
        rules = list(rules)
        if rules == self._rules:
            return
        self._rules = rules
        self._targets = Targets(rules)
        for target, page in list(self._held.items()):
            if self._targets.canonical(target) != target:
                self._shelf.drop(page)

    def is_page(self, target: bytes) -> bool:
        return self._targets.canonical(target) is not None

    def answer(
        self,
        method: bytes,
        target: bytes,
        accept_encoding: bytes,
        if_none_match: bytes,
        close: bool,
    ) -> bytes | None:
        """A whole answer from memory, or None: obtain() has to be asked. b"" = no such header.

        Called by the parser for each GET and HEAD: everything here is paid by every request.
        """
        page = self._held.get(target)
        if page is None:
            if b"?" not in target and b"%" not in target:
                return None
            page = self._held.get(self._targets.canonical(target) or b"")
            if page is None:
                return None
        return self._from_memory(page, method, accept_encoding, if_none_match, close)

    def _from_memory(
        self, page: Page, method: bytes, accept_encoding: bytes, if_none_match: bytes, close: bool
    ) -> bytes | None:
        if method not in GET_OR_HEAD:
            return None
        now = monotonic()
        if now >= page.valid_until and not self._renew(page, now):
            return None
        key = _key(page, method, accept_encoding, if_none_match, close)
        ready = page.ready.get(key)
        if ready is None:
            ready = self._ready.make(page, key, now)
            if ready is None:
                return None
        if page.hits < 3:
            page.hits += 1
        self.hits_total += 1
        return ready

    async def obtain(  # noqa: PLR0917 - as answer()
        self,
        method: bytes,
        target: bytes,
        accept_encoding: bytes,
        if_none_match: bytes,
        close: bool,
        deadline: Deadline,
    ) -> bytes | Response | None:
        """The answer, fetched if it has to be; a Response is for this caller only.

        None: pass the request on as any other. Raises the Problem that business' failing is.
        """
        canonical = self._targets.canonical(target)
        if canonical is None or method not in GET_OR_HEAD or self._is_not_held(canonical):
            return None
        asked = (method, accept_encoding, if_none_match, close)
        for tries_left in range(TRIES - 1, -1, -1):
            held = self._held.get(canonical)
            if held is not None:
                await self._ready.encoded_for(held, accept_encoding, deadline)
                ready = self._from_memory(held, *asked)
                if ready is None and self._spares(held):
                    ready = self._from_memory(held, *asked)
                if ready is not None:
                    return ready
            flight = self._flights.of(canonical)
            leads = flight is None
            if flight is None:
                self.misses_total += 1
                flight = self._flights.begin(canonical, held)
            else:
                self.coalesced_total += 1
            outcome = await self._flights.joined(flight, held, deadline)
            if isinstance(outcome, Response):
                return outcome if leads else None
            if isinstance(outcome, Landed):
                await self._ready.encoded_for(outcome.page, accept_encoding, deadline)
                said = outcome.said if leads else b"fwd=miss; collapsed"
                return self._ready.render(outcome.page, _key(outcome.page, *asked), said)
            ready = self._from_memory(held, *asked) if held is not None else None
            if ready is not None:
                return ready
            if leads or not tries_left or deadline.passed():
                return _told(outcome.cause)
        raise AssertionError("the last try returns or raises")

    def purge(self, tags: list[str], position: int) -> None:
        """What carries one of the tags and has not seen `position` is old from now on.

        Purges of one tag within 20 ms of the last one take effect together at their end.
        """
        now = monotonic()
        for tag in tags:
            if self._purges.joined(tag, position):
                continue
            wait_s = self._purges.put_off(tag, position, now)
            if wait_s > 0:
                asyncio.get_running_loop().call_later(wait_s, self._purge, tag, position)
            else:
                self._purge(tag, position)

    async def aclose(self) -> None:
        """End the fetches; whoever still waits for one is told so."""
        await self._flights.aclose()
        self._ready.close()

    # From memory

    def _renew(self, page: Page, now: float) -> bool:
        """Whether a page may be used now; its ready bytes are remade when their second is over."""
        since = self._verified_since()
        fresh_until = page.fresh_until_given(since)
        detail = b""
        fresh = now < fresh_until and not page.old
        if not fresh:
            verified = since is not None and since <= page.checked_at
            if not (verified and now < page.stale_until):
                if not page.retry_at or now >= page.error_until:
                    return False
                detail = b"; detail=stale-if-error"
            self.stale_total += 1
            idle = now >= page.retry_at and self._flights.of(page.target) is None
            if idle and not self._spares(page):
                self._flights.begin(page.target, page)
        if now >= page.remake_at:
            self._ready.unmake(page)
            page.said = b"hit; ttl=%d%b" % (math.floor(fresh_until - now), detail)
            page.remake_at = now + 1 - time.time() % 1
            if fresh:
                page.remake_at = min(page.remake_at, fresh_until)
        page.valid_until = page.remake_at if fresh else 0.0
        return True

    def _spares(self, held: Page) -> bool:
        """Whether business need not be asked for it now, and others are: pages that nobody holds.

        One that is only past its time, or may have missed a purge, is used as when business fails
        and tried again after a while. One that was purged is known to be another now.
        """
        now = monotonic()
        if held.old or now >= held.error_until or not self._pressed():
            return False
        held.fetch_failed(now)
        return True

    def _landed(self, target: bytes, page: Page | None, found: Fetched | Response) -> Outcome:
        if isinstance(found, Response):
            if found.status >= 500 or found.status in NOT_NOW:
                return Failed(found)
            self._hold_not(target)
            return found
        fwd = b"fwd=miss" if page is None else b"fwd=stale"
        if found.confirmed:
            self.revalidated_total += 1
            fwd += b"; fwd-status=304"
        if found.overtaken:
            return Landed(Page(target, found.content, found.began_at), fwd)
        held = self._shelf.put(target, found.content, found.began_at)
        if held is None:
            self._hold_not(target)  # too large, and the next ones need not wait to learn it
            return Landed(Page(target, found.content, found.began_at), fwd)
        return Landed(held, fwd + b"; stored")

    # What is held

    def _hold_not(self, target: bytes) -> None:
        self.not_held_total += 1
        held = self._held.get(target)
        if held is not None:
            self._shelf.drop(held)
        if len(self._not_held) >= NOT_HELD_KEPT:
            self._not_held.clear()  # they are asked once more
        self._not_held[target] = monotonic() + NOT_HELD_S

    def _is_not_held(self, target: bytes) -> bool:
        until = self._not_held.get(target)
        if until is None:
            return False
        if monotonic() < until:
            return True
        del self._not_held[target]
        return False

    def _purge(self, tag: str, position: int) -> None:
        now = monotonic()
        position = self._purges.act(tag, position, now)
        self.purged_total += self._shelf.purge(tag, position, now)


def _key(
    page: Page, method: bytes, accept_encoding: bytes, if_none_match: bytes, close: bool
) -> int:
    """Which of a page's ready bytes answers a request."""
    choice = choices.get(accept_encoding)
    if choice is None:
        choice = choice_of(accept_encoding)
    key = choice * KEYS_A_CHOICE + (CLOSE if close else 0)
    if if_none_match and page.matches(if_none_match):
        return key + NOT_MODIFIED
    return key if method == b"GET" else key + HEAD


def _told(cause: Problem | Response) -> Response:
    if isinstance(cause, Problem):
        raise cause
    return cause
