"""Ready bytes: whole answers by choice of codings, kind and `close`, made when first asked for."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic

from services.access.encodings import IDENTITY, Encoder, Order, choice_of, orders
from services.access.eviction import S3Fifo
from services.access.page import BYTES_BYTES, KEYS_A_CHOICE, Page
from services.deadline import Deadline
from services.telemetry import logger

log = logger(__name__)


class ReadyBytes:
    """Makes them, and has bodies encoded for them; what they take is counted on the page."""

    def __init__(self, room: S3Fifo[Page]) -> None:
        self._room = room
        self._encoder = Encoder()

    def make(self, page: Page, key: int, now: float) -> bytes | None:
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
            self._count(page, len(ready) + BYTES_BYTES)
        page.ready[key] = ready
        self._count(page, BYTES_BYTES)
        return ready

    def unmake(self, page: Page) -> None:
        if page.ready:
            page.ready = {}
            self._count(page, -page.ready_bytes)

    def render(self, page: Page, key: int, said: bytes) -> bytes:
        """An answer that says how it was come by, for one caller."""
        choice, variant = divmod(key, KEYS_A_CHOICE)
        coding, body = self._select(page, orders[choice]) or (IDENTITY, page.body)
        return page.render(variant, coding, body, monotonic(), said)

    async def encoded_for(self, page: Page, accept_encoding: bytes, deadline: Deadline) -> None:
        """Wait for an encoding where the client refuses the plain body, which is rare."""
        order = orders[choice_of(accept_encoding)]
        if IDENTITY in order or self._select(page, order) is not None:
            return
        await asyncio.wait(list(page.jobs.values()), timeout=deadline.left_s())

    def close(self) -> None:
        self._encoder.close()

    def _select(self, page: Page, order: Order) -> tuple[int, bytes] | None:
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
            self.unmake(page)
            self._room.resize(page, len(result) + BYTES_BYTES)

    def _count(self, page: Page, delta_bytes: int) -> None:
        page.ready_bytes += delta_bytes
        self._room.resize(page, delta_bytes)
