"""Passing a request on to business: rebuilt from its parsed parts, never its bytes.

What business is told about the client is written here and nowhere else. X-Forwarded-For is the
address of the connection, X-Forwarded-Proto its scheme, X-Forwarded-Host the client's Host; what
a client says in those fields, in Forwarded or in X-Real-IP is dropped.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import orjson

from services.access.identity import Identities
from services.access.routes import SAFE, Route
from services.deadline import Deadline
from services.keepalive import (
    AnswerTimedOut,
    ExchangeError,
    Headers,
    NotSent,
    Pool,
    Response,
    SendTimedOut,
    UnsafeRequest,
)
from services.problems import (
    BadGateway,
    GatewayTimeout,
    InvalidRequest,
    Problem,
    Unavailable,
)
from services.settings import AccessSettings

# Business closes idle connections after 75 s; a connection is not used after most of that.
IDLE_S: Final = 60.0
# Business gets less time than access has, so that its own answer about lateness comes first.
HOP_MS: Final = 20
LOOKUP_S: Final = 1.0  # one indexed read
DRAIN_S: Final = 0.7  # after the 1 s of uvicorn's own, of the 3 s a stop may take

# RFC 9110 7.6.1, and the older ones that servers still act on.
HOP_BY_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"transfer-encoding", b"proxy-authenticate", b"proxy-authorization"),
        *(b"http2-settings", b"proxy-authentication-info"),
    )
)
# Names with which access or business speak to each other: from a client they are lies.
INTERNAL: Final = frozenset(
    (
        *(b"x-internal-secret", b"x-request-id", b"x-deadline-ms", b"x-customer-id"),
        *(b"traceparent", b"tracestate"),
    )
)
# Names by which some proxy or framework is told where a request came from or goes to.
ORIGIN: Final = frozenset(
    (
        *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip"),
        *(b"true-client-ip", b"cf-connecting-ip", b"fastly-client-ip", b"x-user-id"),
        *(b"x-original-url", b"x-rewrite-url", b"x-original-host", b"x-host"),
        *(b"x-http-method-override", b"x-http-method", b"x-method-override"),
    )
)
WRITTEN_BY_POOL: Final = frozenset((b"host", b"content-length", b"expect"))
NOT_ANSWERED: Final = frozenset(
    (b"server", b"date", b"x-powered-by", b"content-length", b"cache-tag")
)
CREDENTIALS: Final[dict[Route, frozenset[bytes]]] = {
    Route.PAGE: frozenset((b"authorization", b"cookie")),
    Route.OPERATOR: frozenset(),
    Route.CHECKOUT: frozenset((b"authorization",)),
    Route.PAYMENT: frozenset((b"authorization",)),
    Route.OTHER: frozenset((b"authorization",)),
}
# Where business takes an Idempotency-Key. Elsewhere a request that is sent again is done again.
KEYED: Final = frozenset((Route.CHECKOUT, Route.PAYMENT))


@dataclass(slots=True)
class Incoming:
    """A client's request as parsed parts; header names are lower-case."""

    method: bytes
    target: bytes  # path and query as sent
    route: Route
    headers: Headers
    body: bytes
    client: bytes  # address of the connection
    scheme: bytes
    host: bytes
    deadline: Deadline
    request_id: bytes
    traceparent: bytes
    traced: bool  # whether traceparent is the client's, so that its tracestate belongs to it


