"""Held pages: a shared HTTP cache by RFC 9111 and 5861 on what business says.

The ordering argument, why no old page is ever put back, is docs/decisions/0008's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from services.access.encodings import IDENTITY, Encoder, choice_of, choices, orders
from services.access.eviction import S3Fifo
from services.access.page import (
    BYTES_BYTES,
    CLOSE,
    HEAD,
    KEYS_A_CHOICE,
    NOT_MODIFIED,
    WHOLE,
    Page,
)
from services.access.purges import Purges
from services.access.refill import Fetch, Fetched, fetch_new
from services.access.targets import PageRule, Targets
from services.deadline import Deadline
from services.exchange import Response
from services.problems import GatewayTimeout, InternalError, Problem, Unavailable
from services.telemetry import logger

log = logger(__name__)
monotonic = time.monotonic  # one name to look up less on the hot path

BUDGET_S: Final = 5.0  # of a fetch with all its repetitions; a client's is the same by default
NOT_HELD_S: Final = 2.0  # how long a page that must not be held is passed on without a question
NOT_HELD_KEPT: Final = 10_000
# Who could be given an old page waits this long for the new one; a business that hangs is failing.
PATIENCE_S: Final = 2.0
TRIES: Final = 2  # fetches that one caller waits for; with single flight also those of a thousand
LARGEST_SHARE: Final = 20  # a page above a twentieth of the memory is not held


class Landed(NamedTuple):
    """A fetch ended with a page for everybody who waits."""

    page: Page
    said: bytes  # for the Cache-Status of whoever led


class Failed(NamedTuple):
    """A fetch ended without one."""

    cause: Problem | Response


Outcome = Landed | Failed | Response  # a Response is for the leader alone


class Pages:
    """Pages by canonical target. The counters are for metrics; hits_total includes stale_total.

    fetch asks business; verified_since tells since when (monotonic) no purge can have been missed,
    None while that is not certain.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        fetch: Fetch,
        verified_since: Callable[[], float | None],
        budget_s: float = BUDGET_S,
    ) -> None:
        self.hits_total = self.stale_total = self.misses_total = self.coalesced_total = 0
        self.revalidated_total = self.purged_total = self.fetches_total = 0
        self.not_held_total = 0
        self._fetch = fetch
        self._verified_since = verified_since
        self._budget_s = budget_s
        self._targets = Targets()
        self._held: dict[bytes, Page] = {}
        self._by_tag: dict[str, set[Page]] = {}
        self._room: S3Fifo[Page] = S3Fifo(memory_bytes, self._evicted)
        self._purges = Purges()
        self._flights: dict[bytes, asyncio.Task[Outcome]] = {}
        self._not_held: dict[bytes, float] = {}  # until when
        self._encoder = Encoder()

    @property
    def bytes_held(self) -> int:
        return self._room.bytes_held

    @property
    def entries(self) -> int:
        return len(self._held)

    @property
    def evicted_total(self) -> int:
        return self._room.evicted_total

    def learn(self, rules: Iterable[PageRule]) -> None:
        """Take the allow-list from business; what is no page by it is let go."""
        self._targets = Targets(rules)
        for target, page in list(self._held.items()):
            if self._targets.canonical(target) != target:
                self._drop(page)

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
        now = monotonic()
        if now >= page.valid_until and not self._renew(page, now):
            return None
        choice = choices.get(accept_encoding)
        if choice is None:
            choice = choice_of(accept_encoding)
        key = choice * KEYS_A_CHOICE
        if method != b"GET":
            if method != b"HEAD":
                return None
            key += HEAD
        if if_none_match and page.matches(if_none_match):
            key = choice * KEYS_A_CHOICE + NOT_MODIFIED
        if close:
            key += CLOSE
        ready = page.ready.get(key)
        if ready is None:
            ready = self._make(page, key, now)
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
        if canonical is None or method not in (b"GET", b"HEAD") or self._is_not_held(canonical):
            return None
        asked = (method, accept_encoding, if_none_match, close)
        for tries_left in range(TRIES - 1, -1, -1):
            held = self._held.get(canonical)
            if held is not None:
                await self._encoded_for(held, accept_encoding, deadline)
                ready = self._from_memory(held, *asked)
                if ready is not None:
                    return ready
            flight = self._flights.get(canonical)
            leads = flight is None
            if flight is None:
                self.misses_total += 1
                flight = self._refill(canonical, held)
            else:
                self.coalesced_total += 1
            outcome = await self._joined(flight, held, deadline)
            if isinstance(outcome, Response):
                return outcome if leads else None
            if isinstance(outcome, Landed):
                await self._encoded_for(outcome.page, accept_encoding, deadline)
                said = outcome.said if leads else b"fwd=miss; collapsed"
                return self._rendered(outcome.page, said, *asked)
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
            wait_s = self._purges.put_off_s(tag, position, now)
            if wait_s is None:
                self._purge(tag, position)
            elif wait_s > 0:
                asyncio.get_running_loop().call_later(wait_s, self._purge, tag, position)

    async def aclose(self) -> None:
        """End the fetches; whoever still waits for one is told so."""
        await asyncio.sleep(0)  # a task that has not begun could not tell anybody
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights)
        self._encoder.close()

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
            if now >= page.retry_at and page.target not in self._flights:
                self._refill(page.target, page)
        if now >= page.remake_at:
            self._unmake(page)
            page.said = b"hit; ttl=%d%b" % (math.floor(fresh_until - now), detail)
            page.remake_at = now + 1 - time.time() % 1
            if fresh:
                page.remake_at = min(page.remake_at, fresh_until)
        page.valid_until = page.remake_at if fresh else 0.0
        return True

    def _make(self, page: Page, key: int, now: float) -> bytes | None:
        """Ready bytes for a key; None while a client that refuses plain bodies has to wait."""
        choice, variant = divmod(key, KEYS_A_CHOICE)
        selected = self._select(page, orders[choice])
        if selected is None:
            return None
        coding, body = selected
        shared_key = -1 - (coding * KEYS_A_CHOICE + variant)  # choices differ more than codings
        ready = page.ready.get(shared_key)
        if ready is None:
            ready = page.render(variant, coding, body, now, page.said)
            page.ready[shared_key] = ready
            self._grow_ready(page, len(ready) + BYTES_BYTES)
        page.ready[key] = ready
        self._grow_ready(page, BYTES_BYTES)
        return ready

    def _grow_ready(self, page: Page, delta_bytes: int) -> None:
        page.ready_bytes += delta_bytes
        self._room.resize(page, delta_bytes)

    def _unmake(self, page: Page) -> None:
        if page.ready:
            page.ready = {}
            self._grow_ready(page, -page.ready_bytes)

    def _rendered(  # noqa: PLR0917 - as answer()
        self,
        page: Page,
        said: bytes,
        method: bytes,
        accept_encoding: bytes,
        if_none_match: bytes,
        close: bool,
    ) -> bytes:
        """An answer that says how it was come by, for one caller."""
        variant = HEAD if method == b"HEAD" else WHOLE
        if if_none_match and page.matches(if_none_match):
            variant = NOT_MODIFIED
        selected = self._select(page, orders[choice_of(accept_encoding)])
        coding, body = selected or (IDENTITY, page.body)
        return page.render(variant + (CLOSE if close else 0), coding, body, monotonic(), said)

    # Encodings

    def _select(self, page: Page, order: tuple[int, ...]) -> tuple[int, bytes] | None:
        coding = page.wanted(order)
        if coding is not None:
            job = self._encoder.start(coding, page.body)
            if job is not None:
                page.jobs[coding] = job
                job.add_done_callback(partial(self._encoded, page, page.body, coding))
        return page.select(order)

    def _encoded(
        self, page: Page, body: bytes, coding: int, job: asyncio.Future[bytes | None]
    ) -> None:
        if job.cancelled() or page.body is not body:
            return
        del page.jobs[coding]
        error = job.exception()
        if error is not None:
            log.error("a page could not be encoded", coding=coding, error=repr(error))
        page.encoded[coding] = result = None if error is not None else job.result()
        if result is not None:
            self._unmake(page)
            self._room.resize(page, len(result) + BYTES_BYTES)

    async def _encoded_for(self, page: Page, accept_encoding: bytes, deadline: Deadline) -> None:
        """Wait for an encoding where the client refuses the plain body, which is rare."""
        order = orders[choice_of(accept_encoding)]
        if IDENTITY in order or self._select(page, order) is not None:
            return
        await asyncio.wait(list(page.jobs.values()), timeout=deadline.left_s())

    # Fetches

    def _refill(self, target: bytes, page: Page | None) -> asyncio.Task[Outcome]:
        """Begin the one fetch of a page; its task ends for nobody's leaving, and never raises."""
        self.fetches_total += 1
        flight = asyncio.create_task(self._fly(target, page))
        self._flights[target] = flight
        return flight

    async def _fly(self, target: bytes, page: Page | None) -> Outcome:
        try:
            async with asyncio.timeout(self._budget_s):
                deadline = Deadline.after(self._budget_s)
                found = await fetch_new(self._fetch, self._purges, target, page, deadline)
            outcome = self._landed(target, page, found)
        except Problem as problem:
            outcome = Failed(problem)
        except TimeoutError:
            outcome = Failed(GatewayTimeout())
        except asyncio.CancelledError:
            outcome = Failed(Unavailable("This server is stopping.", retry_after_s=1))
        except Exception:
            log.exception("bug", target=target.decode("latin-1"))
            outcome = Failed(InternalError())
        # From here on nobody joins this fetch: what follows asks for what is newer.
        del self._flights[target]
        if isinstance(outcome, Failed) and page is not None and outcome.cause.status >= 500:
            page.fetch_failed(monotonic())
        return outcome

    async def _joined(
        self, flight: asyncio.Task[Outcome], held: Page | None, deadline: Deadline
    ) -> Outcome:
        """Wait for a fetch, by this caller's own deadline."""
        patience_s = deadline.left_s()
        usable = held is not None and monotonic() < held.error_until
        if usable:
            patience_s = min(PATIENCE_S, 0.9 * patience_s)
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.shield(flight)
        except TimeoutError:
            if held is not None and usable:
                held.fetch_failed(monotonic())
            return Failed(GatewayTimeout())

    def _landed(self, target: bytes, page: Page | None, found: Fetched | Response) -> Outcome:
        if isinstance(found, Response):
            if found.status >= 500:
                return Failed(found)
            self._hold_not(target)
            return found
        fwd = b"fwd=miss" if page is None else b"fwd=stale"
        if found.confirmed:
            self.revalidated_total += 1
            fwd += b"; fwd-status=304"
        if found.overtaken:
            return Landed(Page(target, found.content, found.began_at), fwd)
        return Landed(self._hold(target, found), fwd + b"; stored")

    # What is held

    def _hold(self, target: bytes, found: Fetched) -> Page:
        page = self._held.get(target)
        if page is None:
            page = Page(target, found.content, found.began_at)
            page.size_bytes = page.cost_bytes()
            if page.size_bytes * LARGEST_SHARE > self._room.memory_bytes:
                return page
            self._held[target] = page
            self._index(page)
            self._room.add(target, page)
        else:
            self._unindex(page)
            page.fill(found.content, found.began_at)
            self._index(page)
            self._room.resize(page, page.cost_bytes() - page.size_bytes)
        return page

    def _hold_not(self, target: bytes) -> None:
        self.not_held_total += 1
        held = self._held.get(target)
        if held is not None:
            self._drop(held)
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

    def _drop(self, page: Page) -> None:
        self._room.remove(page.target, page)
        self._evicted(page.target, page)

    def _evicted(self, target: bytes, page: Page) -> None:
        del self._held[target]
        self._unindex(page)

    def _index(self, page: Page) -> None:
        for tag in page.tags:
            self._by_tag.setdefault(tag, set()).add(page)

    def _unindex(self, page: Page) -> None:
        for tag in page.tags:
            pages = self._by_tag.get(tag)
            if pages is not None:
                pages.discard(page)
                if not pages:
                    del self._by_tag[tag]

    def _purge(self, tag: str, position: int) -> None:
        now = monotonic()
        position = self._purges.act(tag, position, now)
        for page in self._by_tag.get(tag, ()):
            # A page that has seen the change already need not be fetched again.
            if not page.old and (page.position is None or page.position < position):
                page.grow_old(now)
                self.purged_total += 1


def _told(cause: Problem | Response) -> Response:
    if isinstance(cause, Problem):
        raise cause
    return cause
