"""Who a request comes from: a customer's opaque token, verified at business, held for a while."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from services.deadline import Deadline
from services.problems import InvalidRequest, Overloaded, Unauthenticated

COOKIE: Final = b"tercet_customer"
TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{43}")  # 32 random bytes in base64url
KNOWN_S: Final = 60.0  # a token that is ended keeps working this long in one access process
UNKNOWN_S: Final = 5.0  # a customer made a moment ago is found this late at the latest
# About 200 bytes each: 13 MB and 1.6 MB. Apart, so that invented tokens push out no real one.
KNOWN_LIMIT: Final = 65_536
UNKNOWN_LIMIT: Final = 8_192
# At once. A lookup takes a millisecond on one of 8 connections, which readiness shares.
LOOKUPS_LIMIT: Final = 256

Lookup = Callable[[str, Deadline], Awaitable[str | None]]


class Claim(NamedTuple):
    """The token that a request shows, if any, and whether as a bearer token or in a cookie."""

    token: bytes | None
    bearer: bool


class Unasked(NamedTuple):
    """Nobody here knows a token with this SHA-256, in hex; business has to be asked."""

    digest: str


NOBODY: Final = Claim(None, bearer=False)


class Identities:
    """Customers by the hash of their token; the token itself is not kept."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: dict[str, tuple[str, float]] = {}
        self._unknown: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[str | None]] = {}

    def known(self, claim: Claim) -> str | Unasked | None:
        """The customer's id without asking anybody; None for nobody.

        Raises Unauthenticated for a bearer token that nobody has. A cookie that nobody has counts
        as none: browsers keep old ones.
        """
        token = claim.token
        if token is None:
            return None
        if TOKEN.fullmatch(token) is None:
            return _nobody(claim)
        digest = hashlib.sha256(token).hexdigest()
        now = time.monotonic()
        held = self._known.get(digest)
        if held is not None and now < held[1]:
            return held[0]
        if now < self._unknown.get(digest, 0.0):
            return _nobody(claim)
        return Unasked(digest)

    async def customer_of(self, claim: Claim, deadline: Deadline) -> str | None:
        """The same, asking business where it has to; also raises what `lookup` raises."""
        known = self.known(claim)
        if not isinstance(known, Unasked):
            return known
        digest = known.digest
        running = self._running.get(digest)
        if running is None:
            if len(self._running) >= LOOKUPS_LIMIT:
                raise Overloaded("Too many tokens are being looked up.", retry_after_s=1)
            running = asyncio.create_task(self._ask(digest, deadline))
            self._running[digest] = running
            running.add_done_callback(lambda done: self._asked(digest, done))
        # One caller that leaves takes nobody else along.
        customer_id = await asyncio.shield(running)
        return _nobody(claim) if customer_id is None else customer_id

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


def claim_of(authorizations: Sequence[bytes], cookies: Sequence[bytes]) -> Claim:
    """Who the values of Authorization and Cookie say that a request comes from.

    Unauthenticated for a scheme other than Bearer, since there is none here.
    """
    if not authorizations:
        return Claim(_cookie_token(cookies), bearer=False) if cookies else NOBODY
    if len(authorizations) > 1:
        raise InvalidRequest(
            errors=[{"field": "authorization", "detail": "is there more than once"}]
        )
    scheme, _, token = authorizations[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated
    return Claim(token.strip(), bearer=True)


def _cookie_token(cookies: Sequence[bytes]) -> bytes | None:
    """The customer's cookie, the first one where there are several."""
    for value in cookies:
        if COOKIE in value:
            for pair in value.split(b";"):
                key, _, token = pair.strip().partition(b"=")
                if key == COOKIE:
                    return token.strip(b'"')
    return None


def _nobody(claim: Claim) -> str | None:
    if claim.bearer:
        raise Unauthenticated
    return None
