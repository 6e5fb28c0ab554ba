"""One HTTP/1.1 connection to a server: a request goes out, its answer is parsed, one at a time."""

from __future__ import annotations

import asyncio
import math
import select
import time
from collections.abc import AsyncIterable, Callable
from typing import Any, Final, Protocol, cast

import httptools

from services.exchange import (
    AnswerLimits,
    AnswerTimedOut,
    BadAnswer,
    Body,
    BodyMismatch,
    Caller,
    ConnectionLost,
    ExchangeError,
    Headers,
    Patience,
    Repeatable,
    Response,
    SendingLost,
    SendTimedOut,
)
from services.plain import plain_answer
from services.stream import Stream

INTERIM_LIMIT: Final = 16  # 1xx answers before one request's final answer


class Owner(Protocol):
    """What a connection tells whoever keeps it, and asks."""

    def answered(self, connection: Connection) -> None:
        """An exchange ended with its answer, and the connection ends with it."""

    def released(self, connection: Connection) -> None:
        """An exchange ended with its answer; the connection is free."""

    def ended(self, connection: Connection, error: BaseException | None) -> None:
        """It is gone; error: how the exchange that ran failed, unless it was given up here."""

    def put_back(self, connection: Connection) -> None:
        """Nothing was sent on it after all: it is free."""

    def may_repeat(self, connection: Connection) -> bool:
        """Whether an exchange of which nothing has come back may be sent once more."""


