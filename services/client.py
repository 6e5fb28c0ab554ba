"""Sending requests: over connections that are idle, new or waited for."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

from services.connection import Connection
from services.connections import Connections, is_quiet
from services.deadline import Deadline
from services.exchange import (
    Body,
    Caller,
    NotSent,
    Patience,
    PoolClosed,
    PoolTimedOut,
    Repeatable,
    Response,
)
from services.places import Places
from services.request import JOINED_BODY_BYTES, Request, deadline_line, header_lines
from services.stream import Stream


class Client(ABC):
    """Sends requests over at most `size` connections.

    Requests that find none free wait in order of arrival. With hop_ms each request carries
    X-Deadline-Ms: what is left of its deadline when it is sent, less hop_ms for the way back.
    """

    repeatable: ClassVar[frozenset[bytes]]  # methods that may be sent once more
    repeats: ClassVar[int]  # of one request

    def __init__(self, *, size: int, hop_ms: int | None, patience: Patience | None) -> None:
        self.requests_total = self.retried_total = 0
        self._places = Places(size)
        self._tells_time = hop_ms is not None
        self._hop_ms = hop_ms or 0
        self._patience = patience or Patience()

    # What a subclass says

    @property
    @abstractmethod
    def parts(self) -> Sequence[Connections]:
        """The connections, by address."""

    @abstractmethod
    def _take_idle(
        self, now: float, *, repeatable: bool, avoid: Connection | None = None
    ) -> Connection | None:
        """An idle connection to use; avoid: the one that was lost with the attempt before."""

    @abstractmethod
    async def _connect(
        self, deadline: Deadline, patience: Patience, avoid: Connection | None
    ) -> Connection:
        """A new connection in the place that was taken for it; or NotSent."""

    # Figures

    @property
    def size(self) -> int:
        return self._places.size

    @property
    def open(self) -> int:
        """Connections, with those being made."""
        return self._places.open

    @property
    def waiting(self) -> int:
        return self._places.waiting

    @property
    def idle(self) -> int:
        return sum(len(part.idle) for part in self.parts)

    @property
    def in_flight(self) -> int:
        return sum(len(part.busy) for part in self.parts)

    @property
    def opened_total(self) -> int:
        return sum(part.opened_total for part in self.parts)

    @property
    def reused_total(self) -> int:
        return sum(part.reused_total for part in self.parts)

    # Requests

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
        own: bytes = b"",
        patience: Patience | None = None,
    ) -> Response:
        """Send a request and collect its answer. Raises NotSent, or Unknown once a byte was sent.

        length: Content-Length of a body that is iterated; without it that body goes in chunks.
        host: a Host other than the address. Framing headers are never the caller's.
        own: whole lines after the headers, for which the caller vouches: they are not looked at.
        """
        request = Request(method, target, headers, body, length=length, host=host, own=own)
        return cast(Response, await self._exchange(request, deadline, patience, streamed=False))

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
        request = Request(method, target, headers, body, length=length, host=host)
        return cast(Stream, await self._exchange(request, deadline, patience, streamed=True))

    def begin(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        own: bytes = b"",
        deadline: Deadline,
        caller: Caller,
    ) -> bool:
        """Send a request at once, if a live connection is idle; without task, wait or repetition.

        True: it was written, and the caller will be called, once; Repeatable then tells it that
        request() may carry it out after all. False: use request(), nothing has happened.
        Raises UnsafeRequest.
        """
        now = time.monotonic()
        left_ms = (deadline.at - now) * 1000 - self._hop_ms
        if left_ms <= 0:
            return False
        lines = header_lines(method, target, headers, body, None) + own
        repeatable = method in self.repeatable
        connection = self._take_idle(now, repeatable=repeatable)
        if connection is None:
            return False
        self.requests_total += 1
        joined = len(body) <= JOINED_BODY_BYTES
        time_line = deadline_line(left_ms) if self._tells_time and left_ms != math.inf else b""
        connection.start(
            b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b"
            % (method, target, connection.host_line, lines, time_line, body if joined else b""),
            caller,
            repeatable=repeatable,
            has_answer_body=method != b"HEAD",
            deadline_at=deadline.at,
            patience=self._patience,
            rest=b"" if joined else body,
        )
        return True

    def abandon(self, caller: Caller) -> None:
        """The caller of begin() stopped waiting, and is not called: its connection ends."""
        for part in self.parts:
            for connection in part.busy:
                if connection.carries(caller):
                    connection.cancel(caller)
                    return

    async def aclose(self) -> None:
        """End every connection, and every request that waits for one."""
        self._places.close()
        for part in self.parts:
            part.close()
        await asyncio.sleep(0)  # the turn in which the transports close their sockets

    async def _exchange(
        self, request: Request, deadline: Deadline, patience: Patience | None, *, streamed: bool
    ) -> Response | Stream:
        patience = patience or self._patience
        self.requests_total += 1
        repeats_left = self.repeats if request.is_whole and request.method in self.repeatable else 0
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        lost: Repeatable | None = None
        while True:
            try:
                connection = await self._take(
                    deadline, patience, repeatable=repeats_left > 0, avoid=connection
                )
            except NotSent as error:
                if lost is not None:  # an attempt before was sent
                    raise lost from error
                raise
            answer: asyncio.Future[Response | Stream] = loop.create_future()
            connection.start(
                request.data(connection.host_line, self._time_line(deadline)),
                answer,
                repeatable=repeats_left > 0,
                has_answer_body=request.method != b"HEAD",
                deadline_at=deadline.at,
                patience=patience,
                streamed=streamed,
                rest=request.rest,
                length=request.length,
            )
            try:
                return await answer
            except asyncio.CancelledError:
                connection.cancel(answer)
                raise
            except Repeatable as error:
                repeats_left -= 1
                lost = error
                self.retried_total += 1

    async def _take(
        self, deadline: Deadline, patience: Patience, *, repeatable: bool, avoid: Connection | None
    ) -> Connection:
        """A connection to send on, in time for its answer to come back."""
        while True:
            now = time.monotonic()
            if self._places.closed:
                raise PoolClosed("the pool is closed")
            if now >= deadline.at:
                raise PoolTimedOut("the deadline had passed before anything was sent")
            connection = self._take_idle(now, repeatable=repeatable, avoid=avoid)
            if connection is None:
                connection = await self._places.wait(deadline, patience)
                if connection is None:
                    connection = await self._fill_place(deadline, patience, avoid)
                elif not connection.alive or not (repeatable or is_quiet(connection)):
                    continue
            if deadline.left_s() * 1000 <= self._hop_ms:
                # Sent now it would be done, and its answer lost.
                if connection.alive:
                    connection.owner.put_back(connection)
                raise PoolTimedOut("too little time was left when a connection became free")
            return connection

    async def _fill_place(
        self, deadline: Deadline, patience: Patience, avoid: Connection | None
    ) -> Connection:
        try:
            return await self._connect(deadline, patience, avoid)
        except BaseException:
            self._places.pass_on()
            raise

    def _time_line(self, deadline: Deadline) -> bytes:
        if not self._tells_time or deadline.at == math.inf:
            return b""
        return deadline_line(deadline.left_ms() - self._hop_ms)
