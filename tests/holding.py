"""A process of access without its sockets: pages held before business, told by the tag stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import httpx
import orjson

from services.access.pages import Pages
from services.access.refill import Fetch
from services.access.tag_stream import TagStream
from services.deadline import Deadline
from services.exchange import ExchangeError, Headers, Response
from services.keepalive import Pool
from services.problems import BadGateway
from services.settings import ValkeySettings
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.shopping import Goods, settings_of

MEMORY_BYTES: Final = 8 * 2**20
PATIENCE_S: Final = 5.0
KNOWN_WITHIN_S: Final = 10.0


class Shown(NamedTuple):
    """What a client gets; held: from memory, without a question to business."""

    status: int
    held: bool
    document: Any


@dataclass
class Holder:
    """One that holds pages, as each process of access does."""

    pages: Pages
    stream: TagStream

    async def get(self, path: str) -> Shown:
        target = path.encode()
        ready = self.pages.answer(b"GET", target, b"", b"", False)
        deadline = Deadline.after(PATIENCE_S)
        answer = ready or await self.pages.obtain(b"GET", target, b"", b"", False, deadline)
        if isinstance(answer, Response):
            return Shown(answer.status, False, orjson.loads(answer.body))
        assert answer is not None, f"{path} is passed on"
        head, _, body = answer.partition(b"\r\n\r\n")
        return Shown(int(head.split()[1]), b"Tercet; hit" in head, orjson.loads(body))

    async def price(self, goods: Goods) -> int:
        """The price of the first variant on the product's page, in minor units."""
        shown = await self.get(f"/products/{goods.slug}")
        return int(shown.document["variants"][0]["price"]["amount_minor"])

    async def verified(self, *, within_s: float = KNOWN_WITHIN_S) -> float:
        """Wait until what is fetched from now on is certain; returns the seconds it took."""

        def is_verified() -> bool:
            since = self.stream.verified_since()
            return since is not None and since < time.monotonic()

        return await until(is_verified, within_s=within_s, what="the tag stream is verified")


@asynccontextmanager
async def holding(
    stack: RunningStack, *, fetch: Fetch | None = None, valkey_url: str | None = None
) -> AsyncIterator[Holder]:
    """A holder before the stack's business, or before one that is asked by `fetch`."""
    settings = settings_of(stack, ValkeySettings)
    if valkey_url is not None:
        settings = settings.model_copy(update={"valkey_url": valkey_url})
    secret = stack.secret("internal_secret").encode()
    pool = Pool.to(stack.environment["TERCET_BUSINESS_URL"], size=4)
    stream = TagStream(settings)
    pages = Pages(
        memory_bytes=MEMORY_BYTES,
        fetch=fetch or from_business(pool, secret),
        verified_since=stream.verified_since,
    )
    stream.start(pages, pool, secret)
    try:
        await until(
            lambda: pages.is_page(b"/products"), within_s=KNOWN_WITHIN_S, what="pages are known"
        )
        yield Holder(pages, stream)
    finally:
        await stream.aclose()
        await pages.aclose()
        await pool.aclose()


def from_business(pool: Pool, secret: bytes) -> Fetch:
    """Asks a running business."""

    async def fetch(target: bytes, extra: Headers, deadline: Deadline) -> Response:
        headers = [(b"x-internal-secret", secret), *extra]
        try:
            return await pool.request(b"GET", target, headers, deadline=deadline)
        except ExchangeError as error:
            raise BadGateway from error

    return fetch


def from_client(client: httpx.AsyncClient) -> Fetch:
    """Asks a business that is open inside the test's process."""

    async def fetch(target: bytes, extra: Headers, _: Deadline) -> Response:
        answer = await client.get(target.decode(), headers=httpx.Headers(extra))
        headers = [(name.lower(), value) for name, value in answer.headers.raw]
        return Response(answer.status_code, headers, answer.content)

    return fetch
