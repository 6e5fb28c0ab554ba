"""Access as an ASGI application: local answers, and everything else passed on to business."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from services.access.forward import Forwarder, Incoming, may_have_happened
from services.access.health import Readiness
from services.access.routes import LOCAL, METHODS, SAFE, route_of
from services.access.tracing import names_of
from services.keepalive import Headers, Response
from services.problems import (
    GatewayTimeout,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Problem,
    Unavailable,
)
from services.settings import AccessSettings
from services.telemetry import logger, request_id_var

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGIReceiveCallable,
        ASGISendCallable,
        HTTPResponseBodyEvent,
        HTTPResponseStartEvent,
        HTTPScope,
        LifespanScope,
        Scope,
    )

log = logger(__name__)

NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


class Application:
    """What uvicorn runs. A request arrives whole (see protocol.py), so a body is one message."""

    def __init__(self, settings: AccessSettings) -> None:
        self._forwarder = Forwarder(settings)
        self._readiness = Readiness(self._forwarder.control)

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _live(
        self, _: LifespanScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._readiness.stopping = True
        await self._forwarder.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(
        self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        headers = cast(Headers, scope["headers"])
        request_id, traceparent, traced = names_of(headers)
        request_id_var.set(request_id.decode())
        try:
            path = scope["path"]
            if path in LOCAL:
                response = await self._local(scope["method"], path)
            elif path == "*":
                response = Response(204, [(b"allow", ", ".join(METHODS).encode())], b"")
            else:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return
                body = cast(bytes, event.get("body", b""))
                response = await self._forward(
                    scope, headers, body, request_id, traceparent, traced=traced
                )
        except Problem as problem:
            response = _rendered(problem, request_id)
        except asyncio.CancelledError:
            # The client left (and hears nothing), or the time for stopping is over.
            response = _rendered(_cut_short(scope, headers), request_id)
        except Exception:
            log.exception("bug", path=scope["path"])
            response = _rendered(InternalError(), request_id)
        await _answer(send, response, request_id)

    async def _local(self, method: str, path: str) -> Response:
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(headers={"allow": "GET, HEAD"})
        if path == "/ready" and not await self._readiness.ready():
            raise Unavailable("Business is not ready.", retry_after_s=1)
        body = b'{"status":"ready"}' if path == "/ready" else b'{"status":"live"}'
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(body)),
        ]
        return Response(200, headers, body)

    async def _forward(
        self,
        scope: HTTPScope,
        headers: Headers,
        body: bytes,
        request_id: bytes,
        traceparent: bytes,
        *,
        traced: bool,
    ) -> Response:
        method = scope["method"].encode()
        route = route_of(method, scope["path"])
        if route is None:
            raise NotFound
        query = scope["query_string"]
        client = scope["client"]
        incoming = Incoming(
            method=method,
            target=scope["raw_path"] + b"?" + query if query else scope["raw_path"],
            route=route,
            headers=headers,
            body=body,
            client=client[0].encode() if client else b"unknown",
            scheme=scope["scheme"].encode(),
            host=next((value for name, value in headers if name == b"host"), b""),
            deadline=scope["state"]["deadline"],
            request_id=request_id,
            traceparent=traceparent,
            traced=traced,
        )
        return await self._forwarder.forward(incoming)


def _cut_short(scope: HTTPScope, headers: Headers) -> Problem:
    method = scope["method"].encode()
    if method in SAFE:
        return Unavailable("This server is stopping.", retry_after_s=1)
    return GatewayTimeout(may_have_happened(route_of(method, scope["path"]), headers))


def _rendered(problem: Problem, request_id: bytes) -> Response:
    body = problem.body(request_id.decode())
    headers = [(name.encode(), value.encode()) for name, value in problem.headers().items()]
    headers.append((b"content-length", b"%d" % len(body)))
    return Response(problem.status, headers, body)


async def _answer(send: ASGISendCallable, response: Response, request_id: bytes) -> None:
    headers = [field for field in response.headers if field[0] != NO_SNIFF[0]]
    headers += ((b"x-request-id", request_id), NO_SNIFF)
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": response.status,
        "headers": headers,
        "trailers": False,
    }
    body: HTTPResponseBodyEvent = {
        "type": "http.response.body",
        "body": response.body,
        "more_body": False,
    }
    await send(start)
    await send(body)
