"""One request on its way through access, and its answer on the way back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

from services.access.routes import SAFE, Route
from services.deadline import Deadline
from services.exchange import Headers, Response
from services.problems import GatewayTimeout, Problem, Unavailable

if TYPE_CHECKING:
    from services.access.fields import Sorted
    from services.access.identity import Identity

# Where business takes an Idempotency-Key. Elsewhere what is sent again is done again. What has
# begun there goes on when its client leaves.
KEYED: Final = frozenset((Route.CHECKOUT, Route.PAYMENT))
KEYLESS: Final = b"/carts"  # of the class checkout, but business takes no key there


class Client(Protocol):
    """The connection that a request came from."""

    @property
    def address(self) -> str: ...

    @property
    def scheme(self) -> str: ...

    def answer(self, passage: Passage, status: int, fields: Headers, body: bytes) -> None:
        """Send the answer: fields without those that belong to the connection or every answer."""

    def send(self, passage: Passage, status: int, lines: bytes, body: bytes, now: float) -> None:
        """The same for fields that are lines already, each with its end; now: monotonic."""

    def refuse(self, passage: Passage, problem: Problem) -> None: ...

    def send_ready(self, passage: Passage, data: bytes) -> None:
        """Send a held page: head and body as they are."""


class Carrier(Protocol):
    """Who passes requests on."""

    def arrived(self, passage: Passage, answer: Response) -> None: ...

    def failed(self, passage: Passage, error: BaseException) -> None: ...


class Request(Protocol):
    """A request that has been read, by a reader or without one."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    host: bytes
    accept_encoding: bytes
    if_none_match: bytes
    passed: bytes | None  # what goes on of the headers as lines, where that is known

    @property
    def old(self) -> bool:
        """Of HTTP/1.0: who asks for its connection to be kept has to be told that it is."""


class Passage:
    """The request as parsed parts, header names in lower case, and how far it has come.

    It is what a pool calls back (services.keepalive.Caller): set_result, set_exception, done.
    """

    __slots__ = (
        "accept_encoding",
        "address",
        "admitted_at",
        "body",
        "carrier",
        "client",
        "deadline",
        "headers",
        "host",
        "identity",
        "if_none_match",
        "keep_alive",
        "method",
        "old",
        "over",
        "passed",
        "request_id",
        "route",
        "sorted",
        "started_at",
        "target",
        "task",
    )

    def __init__(
        self, client: Client, request: Request, *, keep_alive: bool, timeout_s: float
    ) -> None:
        """request: what has just been read. Its deadline begins now: how slowly a client sends
        must not decide how long business has.
        """
        self.client: Client | None = client
        self.method = request.method
        self.target = request.target
        self.headers = request.headers
        self.body = request.body
        self.host = request.host
        self.passed = request.passed
        self.accept_encoding = request.accept_encoding
        self.if_none_match = request.if_none_match
        self.keep_alive = keep_alive
        self.old = request.old
        self.started_at = now = time.monotonic()
        self.deadline = Deadline(now + timeout_s)
        self.route: Route | None = None
        self.sorted: Sorted | None = None
        self.identity: Identity | None = None  # until it is known, and of nobody
        self.carrier: Carrier | None = None
        self.task: asyncio.Task[None] | None = None
        self.admitted_at = 0.0  # 0.0: admission has not let it in
        self.request_id = b""
        self.address = ""  # the client's, behind trusted proxies
        self.over = False

    # What a pool calls

    def done(self) -> bool:
        return self.over

    def set_result(self, answer: Response) -> None:
        if self.carrier is not None and not self.over:
            self.carrier.arrived(self, answer)

    def set_exception(self, error: BaseException) -> None:
        if self.carrier is not None and not self.over:
            self.carrier.failed(self, error)

    # What there is to say about it

    @property
    def customer_id(self) -> str | None:
        return None if self.identity is None else self.identity.customer_id

    def is_safe(self) -> bool:
        return self.method in SAFE

    def advice(self) -> str:
        """What to do about this request, once it was sent and nobody here knows the outcome."""
        if self.is_safe():
            return ""
        keyed = self.route in KEYED and not self.target.startswith(KEYLESS)
        if keyed and any(name == b"idempotency-key" for name, _ in self.headers):
            return "It may have happened; ask with the same Idempotency-Key."
        return "It may have happened; look before you send it again."

    def cut_short(self) -> Problem:
        """What its client is told when this server stops before there is an answer."""
        if self.is_safe() or not self.admitted_at:
            return Unavailable("This server is stopping.", retry_after_s=1)
        return GatewayTimeout(self.advice())
