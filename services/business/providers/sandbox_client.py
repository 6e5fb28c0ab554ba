"""Requests to the sandbox provider, over keep-alive connections that take no more than an answer.

A charge is the dearest call of a payment, and httpx's request and response objects were half of
what it cost; so this speaks to the pool that our httpx transport is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec

from services.business.providers.sandbox_books import LIST_MAX_BYTES
from services.deadline import Deadline
from services.exchange import AnswerLimits, Headers, Patience, Response
from services.keepalive import Pool

ANSWER_MAX_BYTES: Final = 16_384  # a charge is 300 bytes, a problem not much more
LIST_CONNECTIONS: Final = 2  # a walk through the books reads page after page


class SandboxClient:
    """Shows the secret, tells what is left of each call's time, and follows no redirect.

    An answer that is longer than any of its kind has ended its connection before it is read whole.
    Bodies are taken as they come: a few bytes can unpack to gigabytes. All methods raise
    ExchangeError: its NotSent where no byte of the request has left, Unknown where one has.
    """

    def __init__(self, url: str, secret: str, *, size: int, connect_s: float) -> None:
        self._prefix = urlsplit(url).path.rstrip("/")
        self._headers: Headers = [
            (b"authorization", f"Bearer {secret}".encode()),
            (b"accept-encoding", b"identity"),
        ]
        self._json_headers = [*self._headers, (b"content-type", b"application/json")]
        patience = Patience(connect_s=connect_s)
        self._calls = Pool.to(
            url,
            size=size,
            hop_ms=0,
            patience=patience,
            limits=AnswerLimits(body_bytes=ANSWER_MAX_BYTES),
        )
        self._books = Pool.to(
            url,
            size=LIST_CONNECTIONS,
            hop_ms=0,
            patience=patience,
            limits=AnswerLimits(body_bytes=LIST_MAX_BYTES),
        )

    async def post(self, path: str, body: Mapping[str, object], deadline: Deadline) -> Response:
        """Ask for something to be done, once: a connection that was lost is not tried again."""
        return await self._calls.request(
            b"POST", self._target(path), self._json_headers, msgspec.json.encode(body),
            deadline=deadline,
        )  # fmt: skip

    async def get(self, path: str, deadline: Deadline) -> Response:
        """Ask about a charge or an operation."""
        return await self._calls.request(
            b"GET", self._target(path), self._headers, deadline=deadline
        )

    async def list(self, path: str, query: Mapping[str, str], deadline: Deadline) -> Response:
        """Ask for a page of the books."""
        target = self._target(f"{path}?{urlencode(query)}")
        return await self._books.request(b"GET", target, self._headers, deadline=deadline)

    async def aclose(self) -> None:
        await self._calls.aclose()
        await self._books.aclose()

    def _target(self, path: str) -> bytes:
        return f"{self._prefix}{path}".encode()