class Connection(asyncio.Protocol):
    """A connection that is idle, or carries one exchange.

    One timer serves it for life: it is armed again only when it fires too early or would fire
    too late, so a request that is answered in time costs no timer at all.
    """

    __slots__ = (
        *("alive", "host_line", "idle_since", "owner", "retire_at", "served", "status"),
        *("_limits", "_loop", "_parser", "_paused", "_plain_limit", "_readable", "_timer"),
        "_timer_at",
        *("_transport", "_writable"),
        # of one exchange
        *("_body_bytes", "_caller", "_chunks", "_deadline_at", "_done", "_expires_at"),
        *("_fed_bytes", "_has_answer_body", "_head_done", "_headers", "_interim", "_keep"),
        *(
            "_patience",
            "_plain_bytes",
            "_plain_limit",
            "_repeatable",
            "_sender",
            "_sent",
            "_stream",
            "_streamed",
            "_surplus",
        ),
        "_trailer_bytes",
    )

    def __init__(self, owner: Owner, host_line: bytes, limits: AnswerLimits) -> None:
        self.owner = owner
        self.host_line = host_line
        self._limits = limits
        self._plain_limit = limits.plain_bytes
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._readable = select.poll()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self.alive = False
        self.served = 0  # exchanges ended well
        self.status = 0  # of the last answer
        self.idle_since = 0.0
        self.retire_at = math.inf  # when its owner stops using it
        # Of an exchange, what start() leaves as it is. Whoever changes one of these puts it back,
        # or ends the connection.
        self._caller: Caller | None = None
        self._sender: asyncio.Task[None] | None = None
        self._stream: Stream | None = None
        self._chunks: list[bytes] = []
        self._body_bytes = self._trailer_bytes = self._interim = 0
        self._sent = True
        self._surplus = self._keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.alive = True

    def answer_header(self, name: bytes) -> bytes | None:
        """The first value of a header of the last answer."""
        return next((value for key, value in self._headers if key == name), None)

    def unread(self) -> bool:
        """Whether the idle connection has something to read: it was closed, or is out of step."""
        return self._transport.is_closing() or bool(self._readable.poll(0))

    # An exchange

    def start(
        self,
        data: bytes,
        caller: Caller,
        *,
        repeatable: bool,
        has_answer_body: bool,
        deadline_at: float,
        patience: Patience,
        streamed: bool = False,
        rest: Body = b"",
        length: int | None = None,
    ) -> None:
        """Send a request; the caller gets its answer (streamed: a Stream), or an Unknown.

        rest: what follows the data; length is only for a body that is iterated.
        """
        self._caller = caller
        self._repeatable = repeatable
        self._has_answer_body = has_answer_body
        self._streamed = streamed
        self._deadline_at = deadline_at
        self._patience = patience
        self._headers: Headers = []
        self._fed_bytes = 0
        self._head_done = self._done = False
        self._plain_bytes = self._plain_limit if has_answer_body and not streamed else 0
        if not rest:
            if patience.first_byte_s == math.inf and deadline_at >= self._timer_at:
                self._expires_at = deadline_at  # the usual case of _expect_within()
            else:
                self._expect_within(patience.first_byte_s)
            self._transport.write(data)
        elif isinstance(rest, bytes):
            self._expect_within(patience.first_byte_s)
            self._transport.writelines((data, rest))
        else:
            self._sent = False
            self._plain_bytes = 0
            self._expect_within(math.inf)
            self._transport.write(data)
            self._sender = self._loop.create_task(self._send(rest, length))

    def carries(self, caller: Caller) -> bool:
        """Whether the exchange that runs is this caller's."""
        return self._caller is caller

    def cancel(self, caller: Caller) -> None:
        """The caller stopped waiting, and is not called any more; a running exchange ends."""
        if self._caller is caller:
            self._caller = None
            self.drop()

    def give_up(self) -> None:
        """Nothing is expected from the server any more: end an exchange that may be repeated."""
        unanswered = self._caller is not None and self._fed_bytes == 0
        if unanswered and self._repeatable and self.owner.may_repeat(self):
            self.drop(Repeatable("the server has stopped answering"))

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
        caller, self._caller = self._caller, None
        self.owner.ended(self, None if caller is None else error)
        if caller is not None:
            self._fail(caller, error or ConnectionLost("the connection was given up"))

    def _fail(self, caller: Caller, error: BaseException) -> None:
        if not caller.done():
            # What an iterated body raises is the caller's own, and only futures come with one.
            self._tell(caller.set_exception, cast(ExchangeError, error))
        elif self._stream is not None:
            unknown = error if isinstance(error, ExchangeError) else ConnectionLost(str(error))
            self._stream.end(unknown)

    def _tell(self, say: Callable[[Any], None], what: object) -> None:
        """Call back; what is wrong with the caller is not to break the connection."""
        try:
            say(what)
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
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
        if self._fed_bytes == 0 and len(data) <= self._plain_bytes:
            answer = plain_answer(data)
            if answer is not None:
                self._finish_plain(answer)
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
        if self._repeatable and self._fed_bytes == 0 and self.owner.may_repeat(self):
            return Repeatable
        return ConnectionLost

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
        if self._head_done:
            self._skip_trailer(len(name) + len(value) + 4)
            return
        name = name.lower()
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            raise BadAnswer("a transfer coding other than chunked")
        self._headers.append((name, value))

    def _skip_trailer(self, size_bytes: int) -> None:
        """Trailers count, and are not merged into the header section."""
        self._trailer_bytes += size_bytes
        if self._trailer_bytes > self._limits.head_bytes:
            raise BadAnswer("the trailer section is too long")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status > 599:
            raise BadAnswer(f"status {status} is none of HTTP's")
        if status < 200:
            self._skip_interim(status)
            return
        if self._fed_bytes > self._limits.head_bytes:  # otherwise the head can not be
            head_bytes = sum(len(name) + len(value) + 4 for name, value in self._headers)
            if head_bytes > self._limits.head_bytes:
                raise BadAnswer("the header section is too long")
        self.status = status
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
            if not self._stream.feed(data) and not self._paused:
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

    def _finish_plain(self, answer: Response) -> None:
        """The same as _finish() for an answer of which the parser has not seen a byte."""
        caller, self._caller = self._caller, None
        self.served += 1
        self.status = answer.status
        self._headers = answer.headers
        if not self._transport.is_closing():
            self.owner.released(self)
        else:
            self.owner.answered(self)
            self.drop()
        if caller is None or caller.done():
            return
        try:
            caller.set_result(answer)
        except Exception as error:
            self._complain(error)

    def _finish(self) -> None:
        """The answer is whole. The connection is free before the caller is called: it may begin
        its next exchange in that call, on this very connection."""
        caller, self._caller = self._caller, None
        stream, chunks, response = self._stream, self._chunks, None
        if stream is None:
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            response = Response(self.status, self._headers, body)
        else:
            stream.end()
        self._clear()
        if self._keep and self._sent and not self._surplus and not self._transport.is_closing():
            self.owner.released(self)
        else:
            self.owner.answered(self)
            self.drop()
        if response is not None and caller is not None and not caller.done():
            self._tell(caller.set_result, response)

    def _clear(self) -> None:
        """Make ready for another exchange."""
        self.served += 1
        self._stream = None
        self._chunks = []
        self._body_bytes = self._trailer_bytes = self._interim = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if not self._has_answer_body:
            self._parser = httptools.HttpResponseParser(self)
