"""What access answers itself, as an ASGI application: health, and OPTIONS * for all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from services.access.routes import METHODS
from services.access.tracing import names_of
from services.keepalive import Headers, Response
from services.problems import InternalError, MethodNotAllowed, Problem, Unavailable
from services.telemetry import logger, request_id_var

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGIReceiveCallable,
        ASGISendCallable,
        HTTPResponseBodyEvent,
        HTTPResponseStartEvent,
        Scope,
    )

    from services.access.edge import Edge

log = logger(__name__)

NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


class Application:
    """What uvicorn runs. The lifespan is that of the edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            request_id, _, _ = names_of(cast(Headers, scope["headers"]))
            request_id_var.set(request_id.decode())
            try:
                response = await self._local(scope["method"], scope["path"])
            except Problem as problem:
                response = _rendered(problem, request_id)
            except Exception:
                log.exception("bug", path=scope["path"])
                response = _rendered(InternalError(), request_id)
            self._edge.counts.local.add(response.status)
            await _answer(send, response, request_id)

    async def _live(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await self._edge.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._edge.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _local(self, method: str, path: str) -> Response:
        if path == "*":
            return Response(204, [(b"allow", ", ".join(METHODS).encode())], b"")
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(headers={"allow": "GET, HEAD"})
        if path == "/ready" and not await self._edge.readiness.ready():
            raise Unavailable("Business is not ready.", retry_after_s=1)
        body = b'{"status":"ready"}' if path == "/ready" else b'{"status":"live"}'
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(body)),
        ]
        return Response(200, headers, body)


def _rendered(problem: Problem, request_id: bytes) -> Response:
    body = problem.body(request_id.decode())
    headers = [(name.encode(), value.encode()) for name, value in problem.headers().items()]
    headers.append((b"content-length", b"%d" % len(body)))
    return Response(problem.status, headers, body)


async def _answer(send: ASGISendCallable, response: Response, request_id: bytes) -> None:
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": response.status,
        "headers": [*response.headers, (b"x-request-id", request_id), NO_SNIFF],
        "trailers": False,
    }
    body: HTTPResponseBodyEvent = {
        "type": "http.response.body",
        "body": response.body,
        "more_body": False,
    }
    await send(start)
    await send(body)
