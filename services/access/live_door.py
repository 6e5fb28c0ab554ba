"""Requests for live streams: whether they are right, whose they are, and what they begin."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from services.access.claims import Claim, claim_of
from services.access.client_address import client_of
from services.access.identities import Unasked
from services.access.identity import Identity
from services.access.live import Live
from services.access.live_request import Wanted, read_wanted
from services.access.live_topics import Stream
from services.problems import (
    Forbidden,
    InternalError,
    MethodNotAllowed,
    Overloaded,
    Problem,
    Unauthenticated,
)
from services.telemetry import logger

if TYPE_CHECKING:
    from services.access.edge import Edge
    from services.access.passage import Passage
    from services.access.protocol import AccessProtocol

log = logger(__name__)

FIELDS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx passes it on as it comes
]
ANALYSTS: Final = ("merchant", "operator")
RETRY_MS: Final = (2000, 10_000)  # 10,000 clients that lost a process come back 1,250 a second


class Door:
    """Answers requests for streams: at once, unless somebody has to be asked whose they are."""

    def __init__(self, edge: Edge, live: Live) -> None:
        self._edge = edge
        self._live = live
        self._identities = edge.forwarder.identities

    def begin(self, passage: Passage, connection: AccessProtocol) -> None:
        try:
            if passage.method not in (b"GET", b"HEAD"):
                raise MethodNotAllowed(headers={"allow": "GET, HEAD"})
            wanted = read_wanted(passage.target)
            if not wanted.private:
                self._open(passage, connection, wanted.topics)
                return
            claim = _claim(passage, self._edge.forwarder.session_cookie)
            found = self._identities.known(claim)
            if isinstance(found, Unasked):
                work = self._ask(passage, connection, wanted, claim)
                passage.task = asyncio.get_running_loop().create_task(work)
            else:
                self._open_private(passage, connection, wanted, claim, found)
        except Problem as problem:
            connection.refuse(passage, problem)

    async def _ask(
        self, passage: Passage, connection: AccessProtocol, wanted: Wanted, claim: Claim
    ) -> None:
        try:
            found = await self._identities.identity_of(claim, passage.deadline)
            self._open_private(passage, connection, wanted, claim, found)
        except Problem as problem:
            connection.refuse(passage, problem)
        except Exception:
            log.exception("bug", target=passage.target.decode("latin-1"))
            connection.refuse(passage, InternalError())

    def _open_private(
        self,
        passage: Passage,
        connection: AccessProtocol,
        wanted: Wanted,
        claim: Claim,
        identity: Identity | None,
    ) -> None:
        if identity is None:
            raise Unauthenticated
        if wanted.analytics and identity.role not in ANALYSTS:
            raise Forbidden
        topics = list(wanted.topics)
        if wanted.orders:
            owners = (identity.customer_id, *identity.guests)
            topics += [f"customer:{owner}" for owner in owners]
        if wanted.analytics:
            topics.append("analytics")
        stream = self._open(passage, connection, tuple(topics))
        if stream is not None:
            stream.claim, stream.identity = claim, identity
            self._live.owners.add(stream)

    def _open(
        self, passage: Passage, connection: AccessProtocol, names: tuple[str, ...]
    ) -> Stream | None:
        """Open a stream; None where the answer is over with its head."""
        if passage.method == b"HEAD":
            connection.answer(passage, 200, FIELDS, b"")
            return None
        retry = b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311 - spreads load
        if self._live.closing:
            # A refusal would tell a browser never to come again.
            connection.begin_stream(passage, FIELDS, retry, None)
            connection.end_stream()
            return None
        if self._edge.memory.pressure:
            raise Overloaded("There is no memory for more streams.", retry_after_s=2)
        address = client_of(connection.address, passage.headers, self._edge.proxies)
        stream = self._live.admit(connection, address, names)
        connection.begin_stream(passage, FIELDS, retry, stream)
        self._live.begin(stream, _last_event_id(passage))
        return stream


def _claim(passage: Passage, session_cookie: bytes) -> Claim:
    values = {b"authorization": list[bytes](), b"cookie": list[bytes]()}
    for name, value in passage.headers:
        if name in values:
            values[name].append(value)
    return claim_of(values[b"authorization"], values[b"cookie"], session_cookie)


def _last_event_id(passage: Passage) -> bytes:
    return next((value for name, value in passage.headers if name == b"last-event-id"), b"")
