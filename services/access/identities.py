"""Whose token it is: asked of business, and believed for as long as nothing can have ended it.

What is known of a token is believed without asking again while the tag stream vouches for it:
every message since the look-up began has arrived, the last one a moment ago, and none of them was
about its customer. Where the stream does not vouch (Valkey is away, the relay stands still) a
look-up is believed for a second from when it began. Either way a session that has ended is refused
everywhere within a second: docs/decisions has the argument.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from services.access.claims import TOKEN, Claim
from services.access.identity import Identity
from services.deadline import Deadline
from services.problems import Overloaded, Unauthenticated
from services.tags import CUSTOMER_TAG

BELIEVED_S: Final = 1.0  # without the stream: what ended later has ended for less than a second
KNOWN_S: Final = 60.0  # with it: a backstop, should the relay never tell of something
UNKNOWN_S: Final = 5.0  # a customer made a moment ago is found this late at the latest
# About 900 bytes each and 200: 59 MB and 1.6 MB. Apart, so that invented tokens push out no real
# one.
KNOWN_LIMIT: Final = 65_536
UNKNOWN_LIMIT: Final = 8_192
TOLD_LIMIT: Final = 65_536  # customers of whom something was told, about 150 bytes each
# At once. A lookup takes a millisecond on one of 8 connections, which readiness shares.
LOOKUPS_LIMIT: Final = 256
# Of one customer, something may be told faster than business can be asked: the answer is good for
# those who wait then, and is not kept.
LOOKUPS_IN_A_ROW: Final = 3

# SHA-256 of the token in hex; position in bytes of WAL that the answer must have seen; deadline.
Lookup = Callable[[str, int, Deadline], Awaitable[Identity | None]]


class Stream(Protocol):
    """The tag stream as it is heard."""

    def steady_since(self) -> float | None:
        """Since when (monotonic) every message has arrived in time; None: not now."""


class Unasked(NamedTuple):
    """Nothing is believed here of a token with this SHA-256, in hex; business has to be asked."""

    digest: str


class Known(NamedTuple):
    """What business said to a look-up that began at a moment (monotonic)."""

    identity: Identity
    began_at: float
    ends_at: float


class Identities:
    """Identities by the hash of their token; the token itself is not kept."""

    def __init__(
        self, lookup: Lookup, stream: Stream, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup
        self._stream = stream
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._unknown: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[Identity | None]] = {}
        # By customer, when something was told last; of those who are not there, it was before:
        self._told: dict[str, float] = {}
        self._told_before = -math.inf
        self._position = 0  # of the newest message about a customer
        self.lookups_total = self.told_total = 0

    @property
    def held(self) -> int:
        """How many tokens there is something known about."""
        return len(self._known) + len(self._unknown)

    def known(self, claim: Claim) -> Identity | Unasked | None:
        """Who it is without asking anybody; None for nobody.

        Raises Unauthenticated for a bearer token that nobody has. A cookie that nobody has counts
        as none: browsers keep old ones.
        """
        token = claim.token
        if token is None:
            return None
        if TOKEN.fullmatch(token) is None:
            return _nobody(claim)
        digest = hashlib.sha256(token).hexdigest()
        now = self._clock()
        known = self._known.get(digest)
        if known is not None:
            return known.identity if self._is_believed(known, now) else Unasked(digest)
        if now < self._unknown.get(digest, 0.0):
            return _nobody(claim)
        return Unasked(digest)

    async def identity_of(self, claim: Claim, deadline: Deadline) -> Identity | None:
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
        identity = await asyncio.shield(running)
        return _nobody(claim) if identity is None else identity

    def purge(self, tags: Sequence[str], position: int) -> None:
        """Something has ended or changed of the customers whose tags these are.

        position: in bytes of WAL, behind the change.
        """
        for tag in tags:
            if tag.startswith(CUSTOMER_TAG):
                self._position = max(self._position, position)
                self.forget(tag.removeprefix(CUSTOMER_TAG))

    def forget(self, customer_id: str) -> None:
        """Believe no look-up of this customer that has begun before now."""
        now = self._clock()
        self.told_total += 1
        told = self._told
        told.pop(customer_id, None)  # so that the dict is in the order of time
        told[customer_id] = now
        while True:
            first = next(iter(told))
            if len(told) <= TOLD_LIMIT and told[first] >= now - KNOWN_S:
                return
            self._told_before = told.pop(first)

    def _is_believed(self, known: Known, now: float) -> bool:
        began_at = known.began_at
        if now >= known.ends_at or self._was_told(known.identity, began_at):
            return False
        if now - began_at < BELIEVED_S:
            return True
        since = self._stream.steady_since()
        return since is not None and since <= began_at

    def _was_told(self, identity: Identity, began_at: float) -> bool:
        """Whether something was told of a customer since a look-up began."""
        return self._told.get(identity.customer_id, self._told_before) >= began_at

    async def _ask(self, digest: str, deadline: Deadline) -> Identity | None:
        for _ in range(LOOKUPS_IN_A_ROW):
            began_at = self._clock()
            self.lookups_total += 1
            identity = await self._lookup(digest, self._position, deadline)
            if identity is None:
                self._known.pop(digest, None)
                _make_room(self._unknown, UNKNOWN_LIMIT)
                self._unknown[digest] = self._clock() + UNKNOWN_S
                return None
            if not self._was_told(identity, began_at):
                self._unknown.pop(digest, None)
                self._known.pop(digest, None)
                _make_room(self._known, KNOWN_LIMIT)
                ends_at = began_at + min(KNOWN_S, identity.expires_in_s)
                self._known[digest] = Known(identity, began_at, ends_at)
                break
        return identity

    def _asked(self, digest: str, task: asyncio.Task[Identity | None]) -> None:
        del self._running[digest]
        if not task.cancelled():
            task.exception()  # seen here, should every caller have left


def _make_room(held: dict[str, Known] | dict[str, float], limit: int) -> None:
    while len(held) >= limit:
        del held[next(iter(held))]  # the oldest: dicts keep their order


def _nobody(claim: Claim) -> Identity | None:
    if claim.bearer:
        raise Unauthenticated
    return None
