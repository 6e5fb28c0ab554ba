"""uvicorn's httptools protocol as access needs it: strict about framing, bounded, and patient.

A request reaches the application only when it is whole, so nothing malformed is ever passed on.
What can not be served is answered here, after the answers to earlier requests on the connection.
Held pages and forwarding without an ASGI scope will be answered in on_message_complete.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from services.access.cycle import AnswerCycle, answer_head
from services.access.framing import (
    Refused,
    check_framing,
    path_of,
    target_of,
    too_long,
)
from services.access.tracing import names_of
from services.deadline import Deadline
from services.problems import (
    HeadersTooLarge,
    InvalidRequest,
    Problem,
    RequestTimeout,
    UriTooLong,
)

URL_LIMIT_BYTES: Final = 8_192  # what browsers and CDNs agree on; RFC 9110 4.1 asks for 8000
HEAD_LIMIT_BYTES: Final = 32_768  # a browser's full cookie jar for one site fits
FIELDS_LIMIT: Final = 100
# Absolute, not per read: one byte every two seconds is not progress (reliability.md, B9 to B11).
HEAD_LIMIT_S: Final = 10.0  # from a request's first byte; and for a first byte to come at all
BODY_LIMIT_S: Final = 20.0  # from the end of the head
# Framing of a chunked body, beyond its content: tiny chunks are fine, long extensions are not.
CHUNK_OVERHEAD_BYTES: Final = 65_536
# After a refusal what still comes is read and thrown away for a while: closing at once would
# reset the connection and could destroy the answer before the client has read it.
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1_048_576
STOP_READING_S: Final = 1.0  # for a request half read when the server stops, of 3 s in all


class AccessProtocol(HttpToolsProtocol):
    """One client connection. Bound to its limits by `limited_to`."""

    body_limit_bytes = 65_536
    timeout_s = 5.0

    @classmethod
    def limited_to(cls, *, body_limit_bytes: int, timeout_s: float) -> type[AccessProtocol]:
        """The class uvicorn is given: it makes protocols without arguments of ours."""
        limits = {"body_limit_bytes": body_limit_bytes, "timeout_s": timeout_s}
        return type("LimitedAccessProtocol", (cls,), limits)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._task: asyncio.Task[None] | None = None
        self._running: RequestResponseCycle | None = None  # self.cycle is the newest, maybe queued
        self._stopping = False
        self._reading = False  # between the first byte of a request and its last
        self._head_done = False
        self._fed_bytes = 0  # in reads after the one in which the current part began
        self._timer: asyncio.TimerHandle | None = None
        self._deaf = False  # nothing that comes from now on is a request
        self._discarded_bytes = 0
        self._refusal: Problem | None = None
        self.headers = []

    # What the transport says

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(HEAD_LIMIT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._deaf = True
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._running is not None:
            self._running.disconnected = True
        if self._task is not None:
            self._task.cancel()  # nobody waits for the answer; forward.py shields what must go on

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._deaf:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        went_on = self._reading
        head_was_done = self._head_done
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.problem if isinstance(cause, Refused) else _malformed(error))
            return
        except httptools.HttpParserUpgrade:
            self._deaf = True  # the request was taken without its Upgrade, and is the last
            return
        self._after_feed(len(data), went_on=went_on, head_was_done=head_was_done)

    def _after_feed(self, size_bytes: int, *, went_on: bool, head_was_done: bool) -> None:
        """Bound what the parser itself does not: a field or a chunk that never ends."""
        if not self._reading:
            if not self._all_answered():
                self._disarm()
            elif self._timer is None:
                self._arm(HEAD_LIMIT_S)  # empty lines before a request that does not come
            return
        if went_on and head_was_done == self._head_done:
            self._fed_bytes += size_bytes
        limit_bytes = (
            len(self._body) + CHUNK_OVERHEAD_BYTES
            if self._head_done
            else HEAD_LIMIT_BYTES + URL_LIMIT_BYTES
        )
        if self._fed_bytes > limit_bytes:
            self._refuse(
                InvalidRequest("The chunks are mostly framing.")
                if self._head_done
                else HeadersTooLarge()
            )
        elif self._timer is None:
            self._arm(HEAD_LIMIT_S)

    # What the parser says

    def on_message_begin(self) -> None:
        self._disarm()  # the time of this head begins now, whatever ran until here
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._reading = True
        self._head_done = False
        self._head_bytes = 0
        self._fed_bytes = 0
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > URL_LIMIT_BYTES:
            raise Refused(UriTooLong(f"At most {URL_LIMIT_BYTES} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_LIMIT_BYTES or len(self.headers) >= FIELDS_LIMIT:
            raise Refused(
                HeadersTooLarge(f"At most {HEAD_LIMIT_BYTES} bytes and {FIELDS_LIMIT} fields.")
            )
        if self._head_done:
            return  # a trailer counts, and is dropped: it could name anything
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        self._head_done = True
        self._fed_bytes = 0
        self._method = self.parser.get_method().decode("ascii")
        self._version = self.parser.get_http_version()
        has_body = check_framing(
            self.headers, self._version, body_limit_bytes=self.body_limit_bytes
        )
        self.url, authority = target_of(self._method, self.url)
        if authority is not None:  # it takes the place of Host (RFC 9112 3.2.2)
            self.headers = [field for field in self.headers if field[0] != b"host"]
            self.headers.append((b"host", authority))
        self._path = path_of(self.url)
        if self.parser.should_upgrade() and has_body:
            raise Refused(InvalidRequest("A request with Upgrade has no body here."))
        if has_body:
            self._arm(BODY_LIMIT_S)
            if self.expect_100_continue and self._version == "1.1" and self._all_answered():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self.body_limit_bytes:
            raise Refused(too_long(self.body_limit_bytes))

    def on_message_complete(self) -> None:
        self._reading = False
        # From here: how slowly a client sends must not decide how long business has.
        self._deadline = Deadline.after(self.timeout_s)
        if self._deaf:
            return
        keep_alive = (
            self._version == "1.1"
            and not self._stopping
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
        )
        self._deaf = not keep_alive
        cycle = self._cycle(keep_alive)
        answered = self._all_answered()
        self.cycle = cycle
        if answered:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    # Answers

    def _all_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _cycle(self, keep_alive: bool) -> AnswerCycle:
        path, _, query = self.url.partition(b"?")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": self._version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": self._method,
            "root_path": "",
            "path": self._path,
            "raw_path": path,
            "query_string": query,
            "headers": self.headers,
            "state": {"deadline": self._deadline},
        }
        cycle = AnswerCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body += self._body
        cycle.more_body = False
        cycle.message_event.set()
        self._body = b""
        return cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self._task = task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        self._task = self._running = None  # what follows an answer is not cancelled
        super().on_response_complete()
        if self._refusal is not None and self._all_answered():
            self._answer_refusal(self._refusal)

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem once every earlier request is answered, then close."""
        if self._deaf:
            return
        self._deaf = True
        self._reading = False
        self._disarm()
        if self._all_answered():
            self._answer_refusal(problem)
        else:
            self._refusal = problem

    def _answer_refusal(self, problem: Problem) -> None:
        self._unset_keepalive_if_required()
        self._refusal = None
        if self.transport.is_closing():
            return
        request_id, _, _ = names_of(self.headers)
        body = problem.body(request_id.decode())
        headers = [
            *self.server_state.default_headers,
            *[(name.encode(), value.encode()) for name, value in problem.headers().items()],
            (b"x-request-id", request_id),
            (b"x-content-type-options", b"nosniff"),
            (b"content-length", b"%d" % len(body)),
        ]
        head = answer_head(problem.status, headers, keep_alive=False)
        self.transport.write(head if self._is_head() else head + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._timer = self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            self.transport.close()

    def _is_head(self) -> bool:
        return self._head_done and self._method == "HEAD"

    # Time

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        """A request that does not come to its end is told so; where none began, nothing is."""
        self._timer = None
        if self._reading:
            self._refuse(RequestTimeout("Nothing was done; send it again."))
        elif self._all_answered():
            self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: what is being answered or read gets its answer, then close."""
        self._stopping = True
        if not self._all_answered():
            self.cycle.keep_alive = False
        elif self._reading:
            self._arm(STOP_READING_S)
        else:
            self.transport.close()


def _malformed(error: httptools.HttpParserError) -> Problem:
    return InvalidRequest(f"This is not HTTP: {error}.")
