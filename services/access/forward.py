"""Passing requests on to business: rebuilt from their parsed parts, never their bytes.

The usual request costs no task and no future: it is written to an idle connection of its class in
the callback in which it was read, and answered in the callback in which its answer was read. What
has to wait for anything (a place, a connection, a token to be looked up) takes a task.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from services.access.admission import Admission
from services.access.allowances import Allowances
from services.access.claims import Claim, claim_of, guest_digest, session_cookie
from services.access.client_address import Networks, client_of
from services.access.consistency import Tokens
from services.access.cross_site import Sites
from services.access.fields import Sorted, answer_lines, field_line
from services.access.gate import Outcome
from services.access.identities import Identities, Stream, Unasked
from services.access.identity import Identity, read_identity
from services.access.passage import KEYED, Passage
from services.access.routes import NOBODYS, SAFE, Route
from services.access.tracing import made_traceparent
from services.addresses import Addresses
from services.balance import Balance
from services.deadline import Deadline
from services.exchange import Repeatable
from services.keepalive import (
    AnswerTimedOut,
    ExchangeError,
    Headers,
    NotSent,
    PoolTimedOut,
    Response,
    SendTimedOut,
    UnsafeRequest,
)
from services.problems import (
    BadGateway,
    GatewayTimeout,
    InternalError,
    InvalidRequest,
    Problem,
    Unavailable,
)
from services.settings import AccessSettings
from services.telemetry import logger, request_id_var

log = logger(__name__)

# Business closes idle connections after 75 s; a connection is not used after most of that.
IDLE_S: Final = 60.0
# Business gets less time than access has, so that its own answer about lateness comes first.
HOP_MS: Final = 20
CONTROL_SIZE: Final = 8  # short reads of a millisecond: some 8,000 a second
LOOKUP_S: Final = 1.0  # one indexed read
DRAIN_S: Final = 0.7  # after the 1 s of the server's own, of the 3 s a stop may take
DRAIN_STEP_S: Final = 0.01
OVERLOADED: Final = frozenset((503, 504))  # what business answers when it could not keep up
PAGE: Final = Route.PAGE
# What business is told of every request. No part of it is as a client wrote it: each was checked
# by its pattern when it was read, or made here.
OWN: Final = (
    b"x-request-id: %b\r\ntraceparent: %b\r\nx-forwarded-host: %b\r\nx-forwarded-for: %b\r\n"
)


class Forwarder:
    """The connections to business, some for each class of traffic."""

    def __init__(
        self,
        settings: AccessSettings,
        admission: Admission,
        allowances: Allowances,
        proxies: Networks,
        stream: Stream,
    ) -> None:
        self._admission = admission
        self._allowances = allowances
        self._proxies = proxies
        self._behind_proxies = bool(proxies)
        self._gates = admission.gates
        self._secret = settings.internal_secret.get_secret_value().encode()
        scheme = b"https" if settings.access_tls_certificate else b"http"
        always = b"x-internal-secret: %b\r\nx-forwarded-proto: %b\r\n" % (self._secret, scheme)
        self._own = always.replace(b"%", b"%%") + OWN
        self.addresses = Addresses(settings.business_urls)

        def pool(size: int) -> Balance:
            return Balance(self.addresses, size=size, idle_s=IDLE_S, hop_ms=HOP_MS)

        self.pools = {
            Route.PAGE: pool(settings.page_pool_size),
            Route.CHECKOUT: pool(settings.checkout_pool_size),
            Route.PAYMENT: pool(settings.payment_pool_size),
            Route.LOGIN: pool(settings.login_pool_size),
            Route.OTHER: pool(settings.other_pool_size),
        }
        self.pools[Route.OPERATOR] = self.pools[Route.BEACON] = self.pools[Route.OTHER]
        self.pools[Route.WEBHOOK] = self.pools[Route.PAYMENT]
        # Identities and readiness: short reads that no other class may hold up.
        self.control = pool(CONTROL_SIZE)
        self.identities = Identities(self._identity_by_digest, stream)
        self.session_cookie = session_cookie(secure=settings.cookie_secure)
        self._sites = Sites(settings.origins)
        self._tokens = Tokens(settings)
        self._live: set[Passage] = set()

    def start(self, passage: Passage, route: Route) -> None:
        """Pass a request on; its client is answered once, maybe before this returns."""
        passage.route = route
        passage.carrier = self
        self._live.add(passage)
        try:
            fields = passage.sorted = Sorted(passage.headers, passage.passed)
            passage.request_id = fields.request_id
            passage.address = passage.client.address if passage.client is not None else ""
            if self._behind_proxies:
                passage.address = client_of(passage.address, passage.headers, self._proxies)
            found = None if route in NOBODYS else self._who(passage, route, fields)
            now = time.monotonic()
            if not isinstance(found, Unasked):
                passage.identity = found
            if route in self._allowances.limited:
                refusal = self._allowances.take(route, passage.address, passage.customer_id, now)
                if refusal is not None:
                    raise refusal.problem()
            if isinstance(found, Unasked):
                self._take_time(passage, None)
            elif self._gates[route].try_enter():
                self._send(passage, route, fields, now)
            else:
                self._admission.join(route, passage.deadline, _Place(self, passage))
        except Problem as problem:
            self._refuse(passage, problem, "ignored")

    def _send(self, passage: Passage, route: Route, fields: Sorted, now: float) -> None:
        """To business, now that admission has let it in: at once if a connection is idle."""
        passage.admitted_at = now
        headers = self._headers(passage, fields)
        try:
            begun = self.pools[route].begin(
                passage.method,
                passage.target,
                headers,
                passage.body,
                own=fields.own,
                deadline=passage.deadline,
                caller=passage,
            )
        except ExchangeError as error:
            # Not at once: its place goes to the next in line, within whose turn this may be, and
            # a line of such requests would be a recursion.
            asyncio.get_running_loop().call_soon(self.failed, passage, error)
            return
        if not begun:
            self._take_time(passage, headers)

    def leave(self, passage: Passage) -> None:
        """The client has gone: the work ends with it, unless an order or payment has begun."""
        if passage.over:
            return
        passage.client = None
        if passage.route in KEYED and passage.admitted_at:
            return
        task, route = passage.task, passage.route
        self._end(passage, "ignored", time.monotonic())
        if task is not None:
            task.cancel()
        elif route is not None:
            self.pools[route].abandon(passage)

    def give_up(self, passage: Passage) -> None:
        """Somebody else answers this request."""
        if passage.carrier is not None and not passage.over:
            self._end(passage, "ignored", time.monotonic())

    async def fetch_page(self, target: bytes, extra: Headers, deadline: Deadline) -> Response:
        """A page as business has it for everybody: nothing of a client's goes along but its id."""
        if not self._admission.try_enter(Route.PAGE):
            await self._admission.enter(Route.PAGE, deadline)
        began_at = time.monotonic()
        traceparent = made_traceparent()
        # In the task of the fetch it is that of the client who asked first.
        request_id = request_id_var.get().encode() or traceparent[3:35]
        headers = [
            *extra,
            (b"accept", b"*/*"),
            (b"x-internal-secret", self._secret),
            (b"x-request-id", request_id),
            (b"traceparent", traceparent),
        ]
        outcome: Outcome = "ignored"
        try:
            answer = await self.pools[Route.PAGE].request(
                b"GET", target, headers, deadline=deadline
            )
            outcome = outcome_of(answer)
        except ExchangeError as error:
            outcome = outcome_of_failure(error)
            raise problem_of(error) from error
        finally:
            self._admission.leave(Route.PAGE, time.monotonic() - began_at, outcome)
        # A problem in its body is told with the id that business knows, to everybody who waited.
        answer.headers.append((b"x-request-id", request_id))
        return answer

    async def aclose(self) -> None:
        """Let orders and payments that have begun end, for a moment; then end everything."""
        give_up_at = time.monotonic() + DRAIN_S
        while any(one.route in KEYED for one in self._live) and time.monotonic() < give_up_at:  # noqa: ASYNC110 - each ends in a callback, and none knows whether it is the last
            await asyncio.sleep(DRAIN_STEP_S)
        for passage in list(self._live):
            self._refuse(passage, passage.cut_short(), "ignored")
            if passage.task is not None:
                passage.task.cancel()
        for pool in {*self.pools.values(), self.control}:
            await pool.aclose()
        await self.addresses.aclose()

    # What admission calls

    def let_in(self, passage: Passage) -> None:
        if passage.route is not None and passage.sorted is not None:
            self._send(passage, passage.route, passage.sorted, time.monotonic())

    def turned_away(self, passage: Passage, error: Exception) -> None:
        if not isinstance(error, Problem):
            raise error
        self._refuse(passage, error, "ignored")

    # What a pool calls (through the passage)

    def arrived(self, passage: Passage, answer: Response) -> None:
        client, status, now = passage.client, answer.status, time.monotonic()
        passage.over = True  # as _end()
        self._live.discard(passage)
        if passage.admitted_at and passage.route is not None:
            outcome: Outcome = "dropped" if status in OVERLOADED else "ok"
            self._gates[passage.route].leave(now - passage.admitted_at, outcome, now)
        if passage.route is Route.LOGIN and passage.identity is not None:
            # What it has ended is over here before its client knows; elsewhere when it is told.
            self.identities.forget(passage.identity.customer_id)
        if client is not None:
            lines = answer_lines(answer, to_head=passage.method == b"HEAD")
            if passage.route is not PAGE:
                more = self._tokens.given(answer, passage.sorted, wrote=not passage.is_safe())
                more += self._limits_of(passage)
                lines += b"".join([field_line(field) for field in more])
            client.send(passage, status, lines, answer.body, now)

    def failed(self, passage: Passage, error: BaseException) -> None:
        if not isinstance(error, ExchangeError):
            raise error
        begun = passage.task is None
        if begun and isinstance(error, Repeatable) and passage.sorted is not None:
            self._take_time(passage, passage.sorted.passed)  # once more, on a fresh connection
            return
        self._refuse(passage, problem_of(error, passage.advice()), outcome_of_failure(error))

    # Parts of it

    def _who(self, passage: Passage, route: Route, fields: Sorted) -> Identity | Unasked | None:
        """Whose request it is, as far as that is known; raises what is wrong with how it says so.

        A login is no other site's to send either, though no cookie vouches for it: it would have
        the browser act for somebody else from then on.
        """
        claim = self._claim(fields)
        trusting = not claim.bearer and (claim.token is not None or route is Route.LOGIN)
        if trusting and passage.method not in SAFE:
            self._sites.check(passage.headers, passage.host)
        return self.identities.known(claim)

    def _claim(self, fields: Sorted) -> Claim:
        return claim_of(fields.authorizations, fields.cookies, self.session_cookie)

    def _take_time(self, passage: Passage, headers: Headers | None) -> None:
        passage.task = asyncio.get_running_loop().create_task(self._pass_on(passage, headers))

    async def _pass_on(self, passage: Passage, headers: Headers | None) -> None:
        request_id_var.set(passage.request_id.decode())
        try:
            answer = await self._answer_of(passage, headers)
        except Problem as problem:
            self._refuse(passage, problem, "ignored")
        except ExchangeError as error:
            if not passage.over:
                self.failed(passage, error)
        except Exception:
            log.exception("bug", target=passage.target.decode("latin-1"))
            self._refuse(passage, InternalError(), "ignored")
        else:
            if not passage.over:
                self.arrived(passage, answer)

    async def _answer_of(self, passage: Passage, headers: Headers | None) -> Response:
        route, fields = passage.route, passage.sorted
        if route is None or fields is None:
            raise RuntimeError("a request is passed on before its route is known")
        if headers is None:
            if route not in NOBODYS:
                claim = self._claim(fields)
                passage.identity = await self.identities.identity_of(claim, passage.deadline)
            if not self._admission.try_enter(route):
                await self._admission.enter(route, passage.deadline)
            passage.admitted_at = time.monotonic()
            headers = self._headers(passage, fields)
        return await self.pools[route].request(
            passage.method,
            passage.target,
            headers,
            passage.body,
            own=fields.own,
            deadline=passage.deadline,
        )

    def _limits_of(self, passage: Passage) -> Headers:
        """RateLimit fields, for a class whose limits all processes share."""
        route = passage.route
        if route is None or not self._allowances.shares(route):
            return []
        now = time.monotonic()
        limits = self._allowances.headers(route, passage.address, passage.customer_id, now)
        return [(name.encode(), value.encode()) for name, value in limits.items()]

    def _headers(self, passage: Passage, fields: Sorted) -> Headers:
        """The client's fields that go on and what it is known by; fields.own is the rest."""
        fields.own = fields.lines + self._own % (
            fields.request_id,
            fields.traceparent,
            passage.host,
            passage.address.encode(),
        )
        headers = fields.passed
        identity = passage.identity
        if identity is not None:
            headers += identity.fields
            headers += self._tokens.shown(fields, identity.customer_id)
        if passage.route is Route.LOGIN and fields.cookies:
            digest = guest_digest(fields.cookies)
            if digest is not None:  # whose cart and orders may come along
                headers.append((b"x-guest-token-sha256", digest.encode()))
        return headers

    def _refuse(self, passage: Passage, problem: Problem, outcome: Outcome) -> None:
        if passage.over:
            return
        client = passage.client
        self._end(passage, outcome, time.monotonic())
        if client is not None:
            client.refuse(passage, problem)

    def _end(self, passage: Passage, outcome: Outcome, now: float) -> None:
        passage.over = True
        self._live.discard(passage)
        if passage.admitted_at and passage.route is not None:
            self._gates[passage.route].leave(now - passage.admitted_at, outcome, now)

    async def _identity_by_digest(
        self, digest: str, position: int, deadline: Deadline
    ) -> Identity | None:
        deadline = deadline.within(LOOKUP_S)
        headers = [(b"x-internal-secret", self._secret)]
        if position:
            headers.append((b"x-internal-min-position", b"%d" % position))
        target = b"/internal/identities/" + digest.encode()
        try:
            answer = await self.control.request(b"GET", target, headers, deadline=deadline)
        except ExchangeError as error:
            raise problem_of(error) from error
        if answer.status == 200:
            return read_identity(answer.body)
        if answer.status == 404:
            return None
        raise Unavailable("The token could not be checked.", retry_after_s=1)


