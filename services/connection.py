"""One HTTP/1.1 connection to a server: a request goes out, its answer is parsed, one at a time."""

from __future__ import annotations

import asyncio
import math
import select
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, Final, Protocol, cast

import httptools

from services.exchange import (
    AnswerLimits,
    AnswerTimedOut,
    BadAnswer,
    Body,
    BodyMismatch,
    Caller,
    ClosedIdle,
    ConnectionLost,
    ExchangeError,
    Headers,
    Patience,
    Response,
    SendingLost,
    SendTimedOut,
)

BUFFERED_BYTES: Final = 65_536  # of a streamed answer before reading stops: asyncio's own mark
INTERIM_LIMIT: Final = 16  # 1xx answers before one request's final answer


class Stream:
    """An answer whose body is read as it comes. Iterate once, or close it early."""

    def __init__(self, status: int, headers: Headers, connection: Connection) -> None:
        self.status = status
        self.headers = headers
        self._connection: Connection | None = connection
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._error: ExchangeError | None = None
        self._wakeup: asyncio.Future[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._buffered_bytes -= len(chunk)
                if self._connection is not None and self._buffered_bytes < BUFFERED_BYTES // 2:
                    self._connection.resume_reading()
                yield chunk
            if self._error is not None:
                raise self._error
            if self._connection is None:
                return
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup

    async def aclose(self) -> None:
        """Give the connection up if the body has not been read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

    def _feed(self, chunk: bytes) -> bool:
        """Take a piece of the body; false asks the connection to stop reading."""
        self._chunks.append(chunk)
        self._buffered_bytes += len(chunk)
        self._wake()
        return self._buffered_bytes < BUFFERED_BYTES

    def _end(self, error: ExchangeError | None = None) -> None:
        self._connection = None
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


class Owner(Protocol):
    """What a connection tells its pool."""

    def released(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """A connection that is idle, or carries one exchange.

    One timer serves it for life: it is armed again only when it fires too early or would fire
    too late, so a request that is answered in time costs no timer at all.
    """

    def __init__(self, owner: Owner, limits: AnswerLimits) -> None:
        self._owner = owner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._readable = select.poll()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._caller: Caller | None = None  # of the exchange that runs
        self._writable: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._paused = False
        self.alive = False
        self.served = 0  # exchanges ended well
        self.idle_since = 0.0
        self.retire_at = math.inf  # when its pool stops using it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.alive = True

    def unread(self) -> bool:
        """Whether the idle connection has something to read: it was closed, or is out of step."""
        return self._transport.is_closing() or bool(self._readable.poll(0))

    # An exchange

    def start(
        self,
        head: bytes,
        body: Body,
        *,
        length: int | None,
        has_answer_body: bool,
        streamed: bool,
        repeatable: bool,
        deadline_at: float,
        patience: Patience,
        caller: Caller,
    ) -> None:
        """Send a request; the caller gets its answer (streamed: a Stream), or an Unknown.

        A body of bytes is in `head` or follows it; length is only for one that is iterated.
        """
        self._caller = caller
        self._repeatable = repeatable
        self._has_answer_body = has_answer_body
        self._streamed = streamed
        self._stream: Stream | None = None
        self._deadline_at = deadline_at
        self._patience = patience
        self._status = 0
        self._headers: Headers = []
        self._chunks: list[bytes] = []
        self._head_bytes = self._body_bytes = self._fed_bytes = self._interim = 0
        self._head_done = self._done = self._surplus = self._keep = False
        self._sent = isinstance(body, bytes)
        self._expect_within(patience.first_byte_s if self._sent else math.inf)
        if isinstance(body, bytes) and body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)
        if not isinstance(body, bytes):
            self._sender = self._loop.create_task(self._send(body, length))

    def carries(self, caller: Caller) -> bool:
        """Whether the exchange that runs is this caller's."""
        return self._caller is caller

    def cancel(self, caller: Caller) -> None:
        """The caller stopped waiting, and is not called any more; a running exchange ends."""
        if self._caller is caller:
            self._caller = None
            self.drop()

    def drop(self, error: BaseException | None = None) -> None:
        """End the connection and whatever it carries; its place in the pool is free at once."""
        if not self.alive:
            return
        self.alive = False
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        # The parser holds this object's methods: a cycle that need not wait for the collector.
        self._parser = None  # type: ignore[assignment]
        self._owner.ended(self)
        caller, self._caller = self._caller, None
        if caller is not None:
            self._fail(caller, error or ConnectionLost("the connection was given up"))

    def _fail(self, caller: Caller, error: BaseException) -> None:
        if not caller.done():
            # What an iterated body raises is the caller's own, and only futures come with one.
            self._tell(caller.set_exception, cast(ExchangeError, error))
        elif self._stream is not None:
            unknown = error if isinstance(error, ExchangeError) else ConnectionLost(str(error))
            self._stream._end(unknown)

    def _tell(self, say: Callable[[Any], None], what: object) -> None:
        """Call back; what is wrong with the caller is not to break the connection."""
        try:
            say(what)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "a caller failed at its answer", "exception": error, "protocol": self}
            )

    async def _send(self, body: AsyncIterable[bytes], length: int | None) -> None:
        left_bytes = length
        try:
            async for part in body:
                if not part:
                    continue
                if left_bytes is None:
                    self._transport.writelines((b"%x\r\n" % len(part), part, b"\r\n"))
                else:
                    left_bytes -= len(part)
                    if left_bytes < 0:
                        raise BodyMismatch("the body is longer than its Content-Length")
                    self._transport.write(part)
                if self._writable is not None:
                    await self._writable
            if left_bytes:
                raise BodyMismatch("the body is shorter than its Content-Length")
            if left_bytes is None:
                self._transport.write(b"0\r\n\r\n")
        except Exception as error:  # whatever the caller's own iterator raises is the caller's
            self._sender = None
            self.drop(error)
            return
        self._sender = None
        self._sent = True
        self._expect_within(self._patience.first_byte_s)

    # The clock

    def _expect_within(self, seconds: float) -> None:
        """Something has to happen within so many seconds, and the answer by the deadline."""
        at = self._deadline_at
        if seconds != math.inf:
            at = min(at, time.monotonic() + seconds)
        self._expires_at = at
        if at < self._timer_at:
            self._arm(at)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        # uvloop counts milliseconds from its last turn: never ask it for less than one.
        self._timer = self._loop.call_later(max(at - time.monotonic(), 0.001), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._caller is None:
            return
        if time.monotonic() < self._expires_at:
            if self._expires_at != math.inf:
                self._arm(self._expires_at)
        elif self._transport.get_write_buffer_size() > 0:
            self.drop(SendTimedOut("the server did not take the request in time"))
        else:
            self.drop(AnswerTimedOut("no answer in time"))

    # What the transport says

    def data_received(self, data: bytes) -> None:
        if self._caller is None:
            self.drop()  # nothing was asked for: a 408 before closing, or a server out of step
            return
        self._fed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._done:
                cause = error.__context__
                self.drop(cause if isinstance(cause, BadAnswer) else BadAnswer(str(error)))
                return
            self._surplus = True
        if self._done:
            self._finish()
        elif not self._head_done and self._fed_bytes > self._limits.head_bytes:
            self.drop(BadAnswer("the header section is too long"))
        elif self._sent and not self._paused:
            self._expect_within(self._patience.between_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.alive:
            return
        if self._caller is not None and exc is None and self._ends_with_connection():
            self._keep = False
            self._finish()
            return
        error = self._kind_of_loss()(
            f"the connection ended: {exc}" if exc else "the server closed the connection"
        )
        error.__cause__ = exc
        self.drop(error)

    def _kind_of_loss(self) -> type[ConnectionLost]:
        if self._caller is None:
            return ConnectionLost
        if not self._sent:
            return SendingLost
        closed_idle = self._repeatable and self.served > 0 and self._fed_bytes == 0
        return ClosedIdle if closed_idle else ConnectionLost

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()
        if self._caller is not None:
            self._expect_within(self._patience.write_s)

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        if self._caller is not None:
            self._expect_within(self._patience.first_byte_s if self._sent else math.inf)

    def resume_reading(self) -> None:
        if self._paused and self.alive:
            self._paused = False
            self._transport.resume_reading()
            self._expect_within(self._patience.between_s)

    # What the parser says

    def on_message_begin(self) -> None:
        if self._done:
            raise BadAnswer("more than one answer")  # stops the parser; the first one holds

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_done:
            if self._head_bytes > self._limits.head_bytes:
                raise BadAnswer("the trailer section is too long")
            return  # trailers count, and are not merged into the header section
        name = name.lower()
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            raise BadAnswer("a transfer coding other than chunked")
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._skip_interim(status)
            return
        if self._head_bytes > self._limits.head_bytes:
            raise BadAnswer("the header section is too long")
        self._status = status
        self._head_done = True
        if self._streamed and self._caller is not None and not self._caller.done():
            self._stream = Stream(status, self._headers, self)
            cast(asyncio.Future[Stream], self._caller).set_result(self._stream)
        if not self._has_answer_body:  # the parser does not know that this answers a HEAD
            self._keep = self._parser.should_keep_alive()
            self._done = True

    def _skip_interim(self, status: int) -> None:
        self._interim += 1
        if status == 101 or status < 100 or self._interim > INTERIM_LIMIT:
            raise BadAnswer(f"status {status} was not asked for")
        self._headers = []

    def on_body(self, data: bytes) -> None:
        if not self._has_answer_body:
            self._surplus = True
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            raise BadAnswer("the body is too long")
        if self._stream is not None:
            if not self._stream._feed(data) and not self._paused:
                self._paused = True
                self._transport.pause_reading()
                self._expect_within(math.inf)  # the caller is the slow one now
            return
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        if self._head_done and not self._done:  # not the end of a 1xx
            self._keep = self._parser.should_keep_alive()
            self._done = True

    def _ends_with_connection(self) -> bool:
        framed = (b"content-length", b"transfer-encoding")
        return self._head_done and not any(name in framed for name, _ in self._headers)

    def _finish(self) -> None:
        caller, self._caller = self._caller, None
        self.served += 1
        stream, chunks = self._stream, self._chunks
        response = None
        if stream is not None:
            stream._end()
        else:
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            response = Response(self._status, self._headers, body)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if not self._has_answer_body:
            self._parser = httptools.HttpResponseParser(self)
        if self._keep and self._sent and not self._surplus and not self._transport.is_closing():
            self._owner.released(self)
        else:
            self.drop()
        # Last: the caller may begin its next exchange here, on this very connection.
        if response is not None and caller is not None and not caller.done():
            self._tell(caller.set_result, response)