class Forwarder:
    """The connections to business, one pool for each class of traffic."""

    def __init__(self, settings: AccessSettings) -> None:
        self._secret = settings.internal_secret.get_secret_value().encode()
        url, pages = settings.business_url, settings.page_pool_size

        def pool(size: int) -> Pool:
            return Pool.to(url, size=size, idle_s=IDLE_S, hop_ms=HOP_MS)

        self.pools = {
            Route.PAGE: pool(pages),
            Route.CHECKOUT: pool(pages),
            Route.PAYMENT: pool(settings.payment_pool_size),
            Route.OTHER: pool(pages),
        }
        self.pools[Route.OPERATOR] = self.pools[Route.OTHER]
        # Identities and readiness: short reads that no other class may hold up.
        self.control = pool(pages)
        self.identities = Identities(self._customer_by_digest)
        self._begun: set[asyncio.Task[Response]] = set()

    async def forward(self, incoming: Incoming) -> Response:
        """Business' answer with its headers cleaned, or the Problem that says why there is none.

        A payment or order that has begun goes on when its client leaves: cancelling this does
        not cancel it.
        """
        customer_id = None
        if incoming.route not in (Route.PAGE, Route.OPERATOR):
            customer_id = await self.identities.customer_of(incoming.headers, incoming.deadline)
        if incoming.route not in (Route.PAYMENT, Route.CHECKOUT):
            return await self._send(incoming, customer_id)
        task = asyncio.create_task(self._send(incoming, customer_id))
        self._begun.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Let what has begun end, for a moment, then close every connection."""
        if self._begun:
            await asyncio.wait(self._begun, timeout=DRAIN_S)
        for pool in {*self.pools.values(), self.control}:
            await pool.aclose()

    async def _send(self, incoming: Incoming, customer_id: str | None) -> Response:
        headers = self._headers(incoming, customer_id)
        try:
            answer = await self.pools[incoming.route].request(
                incoming.method,
                incoming.target,
                headers,
                incoming.body,
                deadline=incoming.deadline,
            )
        except ExchangeError as error:
            safe = incoming.method in SAFE
            advice = "" if safe else may_have_happened(incoming.route, incoming.headers)
            raise problem_of(error, if_sent=advice) from error
        return Response(answer.status, answer_headers(incoming, answer), answer.body)

    def _headers(self, incoming: Incoming, customer_id: str | None) -> Headers:
        credentials = CREDENTIALS[incoming.route]
        named = connection_names(incoming.headers)
        headers = [
            field
            for field in incoming.headers
            if goes_on(field[0]) and field[0] not in credentials and field[0] not in named
        ]
        if incoming.traced:
            headers += [field for field in incoming.headers if field[0] == b"tracestate"]
        headers += (
            (b"x-internal-secret", self._secret),
            (b"x-request-id", incoming.request_id),
            (b"traceparent", incoming.traceparent),
            (b"x-forwarded-for", incoming.client),
            (b"x-forwarded-proto", incoming.scheme),
            (b"x-forwarded-host", incoming.host),
        )
        if customer_id is not None:
            headers.append((b"x-customer-id", customer_id.encode()))
        return headers

    async def _customer_by_digest(self, digest: str, deadline: Deadline) -> str | None:
        deadline = deadline.within(LOOKUP_S)
        headers = ((b"x-internal-secret", self._secret),)
        target = b"/internal/identities/" + digest.encode()
        try:
            answer = await self.control.request(b"GET", target, headers, deadline=deadline)
        except ExchangeError as error:
            raise problem_of(error) from error
        if answer.status == 200:
            return str(orjson.loads(answer.body)["customer_id"])
        if answer.status == 404:
            return None
        raise Unavailable("The token could not be checked.", retry_after_s=1)

    def _ended(self, task: asyncio.Task[Response]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # seen here, should the client have left


_goes_on: dict[bytes, bool] = {}  # decisions by header name; bounded, clients choose the names


def goes_on(name: bytes) -> bool:
    """Whether a client's header is passed on.

    A name with an underscore is not: a server that reads names as CGI does would take
    x_internal_secret for x-internal-secret.
    """
    decided = _goes_on.get(name)
    if decided is None:
        decided = not (
            name in HOP_BY_HOP
            or name in INTERNAL
            or name in ORIGIN
            or name in WRITTEN_BY_POOL
            or name.startswith((b"x-forwarded-", b"x-internal-", b"x-tercet-"))
            or b"_" in name
        )
        if len(_goes_on) < 1024:
            _goes_on[name] = decided
    return decided


def connection_names(headers: Headers) -> frozenset[bytes] | set[bytes]:
    """The header names that Connection declares to be for this hop only (RFC 9110 7.6.1)."""
    named = [value for name, value in headers if name == b"connection"]
    if not named:
        return frozenset()
    return {token.strip().lower() for value in named for token in value.split(b",")}


def answer_headers(incoming: Incoming, answer: Response) -> Headers:
    """The headers of business' answer that are for the client."""
    named = connection_names(answer.headers)
    headers = [
        field
        for field in answer.headers
        if field[0] not in NOT_ANSWERED
        and field[0] not in HOP_BY_HOP
        and field[0] not in INTERNAL
        and field[0] not in named
        and not field[0].startswith(b"x-internal-")
    ]
    if incoming.method == b"HEAD":
        length = answer.header(b"content-length")
        if length is not None:
            headers.append((b"content-length", length))
    elif answer.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(answer.body)))
    return headers


def may_have_happened(route: Route | None, headers: Headers) -> str:
    """What to do about an unsafe request whose outcome nobody here knows."""
    if route in KEYED and any(name == b"idempotency-key" for name, _ in headers):
        return "It may have happened; ask with the same Idempotency-Key."
    return "It may have happened; look before you send it again."


def problem_of(error: ExchangeError, *, if_sent: str = "") -> Problem:
    """What a client is told about a request without an answer; if_sent: when it was sent."""
    if isinstance(error, UnsafeRequest):
        return InvalidRequest("The request has characters that can not be passed on.")
    if isinstance(error, NotSent):
        return Unavailable("Nothing was done; try again.", retry_after_s=1)
    if isinstance(error, AnswerTimedOut | SendTimedOut):
        return GatewayTimeout(if_sent)
    return BadGateway(if_sent)
