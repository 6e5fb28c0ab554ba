"""A keep-alive HTTP/1.1 client pool for one address: bounded connections, bounded waiting."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable
from typing import Final, cast
from urllib.parse import urlsplit

from services.connection import Connection, Stream
from services.deadline import DEADLINE_HEADER, Deadline
from services.exchange import (
    AnswerLimits,
    AnswerTimedOut,
    BadAnswer,
    Body,
    BodyMismatch,
    Caller,
    ClosedIdle,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    Headers,
    NotSent,
    Patience,
    PoolClosed,
    PoolTimedOut,
    Response,
    SendingLost,
    SendTimedOut,
    Unknown,
    UnsafeRequest,
    render_head,
)

__all__ = [
    "AnswerLimits",
    "AnswerTimedOut",
    "BadAnswer",
    "BodyMismatch",
    "Caller",
    "ClosedIdle",
    "ConnectFailed",
    "ConnectTimedOut",
    "ConnectionLost",
    "ExchangeError",
    "Headers",
    "NotSent",
    "Patience",
    "Pool",
    "PoolClosed",
    "PoolTimedOut",
    "Response",
    "SendTimedOut",
    "SendingLost",
    "Stream",
    "Unknown",
    "UnsafeRequest",
]

IDLE_S: Final = 4.0  # below the 5 s after which uvicorn and Node close an idle connection
# A server that is added under load has its share after about this time. What it costs, one connect
# a minute for each connection, does not show.
MAX_AGE_S: Final = 60.0
AGE_JITTER: Final = 0.2  # of the age: what was opened in one burst is not replaced in one
JOINED_BODY_BYTES: Final = 16_384  # below this one write of head and body beats two
# RFC 9110 9.2.2: carried out twice, these leave the server as if carried out once.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
DEADLINE_NAME: Final = DEADLINE_HEADER.encode()
WITHOUT_BODY: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE"))


class Pool:
    """At most `size` connections to one host and port, at any of its addresses.

    A request takes the connection used last, so that those not needed grow idle and close;
    requests that find none free wait in order of arrival. A connection older than max_age_s is
    not used again, so that servers which have come since get their share.
    With hop_ms each request carries X-Deadline-Ms: what is left of its deadline when it is sent,
    less hop_ms for the way back.
    The counters are for metrics: opened_total, reused_total, retried_total.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        size: int,
        tls: ssl.SSLContext | None = None,
        idle_s: float = IDLE_S,
        max_age_s: float = MAX_AGE_S,
        hop_ms: int | None = None,
        patience: Patience | None = None,
        limits: AnswerLimits | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.size = size
        self.open = 0  # connections, with those being made
        self.opened_total = self.reused_total = self.retried_total = 0
        self._tls = tls
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._hop_ms = hop_ms
        self._patience = patience or Patience()
        self._limits = limits or AnswerLimits()
        self._host_line = b"host: " + authority(host, port, secure=tls is not None)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    def to(cls, url: str, *, size: int, idle_s: float = IDLE_S, hop_ms: int | None = None) -> Pool:
        """A pool to the origin of an http or https URL; https trusts what the system trusts."""
        parts = urlsplit(url)
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (80 if tls is None else 443)
        host = parts.hostname or ""
        return cls(host, port, size=size, tls=tls, idle_s=idle_s, hop_ms=hop_ms)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def in_flight(self) -> int:
        return len(self._busy)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: Body = b"",
        *,
        deadline: Deadline,
        length: int | None = None,
        host: bytes | None = None,
        patience: Patience | None = None,
    ) -> Response:
        """Send a request and collect its answer. Raises NotSent, or Unknown once a byte was sent.

        length: Content-Length of a body that is iterated; without it that body goes in chunks.
        host: a Host other than the pool's address. Framing headers are never the caller's.
        """
        answer = await self._exchange(
            method,
            target,
            headers,
            body,
            length=length,
            host=host,
            deadline=deadline,
            patience=patience,
            streamed=False,
        )
        return cast(Response, answer)

    async def stream(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: Body = b"",
        *,
        deadline: Deadline,
        length: int | None = None,
        host: bytes | None = None,
        patience: Patience | None = None,
    ) -> Stream:
        """The same, back as soon as the header section is there. Close what is returned."""
        answer = await self._exchange(
            method,
            target,
            headers,
            body,
            length=length,
            host=host,
            deadline=deadline,
            patience=patience,
            streamed=True,
        )
        return cast(Stream, answer)

    def begin(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        deadline: Deadline,
        caller: Caller,
    ) -> bool:
        """Send a request at once, if a live connection is idle; without task, wait or repetition.

        True: it was written, and the caller will be called, once; ClosedIdle then tells it that
        request() may carry it out after all. False: use request(), nothing has happened.
        Raises UnsafeRequest.
        """
        now = time.monotonic()
        left_ms = (deadline.at - now) * 1000 - (self._hop_ms or 0)
        if left_ms <= 0 or self._closed:
            return False
        repeatable = method in IDEMPOTENT
        head = render_head(method, target, headers, self._framing(method, body, None, None))
        connection = self._take_idle(now, repeatable=repeatable)
        if connection is None:
            return False
        joined = len(body) <= JOINED_BODY_BYTES
        told = self._told(head, deadline)
        connection.start(
            told + body if joined else told,
            b"" if joined else body,
            length=None,
            has_answer_body=method != b"HEAD",
            streamed=False,
            repeatable=repeatable,
            deadline_at=deadline.at,
            patience=self._patience,
            caller=caller,
        )
        return True

    def abandon(self, caller: Caller) -> None:
        """The caller of begin() stopped waiting, and is not called: its connection ends."""
        for connection in self._busy:
            if connection.carries(caller):
                connection.cancel(caller)
                return

    async def aclose(self) -> None:
        """End every connection, and every request that waits for one."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(PoolClosed("the pool was closed"))
        for connection in [*self._idle, *self._busy]:
            connection.drop()
        await asyncio.sleep(0)  # the turn in which the transports close their sockets

    async def _exchange(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: Body,
        *,
        length: int | None,
        host: bytes | None,
        deadline: Deadline,
        patience: Patience | None,
        streamed: bool,
    ) -> Response | Stream:
        patience = patience or self._patience
        head = render_head(method, target, headers, self._framing(method, body, length, host))
        repeatable = isinstance(body, bytes) and method in IDEMPOTENT
        joined = isinstance(body, bytes) and len(body) <= JOINED_BODY_BYTES
        loop = asyncio.get_running_loop()
        lost: ConnectionLost | None = None
        while True:
            connection = await self._take(deadline, patience, repeatable=repeatable, lost=lost)
            self._check_time_left(connection, deadline, lost)
            told = self._told(head, deadline)
            answer: asyncio.Future[Response | Stream] = loop.create_future()
            connection.start(
                told + cast(bytes, body) if joined else told,
                b"" if joined else body,
                length=length,
                has_answer_body=method != b"HEAD",
                streamed=streamed,
                repeatable=repeatable,
                deadline_at=deadline.at,
                patience=patience,
                caller=answer,
            )
            try:
                return await answer
            except asyncio.CancelledError:
                connection.cancel(answer)
                raise
            except ClosedIdle as error:
                if lost is not None:
                    raise
                lost = error  # once more, on a fresh one
                self.retried_total += 1

    def _check_time_left(
        self, connection: Connection, deadline: Deadline, lost: ConnectionLost | None
    ) -> None:
        """Not to send what can not be back in time: it would be done, and the answer lost."""
        if self._hop_ms is not None and deadline.left_s() * 1000 <= self._hop_ms:
            if connection.alive:
                self.released(connection)
            raise lost or PoolTimedOut("too little time was left when a connection became free")

    def _told(self, head: bytes, deadline: Deadline) -> bytes:
        """The head with the time that is left now, when a connection has been found."""
        if self._hop_ms is None or deadline.at == math.inf:
            return head
        left_ms = max(1, deadline.left_ms() - self._hop_ms)  # a moment has passed since the check
        return b"%b%b: %d\r\n\r\n" % (head[:-2], DEADLINE_NAME, left_ms)

    def _framing(
        self, method: bytes, body: Body, length: int | None, host: bytes | None
    ) -> tuple[bytes, ...]:
        host_line = self._host_line if host is None else b"host: " + host
        if isinstance(body, bytes):
            if not body and method in WITHOUT_BODY:
                return (host_line,)
            return (host_line, b"content-length: %d" % len(body))
        if length is None:
            return (host_line, b"transfer-encoding: chunked")
        return (host_line, b"content-length: %d" % length)

    # Places: at most `size` are taken; whoever ends a connection passes its place on

    async def _take(
        self,
        deadline: Deadline,
        patience: Patience,
        *,
        repeatable: bool,
        lost: ConnectionLost | None,
    ) -> Connection:
        try:
            return await self._place(deadline, patience, repeatable=repeatable, fresh=bool(lost))
        except NotSent as error:
            if lost is not None:  # the first attempt was sent
                raise lost from error
            raise

    async def _place(
        self, deadline: Deadline, patience: Patience, *, repeatable: bool, fresh: bool
    ) -> Connection:
        while True:
            now = time.monotonic()
            if self._closed:
                raise PoolClosed("the pool is closed")
            if now >= deadline.at:
                raise PoolTimedOut("the deadline had passed before anything was sent")
            connection = None if fresh else self._take_idle(now, repeatable=repeatable)
            if connection is not None:
                return connection
            if self._idle and self.open >= self.size:
                self._idle[0].drop()
            connection = await self._wait(deadline, patience)
            if connection is None:
                return await self._connect(deadline, patience)
            if self._is_usable(connection, repeatable=repeatable):
                return connection

    def _take_idle(self, now: float, *, repeatable: bool) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            self._busy.add(connection)
            if now - connection.idle_since > self._idle_s or now >= connection.retire_at:
                connection.drop()
            elif self._is_usable(connection, repeatable=repeatable):
                return connection
        return None

    def _is_usable(self, connection: Connection, *, repeatable: bool) -> bool:
        if not connection.alive:
            return False
        # What can not be repeated is not sent into a connection that shows signs of an end.
        if not repeatable and connection.unread():
            connection.drop()
            return False
        self.reused_total += 1
        return True

    async def _wait(self, deadline: Deadline, patience: Patience) -> Connection | None:
        """A connection that became free, or None: a place in which to make one."""
        if self.open < self.size:
            self.open += 1
            return None
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection | None] = loop.create_future()
        self._waiters.append(waiter)
        wait_s = min(deadline.left_s(), patience.pool_s)
        timer = None if wait_s == math.inf else loop.call_later(wait_s, self._give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._unwait(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _give_up(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            waiter.set_exception(PoolTimedOut(f"all {self.size} connections stayed in use"))

    def _unwait(self, waiter: asyncio.Future[Connection | None]) -> None:
        """A waiter was cancelled: what it was given in the same turn goes to the next."""
        if waiter.cancelled():
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        elif waiter.exception() is None:
            connection = waiter.result()
            if connection is None:
                self._pass_place()
            elif connection.alive:
                self.released(connection)

    async def _connect(self, deadline: Deadline, patience: Patience) -> Connection:
        wait_s = min(deadline.left_s(), patience.connect_s)
        try:
            async with asyncio.timeout(None if wait_s == math.inf else wait_s):
                connection = await self._connect_to_any()
        except TimeoutError:
            self._pass_place()
            raise ConnectTimedOut(f"no connection within {wait_s:.3f} s") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that can not be one
            self._pass_place()
            raise ConnectFailed(str(error)) from error
        except BaseException:
            self._pass_place()
            raise
        jitter = random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311 - no secret
        connection.retire_at = time.monotonic() + self._max_age_s * jitter
        self._busy.add(connection)
        self.opened_total += 1
        if self._closed:
            connection.drop()
            raise PoolClosed("the pool was closed")
        return connection

    async def _connect_to_any(self) -> Connection:
        """Connect to one of the name's addresses, each as likely to be the first to be tried.

        The resolver sorts them (RFC 6724): its first would be the same instance every time.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = [address[:2] for *_, address in found]
        random.shuffle(addresses)
        while True:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self, self._limits),
                    *addresses.pop(),
                    ssl=self._tls,
                    server_hostname=None if self._tls is None else self.host,
                )
            except OSError:
                if not addresses:
                    raise
            else:
                return connection

    def released(self, connection: Connection) -> None:
        """The connection is free again: to whoever has waited longest, else to the idle ones.

        One that is old ends instead, and its place is free for a fresh one.
        """
        now = time.monotonic()
        if now >= connection.retire_at:
            connection.drop()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._busy.discard(connection)
        connection.idle_since = now
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweep()

    def ended(self, connection: Connection) -> None:
        """The connection is gone. One that never got out of _connect holds no place of its own."""
        if connection in self._busy:
            self._busy.remove(connection)
        elif connection in self._idle:
            self._idle.remove(connection)
        else:
            return
        self._pass_place()

    def _pass_place(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.open -= 1

    def _sweep(self) -> None:
        """Close what has been idle too long; runs only while something is idle."""
        self._sweeper = None
        oldest_allowed = time.monotonic() - self._idle_s
        while self._idle and self._idle[0].idle_since <= oldest_allowed:
            self._idle[0].drop()
        if self._idle and not self._closed:
            wait_s = self._idle[0].idle_since + self._idle_s - time.monotonic()
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(max(wait_s, 0.01), self._sweep)


def authority(host: str, port: int, *, secure: bool) -> bytes:
    """host[:port] as a Host header has it: IPv6 in brackets, the scheme's own port left out."""
    name = f"[{host}]" if ":" in host else host
    default = 443 if secure else 80
    return (name if port == default else f"{name}:{port}").encode("ascii", "strict")
