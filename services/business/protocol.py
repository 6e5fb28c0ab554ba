"""uvicorn's protocol, which answers what is held in memory as soon as the request's head is read.

No task, no scope and no routing for such an answer; every other request is uvicorn's, as ever.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.business.app import Gate
from services.joining import JoiningTransport

# A request with a body, or one that wants more than an answer, is read and answered by uvicorn.
NOT_PLAIN: Final = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade"))


class BusinessProtocol(HttpToolsProtocol):
    """One connection, of access most likely."""

    gate: ClassVar[Gate]

    @classmethod
    def behind(cls, gate: Gate) -> type[BusinessProtocol]:
        """The class uvicorn is given: it makes protocols without arguments of ours."""
        return type("GatedProtocol", (cls,), {"gate": gate})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answered = False  # the request being read, from memory
        self._heard_at = 0.0  # by the clock of the loop
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._default_lines = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joining = JoiningTransport(transport, self.loop)
        super().connection_made(self._joining)

    def on_message_begin(self) -> None:
        """The scope is made when it is known that there is an application to give it to."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        answer = self._from_memory()
        if answer is not None:
            self._answered = True
            self._joining.write_at_once(answer)
            self.server_state.total_requests += 1
            if self.timeout_keep_alive_task is None:
                self._watch(self.timeout_keep_alive)
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the list is in the scope
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._answered:
            self._answered = False
        else:
            super().on_message_complete()

    def _from_memory(self) -> bytes | None:
        """The answer, where it is this request's turn and it is a plain one that the gate lets in.

        What is wrong with any other is told by the gate or the handler.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # answers go out in the order of the requests
        if self.flow.write_paused or self.transport.is_closing():
            return None
        parser, fields = self.parser, dict(self.headers)
        if not parser.should_keep_alive() or parser.get_http_version() != "1.1":
            return None
        if len(fields) != len(self.headers) or not NOT_PLAIN.isdisjoint(fields):
            return None
        if not self.gate.lets_in(fields):
            return None
        return self.gate.held.answer(parser.get_method(), self.url, fields, self._first_lines())

    # One timer a connection, which looks when it was heard of last: a timer for each request, set
    # and cancelled, took a tenth of an answer from memory.

    def _unset_keepalive_if_required(self) -> None:
        """Called whenever something is read."""
        self._heard_at = self.loop.time()

    def _watch(self, seconds: float) -> None:
        handler = self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # uvicorn sets a timer after the answer
        left_s = self.timeout_keep_alive - (self.loop.time() - self._heard_at)
        if left_s > 0:
            self._watch(left_s)
        else:
            super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        super()._unset_keepalive_if_required()  # it sets another one
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super()._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _first_lines(self) -> bytes:
        """The server's own header lines; uvicorn makes a new list of them once a second."""
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:
            self._defaults = defaults
            self._default_lines = b"".join([b"%b: %b\r\n" % field for field in defaults])
        return self._default_lines
