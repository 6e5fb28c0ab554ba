"""The application of business: routes, the gate in front of them, and errors as problems."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from services.bulkhead import current_traffic
from services.business import answers, openapi, pictures
from services.business.counts import OTHER, Counts
from services.business.endpoints import INTERNAL, PUBLIC, Endpoint, Handler
from services.business.held import HeldPages
from services.business.requests import find_customer, read_seen
from services.business.routing import RouteTable
from services.business.shop import Shop, open_shop
from services.data.session import Session, current_session
from services.data.store import schema_version
from services.deadline import DEADLINE_HEADER, Deadline, DeadlineExceeded, current_deadline
from services.problems import (
    Forbidden,
    GatewayTimeout,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
    Problem,
    Unavailable,
    catalogue,
)
from services.settings import BusinessSettings
from services.telemetry import logger, request_id_var

log = logger(__name__)

# Reached without the internal secret: they tell an orchestrator how this process is, no more.
OPEN_PATHS: Final = frozenset(("/live", "/ready"))
SAFE: Final = ("GET", "HEAD")
READY_TIMEOUT_S: Final = 0.5
ROUTE: Final = "tercet.route"  # in the scope: the path of the route that was found
DAY_CACHE: Final = "public, max-age=86400, s-maxage=86400"
PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'"


def create_app(settings: BusinessSettings) -> Gate:
    """Business as an ASGI application; its dependencies are opened by the lifespan."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_shop(settings) as shop:
            app.state.shop = shop
            gate.held, gate.counts = shop.held, shop.counts
            yield

    app = Starlette(
        routes=[*_routes(), *_pages(settings)],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # /products/ is not a page: one address a thing
    gate = Gate(app, settings)
    return gate


class Gate:
    """Lets in who shows the internal secret, bounds each request by its deadline, and counts.

    held: what the server may answer by itself to whom the gate lets in.
    """

    def __init__(self, app: Starlette, settings: BusinessSettings) -> None:
        self.held = HeldPages()
        self.counts = Counts()
        self._app = app
        self._table = RouteTable(_routes())
        self._limit_s = settings.request_timeout_ms / 1000
        secrets = (settings.internal_secret, settings.internal_secret_previous)
        self._secrets = [s.get_secret_value().encode() for s in secrets if s is not None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at, status = time.monotonic(), 0

        async def seen(event: Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            await self._serve(scope, receive, seen)
        finally:
            route = scope.get(ROUTE, OTHER)
            self.counts.answered(route, status, time.monotonic() - began_at)

    @property
    def shop(self) -> Shop:
        """What its lifespan has opened."""
        shop: Shop = self._app.state.shop
        return shop

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request_id_var.set(headers.get(b"x-request-id", b"").decode("latin-1"))
        if scope["path"] not in OPEN_PATHS and not self.lets_in(headers):
            await answers.problem(Forbidden())(scope, receive, send)
            return
        value = headers.get(DEADLINE_HEADER.encode())
        deadline = Deadline.from_header(
            value.decode("latin-1") if value is not None else None, limit_s=self._limit_s
        )
        current_deadline.set(deadline)
        found = self._table.find(scope["method"], scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        answer, scope["path_params"] = found
        scope["app"] = self._app
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)

    def lets_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """Compares with every secret in constant time, so that no timing tells of it."""
        shown = headers.get(b"x-internal-secret")
        if shown is None:
            return False
        known = False
        for secret in self._secrets:
            known |= hmac.compare_digest(shown, secret)
        return known


def _routes() -> list[Route]:
    """One Starlette route a path, so that a wrong method is told all that are allowed."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in (*PUBLIC, *INTERNAL):
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [
        Route(path, _dispatch(path, by_method), methods=sorted(by_method))
        for path, by_method in by_path.items()
    ]


def _dispatch(
    path: str, by_method: dict[str, Endpoint]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        request.scope[ROUTE] = path
        asked = by_method["GET" if request.method == "HEAD" else request.method]
        current_traffic.set(asked.traffic)
        session = Session()
        current_session.set(session)
        try:
            session.customer_id, session.needed = find_customer(request), read_seen(request)
            response = await _within_deadline(asked.handler, request)
        except Exception as error:
            named = named_problem(error)
            if named is None:
                log.exception("request failed", path=request.url.path, method=request.method)
            response = answers.problem(named or InternalError())
            # Of the others it is known that nothing was done.
            if request.method not in SAFE and isinstance(named, OutcomeUnknown | GatewayTimeout):
                session.lost_sight()
        answers.show_session(response, session)
        return response

    return endpoint


async def _within_deadline(handler: Handler, request: Request) -> Response:
    """At the deadline the handler is cancelled, and with it the statement it waits for."""
    deadline = current_deadline.get()
    shop: Shop = request.app.state.shop
    async with asyncio.timeout(None if deadline is None else deadline.left_s()):
        return await handler(shop, request)


def named_problem(error: Exception) -> Problem | None:
    """The problem that an exception stands for; None for a bug."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, (DeadlineExceeded, TimeoutError)):
        return GatewayTimeout()
    if isinstance(error, ClientDisconnect):  # in the middle of its body: nobody hears the answer
        return InvalidRequest("The request ended before its body did.")
    if isinstance(error, ExceptionGroup):
        named = [named_problem(inner) for inner in error.exceptions]
        return next((problem for problem in named if problem is not None), None)
    return None


async def _http_error(_: Request, error: Exception) -> Response:
    """What Starlette's router refuses by itself."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        return answers.problem(MethodNotAllowed(headers=dict(error.headers or {})))
    return answers.problem(NotFound())


def _pages(settings: BusinessSettings) -> list[Route]:
    """What is served beside the API: the document, the pages about it, pictures, health."""
    document = openapi.document_bytes()
    pages = [
        Route("/live", _live),
        Route("/ready", _ready),
        Route("/openapi.json", _constant(document, "application/json")),
        Route("/problems/{name}", _problem_pages()),
        Route("/pictures/{name}.svg", _show_picture),
    ]
    if settings.docs:
        html = openapi.docs_page().encode()
        pages += [
            Route("/docs", _constant(html, "text/html; charset=utf-8")),
            Route("/", _to_docs),
        ]
    return pages


def _constant(body: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        headers = {"cache-control": "public, max-age=60", "content-security-policy": PAGE_POLICY}
        return Response(body, media_type=media_type, headers=headers)

    return endpoint


async def _to_docs(_: Request) -> Response:
    return RedirectResponse("/docs", 307)


async def _live(_: Request) -> Response:
    return PlainTextResponse("live\n", headers={"cache-control": "no-store"})


async def _ready(request: Request) -> Response:
    """Ready when something can be read: pages go on without a primary, orders say so."""
    try:
        current_deadline.set(Deadline.after(READY_TIMEOUT_S))
        version = await schema_version(request.app.state.shop.database.reads)
    except Problem as error:
        return answers.problem(error)
    except Exception as error:  # no schema yet, a wrong password: not ready, and why is in the log
        log.warning("not ready", error=repr(error))
        return answers.problem(Unavailable("The database is not ready.", retry_after_s=1))
    return PlainTextResponse(f"ready, schema {version}\n", headers={"cache-control": "no-store"})


def _problem_pages() -> Callable[[Request], Awaitable[Response]]:
    """Rendered once: a template is a file, and nothing is read from a disk on the event loop."""
    pages = {kind.name: openapi.problem_page(kind).encode() for kind in catalogue()}

    async def endpoint(request: Request) -> Response:
        page = pages.get(request.path_params["name"])
        if page is None:
            return answers.problem(NotFound("There is no problem of this name."))
        headers = {"cache-control": "public, max-age=60", "content-security-policy": PAGE_POLICY}
        return HTMLResponse(page, headers=headers)

    return endpoint


async def _show_picture(request: Request) -> Response:
    name = request.path_params["name"]
    if not pictures.is_name(name):
        return answers.problem(NotFound("There is no picture of this name."))
    headers = {"cache-control": DAY_CACHE, "content-security-policy": PAGE_POLICY}
    return Response(pictures.draw(name), media_type="image/svg+xml", headers=headers)