class _Place:
    """A request in the line of admission; called as a future would be, without being one."""

    __slots__ = ("_forwarder", "_passage")

    def __init__(self, forwarder: Forwarder, passage: Passage) -> None:
        self._forwarder = forwarder
        self._passage = passage

    def done(self) -> bool:
        return self._passage.over

    def set_result(self, _: None) -> None:
        self._forwarder.let_in(self._passage)

    def set_exception(self, error: Exception) -> None:
        self._forwarder.turned_away(self._passage, error)


def outcome_of(answer: Response) -> Outcome:
    """What an answer says about the load of business, for the limit on requests to it."""
    return "dropped" if answer.status in OVERLOADED else "ok"


def outcome_of_failure(error: ExchangeError) -> Outcome:
    """The same of a request without an answer: a server that is late has too much to do, one that
    is gone or breaks off says nothing about it."""
    late = isinstance(error, AnswerTimedOut | SendTimedOut | PoolTimedOut)
    return "dropped" if late else "ignored"


def problem_of(error: ExchangeError, advice: str = "") -> Problem:
    """What a client is told about a request without an answer; advice: for when it was sent."""
    if isinstance(error, UnsafeRequest):
        return InvalidRequest("The request has characters that can not be passed on.")
    if isinstance(error, NotSent):
        return Unavailable("Nothing was done; try again.", retry_after_s=1)
    if isinstance(error, AnswerTimedOut | SendTimedOut):
        return GatewayTimeout(advice)
    return BadGateway(advice)
