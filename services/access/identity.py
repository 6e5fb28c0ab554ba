"""Who a request comes from: a customer's opaque token, verified at business, held for a while."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from services.deadline import Deadline
from services.problems import InvalidRequest, Unauthenticated

COOKIE: Final = b"tercet_customer"
TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{43}")  # 32 random bytes in base64url
KNOWN_S: Final = 60.0  # a token that is ended keeps working this long in one access process
UNKNOWN_S: Final = 5.0  # a customer made a moment ago is found this late at the latest
# About 200 bytes each: 13 MB and 1.6 MB. Apart, so that invented tokens push out no real one.
KNOWN_LIMIT: Final = 65_536
UNKNOWN_LIMIT: Final = 8_192

Lookup = Callable[[str, Deadline], Awaitable[str | None]]
Headers = list[tuple[bytes, bytes]]


class Identities:
    """Customers by the hash of their token; the token itself is not kept."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: dict[str, tuple[str, float]] = {}
        self._unknown: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[str | None]] = {}

    async def customer_of(self, headers: Headers, deadline: Deadline) -> str | None:
        """The customer's id; None for nobody.

        Raises Unauthenticated for a bearer token that nobody has, and what `lookup` raises.
        A cookie that nobody has counts as none: browsers keep old ones.
        """
        bearer = bearer_token(headers)
        if bearer is not None:
            customer_id = await self._customer(bearer, deadline)
            if customer_id is None:
                raise Unauthenticated
            return customer_id
        cookie = cookie_token(headers)
        return None if cookie is None else await self._customer(cookie, deadline)

    async def _customer(self, token: bytes, deadline: Deadline) -> str | None:
        if TOKEN.fullmatch(token) is None:
            return None
        digest = hashlib.sha256(token).hexdigest()
        now = time.monotonic()
        known = self._known.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        if now < self._unknown.get(digest, 0.0):
            return None
        running = self._running.get(digest)
        if running is None:
            running = asyncio.create_task(self._ask(digest, deadline))
            self._running[digest] = running
            running.add_done_callback(lambda done: self._asked(digest, done))
        return await asyncio.shield(running)  # one caller that leaves takes nobody else along

    async def _ask(self, digest: str, deadline: Deadline) -> str | None:
        customer_id = await self._lookup(digest, deadline)
        now = time.monotonic()
        if customer_id is None:
            self._unknown.pop(digest, None)
            self._known.pop(digest, None)
            _make_room(self._unknown, UNKNOWN_LIMIT)
            self._unknown[digest] = now + UNKNOWN_S
        else:
            self._known.pop(digest, None)
            _make_room(self._known, KNOWN_LIMIT)
            self._known[digest] = (customer_id, now + KNOWN_S)
        return customer_id

    def _asked(self, digest: str, task: asyncio.Task[str | None]) -> None:
        del self._running[digest]
        if not task.cancelled():
            task.exception()  # seen here, should every caller have left


def _make_room(held: dict[str, tuple[str, float]] | dict[str, float], limit: int) -> None:
    while len(held) >= limit:
        del held[next(iter(held))]  # the oldest: dicts keep their order


def bearer_token(headers: Headers) -> bytes | None:
    """The bearer token; Unauthenticated for any other scheme, since there is none here."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(
            errors=[{"field": "authorization", "detail": "is there more than once"}]
        )
    scheme, _, token = values[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated
    return token.strip()


def cookie_token(headers: Headers) -> bytes | None:
    """The customer's cookie, the first one where there are several."""
    for name, value in headers:
        if name == b"cookie" and COOKIE in value:
            for pair in value.split(b";"):
                key, _, token = pair.strip().partition(b"=")
                if key == COOKIE:
                    return token.strip(b'"')
    return None
