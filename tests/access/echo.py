"""Business as uvicorn reads it: an application that says which request it got, and remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

PAGES: Final = b'{"pages":[]}'
NUMBER: Final = b"x-echo"  # in every answer: which of the remembered requests it is for
ITS_OWN: Final = frozenset((b"/internal/pages", b"/ready"))  # what access asks on its own account


@dataclass(frozen=True)
class Got:
    """A request as the application got it; header names are lower-case."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Echo:
    """An ASGI application whose answer is the request, and every byte its server has read."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.read: dict[int, bytearray] = {}  # by connection

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            event = await receive()
            assert event["type"] == "http.request"
            body += event["body"]
            more = event["more_body"]
        if scope["raw_path"] in ITS_OWN:
            answer, headers = PAGES, []
        else:
            query = scope["query_string"]
            target = scope["raw_path"] + (b"?" + query if query else b"")
            got = Got(scope["method"].encode(), target, list(scope["headers"]), body)
            answer = b" ".join((got.method, got.target, body))
            headers = [(NUMBER, b"%d" % len(self.got))]
            self.got.append(got)
        headers.append((b"content-length", b"%d" % len(answer)))
        await send(
            {"type": "http.response.start", "status": 200, "headers": headers, "trailers": False}
        )
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    def config(self) -> uvicorn.Config:
        """uvicorn's own protocol, which business has, and keeps what it is given to read."""
        read = self.read

        class Overheard(HttpToolsProtocol):
            def data_received(self, data: bytes) -> None:
                read.setdefault(id(self), bytearray()).extend(data)
                super().data_received(data)

        return uvicorn.Config(
            self,
            http=Overheard,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_keep_alive=600,  # longer than a run: no exchange has to be repeated
        )

    def forget(self) -> tuple[list[Got], list[bytes]]:
        """What was got and read since the last time."""
        got, read = self.got[:], [bytes(data) for data in self.read.values()]
        self.got.clear()
        self.read.clear()
        return got, read
