"""One client connection: requests are read, answered in order, and bounded in bytes and time.

A held page is answered in the parser's own callback from ready bytes. What has to go to business
is passed on from there too; only what is local (health) goes through an ASGI application. A
request is looked at only when it is whole, so nothing malformed is ever passed on or answered
from memory.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from services.access.cycle import AnswerCycle, answer_head
from services.access.framing import Refused
from services.access.passage import Passage, Request
from services.access.plain import plain_request
from services.access.reader import Reader
from services.access.timers import NO_SLOT, TICK_S
from services.access.tracing import names_of
from services.exchange import Headers
from services.problems import (
    InternalError,
    InvalidRequest,
    Problem,
    RequestTimeout,
)
from services.telemetry import logger

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from services.access.edge import Edge
    from services.access.live_topics import Stream

log = logger(__name__)

KEPT: Final = (b"connection", b"keep-alive")
KEPT_LINES: Final = b"connection: keep-alive\r\n\r\n"
CLOSE_LINES: Final = b"connection: close\r\n\r\n"
OVERDUE_S: Final = 1.0  # what comes at the deadline itself is there by then, on a busy machine too
READERS_KEPT: Final = 256  # one is in use at a time, and one for each request half read
JOINED_BODY_BYTES: Final = 16_384  # a longer body is not copied behind its head
GET_OR_HEAD: Final = (b"GET", b"HEAD")
NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")
NO_ROOM: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)


class AccessProtocol(asyncio.Protocol):
    """What uvicorn makes for each connection. A class of its own is bound to each Edge.

    Almost nothing is built before it is needed: most connections wait for their next request.
    """

    edge: ClassVar[Edge]

    __slots__ = (
        "__weakref__",
        "_config",
        "_counted",
        "_current",
        "_deaf",
        "_discarded_bytes",
        "_flow",
        "_going_on",
        "_queue",
        "_reader",
        "_refusal",
        "_state",
        "_stream",
        "_unfed",
        "_write_paused",
        "address",
        "asked_in",
        "due",
        "slot",
        "transport",
    )

    @classmethod
    def serving(cls, edge: Edge) -> type[AccessProtocol]:
        """The class uvicorn is given: it makes protocols without arguments of ours."""
        return type("EdgeProtocol", (cls,), {"edge": edge, "__slots__": ()})

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._state = server_state
        self.address = ""
        self.asked_in = -1  # the period in which it was counted as one that asks
        self._counted = False
        self._reader: Reader | None = None
        self._current: Passage | None = None  # the request that is being answered
        self._queue: deque[Passage] | None = None  # those behind it
        self._unfed: bytes | None = None  # input for which there is no room now
        self._flow: FlowControl | None = None  # of an answer by the ASGI application
        self._stream: Stream | None = None  # the answer that goes on until somebody leaves
        self._refusal: Problem | None = None  # to be answered after those, as the last
        self._write_paused = False
        self._going_on = False
        self._deaf = False  # nothing that comes from now on is a request
        self._discarded_bytes = 0
        self.due = math.inf
        self.slot = NO_SLOT

    # What the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # TCP or TLS
        self._state.connections.add(self)  # type: ignore[arg-type]  # it names uvicorn's own only
        peer = transport.get_extra_info("peername")
        self.address = address = peer[0] if isinstance(peer, tuple) else ""
        edge = self.edge
        if not edge.connections.opened(address):
            self.transport.write(NO_ROOM)
            self._close_soon()
            return
        self._counted = True
        self.due = time.monotonic() + edge.limits.head_s
        edge.wheel.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        if self._counted:
            self.edge.connections.closed(self.address)
        self.due = math.inf
        if self.slot != NO_SLOT:
            self.edge.wheel.forget(self)
        self._deaf = True
        self._unfed = self._queue = None
        if self._reader is not None:
            self._drop_reader()
        if self._flow is not None:
            self._flow.resume_writing()
        if self._stream is not None:
            self.edge.live.left(self._stream)
        current, self._current = self._current, None
        if current is not None:
            if current.carrier is not None:
                self.edge.forwarder.leave(current)
            elif current.task is not None:
                current.task.cancel()  # nobody waits for the answer

    def eof_received(self) -> None:
        """The client says no more: it is taken as gone. Its transport closes."""

    def pause_writing(self) -> None:
        """The client does not take what it has asked for: it gets time, and no more."""
        self._write_paused = True
        if self._stream is not None:
            self.edge.live.too_slow(self._stream)
            # Not here: the transport is in the middle of a write.
            asyncio.get_running_loop().call_soon(self.transport.abort)
            return
        self._expect_within(self.edge.limits.write_s)
        if self._flow is not None:
            self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._flow is not None:
            self._flow.resume_writing()
        if self._current is not None or not self._deaf:  # else the limit on its end goes on
            self.due = math.inf
            if self._current is not None:
                self._expect_answer(self._current)
            if not self._deaf and self._reader is not None and self._reader.reading:
                self._expect_within(self.edge.limits.head_s)
        if self._current is None:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if (
            self._reader is None
            and self._current is None
            and self._unfed is None
            and not (self._deaf or self._write_paused)
        ):
            request = plain_request(data, self.edge.limits)
            if request is not None:
                keep_alive = request.keep_alive and not self.edge.closing
                if not keep_alive:
                    self._deaf = True
                if self._answer_or_begin(request, keep_alive=keep_alive):
                    self._rest()
                return
        if self._deaf:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > self.edge.limits.linger_bytes:
                self.transport.abort()
        elif self._unfed is not None:
            self._unfed += data
        elif self._write_paused or len(data) > self.edge.limits.piece_bytes:
            self._feed_pieces(data)
        else:
            self._feed(data)
            self._fed()

    # Input

    def _feed_pieces(self, data: bytes) -> None:
        """Feed as much as there is room for; the rest waits, and so does the client."""
        view, at = memoryview(data), 0
        size_bytes = self.edge.limits.piece_bytes
        while at < len(data) and not self._deaf:
            if self._is_full():
                self._unfed = data[at:]
                self.transport.pause_reading()
                return
            self._feed(view[at : at + size_bytes])
            at += size_bytes
        self._fed()

    def _is_full(self) -> bool:
        queue, limits = self._queue, self.edge.limits
        if self._write_paused or not queue:
            return self._write_paused
        return (
            len(queue) >= limits.waiting_requests
            or sum(len(each.body) for each in queue) >= limits.waiting_bytes
        )

    def _feed_rest(self) -> None:
        data, self._unfed = self._unfed, None
        self.transport.resume_reading()
        if data is not None and not self._deaf:
            self._feed_pieces(data)

    def _feed(self, piece: bytes | memoryview) -> None:
        reader = self._reader
        if reader is None:
            readers = self.edge.readers
            reader = self._reader = readers.pop() if readers else Reader(self.edge.limits)
            reader.owner = self
            reader.completed = False
        try:
            reader.parser.feed_data(piece)
            if reader.reading:
                reader.fed(len(piece))
                waits = self._deaf or self._write_paused  # for something else, with its own limit
                if reader.pieces == 1 and not reader.head_done and not waits:
                    self._expect_within(self.edge.limits.head_s)
        except Refused as refused:
            self._refuse_rest(refused.problem)
        except httptools.HttpParserUpgrade:
            reader.usable = False
            self._deaf = True  # the request was taken without its Upgrade, and is the last
        except httptools.HttpParserError as error:
            reader.usable = False
            self._refuse_rest(_problem_behind(error))

    def _fed(self) -> None:
        """After the last piece there is."""
        reader = self._reader
        if reader is None:
            return
        if self._deaf:
            if self._refusal is None:
                self._give_back(reader)
        elif not reader.reading:
            if self._current is None and not self._write_paused:
                if reader.completed:
                    self._rest()
                else:
                    # Empty lines before a request that does not come do not hold a connection.
                    left_s = self.due - time.monotonic()
                    self._expect_within(min(self.edge.limits.head_s, left_s))
            self._give_back(reader)

    def _give_back(self, reader: Reader) -> None:
        """The reader serves the next connection, if its parser stands between two requests."""
        self._reader = None
        if reader.reading or not reader.usable or len(self.edge.readers) >= READERS_KEPT:
            reader.discard()
        else:
            reader.owner = None
            self.edge.readers.append(reader)

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.discard()

    # What the reader says

    def body_begins(self) -> None:
        reader = self._reader
        if self._deaf or reader is None:
            return
        self._expect_within(self.edge.limits.body_s)
        if self._current is None:
            self._ask_for_body(reader)

    def _ask_for_body(self, reader: Reader) -> None:
        if reader.expects_continue and reader.version == "1.1":
            reader.expects_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def request_read(self) -> None:
        reader = self._reader
        if self._deaf or reader is None:
            return
        keep_alive = reader.keeps_alive() and not self.edge.closing
        if not keep_alive:
            self._deaf = True
        if self._current is None:
            self._answer_or_begin(reader, keep_alive=keep_alive)
        else:
            if self._queue is None:
                self._queue = deque()
            limits = self.edge.limits
            self._queue.append(
                Passage(self, reader, keep_alive=keep_alive, timeout_s=limits.request_s)
            )

    def _answer_or_begin(self, request: Request, *, keep_alive: bool) -> bool:
        """Answer from memory, or have it answered; true: from memory, and there may be more."""
        edge = self.edge
        if not request.body and request.method in GET_OR_HEAD:
            page = edge.pages.answer(
                request.method,
                request.target,
                request.accept_encoding,
                request.if_none_match,
                not keep_alive,
            )
            if page is not None:
                self.transport.write(_told(page) if request.old and keep_alive else page)
                if edge.log.share:
                    edge.log_held(request, page, self.address)
                if not keep_alive:
                    self._close_soon()
                return keep_alive
        self._begin(Passage(self, request, keep_alive=keep_alive, timeout_s=edge.limits.request_s))
        return False

    def _begin(self, passage: Passage) -> None:
        self._current = passage
        askers = self.edge.askers
        if self.asked_in != askers.period:
            self.asked_in = askers.asked()
        reader = self._reader
        if not self._write_paused and (reader is None or not reader.reading):
            # As _expect_answer(); else the limit on that goes on.
            self.due = passage.deadline.at + OVERDUE_S
            if self.slot == NO_SLOT:
                self.edge.wheel.watch(self)
        self.edge.serve(passage, self)

    def _expect_answer(self, passage: Passage) -> None:
        """By its own deadline; the limit here is for a bug that would leave a client waiting."""
        self.due = passage.deadline.at + OVERDUE_S
        if self.slot == NO_SLOT:
            self.edge.wheel.watch(self)

    # Answers

    @property
    def scheme(self) -> str:
        return "https" if self._config.is_ssl else "http"

    def awaits(self, passage: Passage) -> bool:
        """Whether this request is the one to be answered now: its client has not left."""
        return self._current is passage

    def answer(self, passage: Passage, status: int, fields: Headers, body: bytes) -> None:
        """Send the answer to a request, with the fields that every answer has."""
        keep_alive = self._keeps_alive(passage)
        headers = [
            *self._state.default_headers,
            *fields,
            (b"x-request-id", passage.request_id),
            NO_SNIFF,
        ]
        if keep_alive and passage.old:
            headers.append(KEPT)
        head = answer_head(status, headers, keep_alive=keep_alive)
        self._write_answer(passage, head, body)
        self.edge.answered(passage, status, len(body), time.monotonic())
        self._finish(keep_alive=keep_alive)

    def send(self, passage: Passage, status: int, lines: bytes, body: bytes, now: float) -> None:
        """The same for fields that are lines already."""
        edge = self.edge
        keep_alive = self._keeps_alive(passage) if edge.closing else passage.keep_alive
        head = b"%b%b%bx-request-id: %b\r\nx-content-type-options: nosniff\r\n%b" % (
            STATUS_LINE[status],
            edge.default_lines
            if self._state.default_headers is edge.default_headers
            else edge.take_defaults(self._state.default_headers),
            lines,
            passage.request_id,
            CLOSE_LINES if not keep_alive else KEPT_LINES if passage.old else b"\r\n",
        )
        if len(body) <= JOINED_BODY_BYTES and passage.method != b"HEAD":
            self.transport.write(head + body)
        else:
            self._write_answer(passage, head, body)
        edge.answered(passage, status, len(body), now)
        self._finish(keep_alive=keep_alive)

    def _write_answer(self, passage: Passage, head: bytes, body: bytes) -> None:
        if passage.method == b"HEAD" or not body:
            self.transport.write(head)
        elif len(body) <= JOINED_BODY_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def send_ready(self, passage: Passage, data: bytes) -> None:
        """Send a held page: head and body as they are."""
        self.transport.write(_told(data) if passage.old and passage.keep_alive else data)
        self._finish(keep_alive=passage.keep_alive)

    def refuse(self, passage: Passage, problem: Problem) -> None:
        """Answer one request with a problem; the connection goes on."""
        body = problem.body(passage.request_id.decode())
        fields = [(name.encode(), value.encode()) for name, value in problem.headers().items()]
        fields.append((b"content-length", b"%d" % len(body)))
        self.answer(passage, problem.status, fields, body)

    def begin_stream(
        self, passage: Passage, fields: Headers, first: bytes, stream: Stream | None
    ) -> None:
        """Begin an answer that ends with its connection; what came behind its request is dropped.

        It has no length: a client knows that it was cut off, as it would be if it was encoded.
        """
        passage.keep_alive = False
        head = answer_head(
            200,
            [
                *self._state.default_headers,
                *fields,
                (b"x-request-id", passage.request_id),
                NO_SNIFF,
            ],
            keep_alive=False,
        )
        self._current = self._queue = self._refusal = None
        self._deaf = True
        self._stream = stream
        self._state.total_requests += 1
        self.due = math.inf
        if self._unfed is not None:
            self._unfed = None
            self.transport.resume_reading()  # else nobody would see that the client leaves
        self.transport.write(head + first)
        self.edge.answered(passage, 200, len(first), time.monotonic())

    def end_stream(self) -> None:
        """Close once the client has taken what was written, and not wait long for that."""
        self._stream = None
        if not self.transport.is_closing():
            self._close_soon()

    def run_app(self, passage: Passage, path: str) -> None:
        """Have the ASGI application answer."""
        flow = self._flow = FlowControl(self.transport)
        if self._write_paused:
            flow.pause_writing()
        keep_alive = self._keeps_alive(passage)
        told = [KEPT] if keep_alive and passage.old else []
        cycle = AnswerCycle.of(
            passage,
            path=path,
            transport=self.transport,
            flow=flow,
            default_headers=[*self._state.default_headers, *told],
            keep_alive=keep_alive,
            on_response=self._app_answered,
        )
        # Not cancelled when its client leaves, which uvicorn would log as an error: it is short.
        task = asyncio.get_running_loop().create_task(cycle.run_asgi(self._config.loaded_app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _app_answered(self) -> None:
        self._flow = None
        if self._current is not None:
            self._finish(keep_alive=not self.transport.is_closing())

    def _keeps_alive(self, passage: Passage) -> bool:
        if self.edge.closing and not self._queue and self._unfed is None:
            passage.keep_alive = False
            self._deaf = True
        return passage.keep_alive

    def _finish(self, *, keep_alive: bool) -> None:
        """An answer is sent: the next request's turn."""
        self._current = None
        self._state.total_requests += 1
        if not keep_alive:
            self._close_soon()
        elif self._queue or self._deaf or self._reader is not None or self._unfed is not None:
            if not self._write_paused:
                self._go_on()
        else:
            self._rest()

    def _go_on(self) -> None:
        """Answer what waits, as far as the client takes its answers; then wait for more."""
        if self._going_on:
            return  # called by what the loop below has begun
        self._going_on = True
        try:
            while not (self._current or self._write_paused or self.transport.is_closing()):
                if self._queue:
                    self._next(self._queue.popleft())
                elif self._refusal is not None:
                    self._answer_refusal(self._refusal)
                    break
                elif self._unfed is not None:
                    self._feed_rest()
                else:
                    self._wait_for_more()
                    break
        finally:
            self._going_on = False

    def _wait_for_more(self) -> None:
        reader = self._reader
        if self._deaf:
            return
        if reader is None:
            self._rest()
        elif reader.reading and reader.head_done and reader.has_body:
            self._ask_for_body(reader)  # it was not, while an answer was on its way

    def _rest(self) -> None:
        """Wait for the next request, unless answers are still to be taken: that has its limit."""
        if self._write_paused:
            return
        edge = self.edge
        if self.slot == NO_SLOT:
            self._expect_within(edge.limits.keep_alive_s)
            return
        self.due = edge.wheel.now + edge.limits.keep_alive_s
        if self.slot * TICK_S > self.due:
            edge.wheel.watch(self)

    def _next(self, passage: Passage) -> None:
        """A request that was read while another one was being answered."""
        self._current = passage
        if passage.method in (b"GET", b"HEAD") and not passage.body:
            page = self.edge.pages.answer(
                passage.method,
                passage.target,
                passage.accept_encoding,
                passage.if_none_match,
                not self._keeps_alive(passage),
            )
            if page is not None:
                if self.edge.log.share:
                    self.edge.log_held(passage, page, self.address)
                self.send_ready(passage, page)
                return
        self._begin(passage)

    # The end of a connection

    def _refuse_rest(self, problem: Problem) -> None:
        """Answer with a problem once every earlier request is answered, then close."""
        if self._deaf:
            return
        self._deaf = True
        if self._current is None:
            self._answer_refusal(problem)
        else:
            self._refusal = problem

    def _answer_refusal(self, problem: Problem) -> None:
        self._refusal = None
        if self.transport.is_closing():
            return
        reader = self._reader
        request_id, _, _ = names_of(reader.headers if reader is not None else [])
        body = problem.body(request_id.decode())
        headers = [
            *self._state.default_headers,
            *[(name.encode(), value.encode()) for name, value in problem.headers().items()],
            (b"x-request-id", request_id),
            NO_SNIFF,
            (b"content-length", b"%d" % len(body)),
        ]
        head = answer_head(problem.status, headers, keep_alive=False)
        to_head = reader is not None and reader.is_head()
        self.edge.counts.refuse(problem.status)
        self.transport.write(head if to_head else head + body)
        self._drop_reader()
        self._linger()

    def _linger(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._expect_within(self.edge.limits.linger_s)
        else:
            self._close_soon()

    def _close_soon(self) -> None:
        """Close once what was written is gone; a client that does not take it is not waited for."""
        self._deaf = True
        self.transport.close()
        if self.transport.get_write_buffer_size() > 0:
            self._expect_within(self.edge.limits.write_s)

    def _expect_within(self, seconds: float) -> None:
        self.due = time.monotonic() + seconds
        self.edge.wheel.watch(self)

    def on_due(self) -> None:
        """The time for what was expected is over."""
        self.due = math.inf
        current = self._current
        if current is not None and current.deadline.left_s() <= 0:
            log.error("bug", reason="a request was not answered", target=str(current.target))
            self.transport.abort()
        elif self._write_paused or self._deaf or self.transport.is_closing():
            self.transport.abort()
        elif self._reader is not None and self._reader.reading:
            self._refuse_rest(RequestTimeout("Nothing was done; send it again."))
        elif self._current is None:
            if self.transport.get_write_buffer_size() > 0:
                self.transport.abort()
            else:
                self.transport.close()

    def shutdown(self) -> None:
        """The server stops (edge.closing is set): what is answered from now on is the last."""
        reader = self._reader
        if self._current is None and reader is not None and reader.reading:
            # Told twice (when the stop begins and when it ends), it has no more time for that.
            left_s = self.due - time.monotonic()
            self._expect_within(min(self.edge.limits.stop_reading_s, left_s))

    def close_if_idle(self) -> None:
        """Close unless something is being answered or read."""
        reading = self._reader is not None and self._reader.reading
        if self._current is None and not reading and not self.transport.is_closing():
            self._close_soon()


def _told(answer: bytes) -> bytes:
    """The answer for a client of HTTP/1.0 whose connection is kept."""
    status, _, rest = answer.partition(b"\r\n")
    return b"%b\r\nconnection: keep-alive\r\n%b" % (status, rest)


def _problem_behind(error: httptools.HttpParserError) -> Problem:
    """What to say about a parser that stopped: a rule of ours, a bug of ours, or not HTTP."""
    cause = error.__context__
    if isinstance(cause, Refused):
        return cause.problem
    if isinstance(error, httptools.HttpParserCallbackError):
        log.error("bug", exc_info=cause or error)
        return InternalError()
    if "PRI/Upgrade" in str(error):
        return InvalidRequest("HTTP/2 is not spoken here.")
    return InvalidRequest(f"This is not HTTP: {error}.")
