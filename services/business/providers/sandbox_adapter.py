"""The adapter of the sandbox provider: its HTTP API behind the port of business/provider.py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
import msgspec

from services import upstream as limits
from services.business.provider import (
    Amount,
    Approved,
    ChargeLine,
    ChargeOrder,
    ChargeOutcome,
    Declined,
    Kind,
    Listed,
    Notice,
    NotSent,
    OperationLine,
    OperationOrder,
    PaymentProvider,
    Pending,
    Unknown,
    believed,
)
from services.business.providers.sandbox_books import (
    LIST_LINES,
    LIST_MAX_BYTES,
    charge_in,
    charges_in,
    operations_in,
)
from services.deadline import DEADLINE_HEADER, Deadline
from services.settings import BusinessSettings
from services.telemetry import logger
from services.transport import KeepAliveTransport
from services.upstream import Upstream

log = logger(__name__)

# What is kept of an answer: no NUL, which PostgreSQL can not hold, and not the whole of a flood.
Text = Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{1,200}\Z")]
ANSWER_MAX_BYTES: Final = 16_384  # a charge is 300 bytes, a problem not much more
# Little's law: 200 payments a second that take 0.3 s each keep 60 places busy.
CONCURRENT_CHARGES: Final = 64


class NextAction(msgspec.Struct, frozen=True):
    """Where the customer is sent: an address of the web, whatever the provider says."""

    type: Literal["redirect"]
    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[\x21-\x7e]{1,2000}\Z")]


class Charge(msgspec.Struct, frozen=True):
    """A charge as the sandbox answers it; what has another form than this is not believed."""

    charge_id: Text
    charge_key: Text
    status: Literal["approved", "declined", "pending"]
    amount_minor: Annotated[int, msgspec.Meta(ge=0, le=10**15)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]{1,8}\Z")]
    decline_code: Text | None = None
    next_action: NextAction | None = None


class Operation(msgspec.Struct, frozen=True):
    """A capture, void or refund as the sandbox answers it."""

    operation_id: Text
    operation_key: Text
    charge_key: Text
    kind: Kind
    status: Literal["approved", "declined", "pending"]
    amount_minor: Annotated[int, msgspec.Meta(ge=0, le=10**15)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]{1,8}\Z")]
    decline_code: Text | None = None


Answer = TypeVar("Answer", Charge, Operation)
Shown = TypeVar("Shown")
PATHS: Final[dict[Kind, str]] = {"capture": "captures", "void": "voids", "refund": "refunds"}


STATUSES: Final = ("approved", "declined", "pending")
CHARGE_EVENTS: Final = frozenset(f"charge.{status}" for status in STATUSES)
OPERATION_EVENTS: Final = frozenset(f"{kind}.{status}" for kind in PATHS for status in STATUSES)


class Event(msgspec.Struct, frozen=True):
    """A webhook of the sandbox's: docs/sandbox-provider.md has the types."""

    type: str
    data: msgspec.Raw


_decode_event: Final = msgspec.json.Decoder(Event).decode


class ProviderProblem(msgspec.Struct, frozen=True):
    """What is read of the sandbox's problem details."""

    type: str = ""
    charge_key: str | None = None
    operation_key: str | None = None


class RefusedByProvider(Exception):
    """It answered that it will not: nothing was charged. code says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class RateLimited(Exception):
    """It answered that it does nothing for so many seconds: nothing was charged."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"come back in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class AnswerTooLarge(Exception):
    """It answered more than any answer of its has: what it means is not known."""


class NeverArrived(Exception):
    """It answered that it has no charge or operation of this key."""


class FailedAtProvider(Exception):
    """It answered that it failed: whether it charged is not known."""


class SandboxAdapter:
    """Speaks to the sandbox; what can not be believed becomes Unknown, never a guess."""

    def __init__(self, client: httpx.AsyncClient, upstream: Upstream) -> None:
        self._client = client
        self._upstream = upstream
        self._base = str(client.base_url).rstrip("/")
        self._headers = list(client.headers.items())

    async def charge(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        """POST /charges with payment_id as its key: the provider charges a key at most once."""

        async def send(cut: Deadline) -> Charge:
            body = {
                "charge_key": str(order.payment_id),
                "amount_minor": order.amount_minor,
                "currency": order.currency,
                "payment_method": order.payment_method,
                "capture": order.capture,
            }
            return _read(*await self._ask("POST", "/charges", cut, json=body), Charge)

        return _outcome(await self._send(send, deadline), order)

    async def find(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        """GET /charges/{payment_id}: what the provider has under our key."""

        async def ask(cut: Deadline) -> Charge:
            return _read(*await self._ask("GET", f"/charges/{order.payment_id}", cut), Charge)

        return _found(await self._upstream.call(ask, deadline), order)

    async def capture(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """POST /charges/{payment_id}/captures, with operation_id as its key."""
        return await self._operate(order, {"amount_minor": order.amount_minor}, deadline)

    async def void(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """POST /charges/{payment_id}/voids, with operation_id as its key."""
        return await self._operate(order, {}, deadline)

    async def refund(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """POST /charges/{payment_id}/refunds, with operation_id as its key."""
        return await self._operate(order, {"amount_minor": order.amount_minor}, deadline)

    async def _operate(
        self, order: OperationOrder, amount: dict[str, int], deadline: Deadline
    ) -> ChargeOutcome:
        async def send(cut: Deadline) -> Operation:
            key = quote(
                str(order.payment_id), safe=""
            )  # of a charge that is none of ours: any text
            path = f"/charges/{key}/{PATHS[order.kind]}"
            body = {"operation_key": str(order.operation_id), **amount}
            return _read(*await self._ask("POST", path, cut, json=body), Operation)

        return _outcome(await self._send(send, deadline), order)

    async def find_operation(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """GET /operations/{operation_id}: what the provider has under our key."""

        async def ask(cut: Deadline) -> Operation:
            path = f"/operations/{order.operation_id}"
            return _read(*await self._ask("GET", path, cut), Operation)

        return _found(await self._upstream.call(ask, deadline), order)

    async def _send(
        self, send: Callable[[Deadline], Awaitable[Answer]], deadline: Deadline
    ) -> limits.Outcome[Answer]:
        """Once, and once more after a wait if the provider asks for that and there is time."""
        outcome = await self._upstream.call(send, deadline)
        wait_s = _wait_s(outcome, deadline)
        if wait_s is not None:
            await asyncio.sleep(wait_s)
            outcome = await self._upstream.call(send, deadline)
        return outcome

    async def list_charges(
        self, since: datetime, cursor: str | None, deadline: Deadline
    ) -> Listed[ChargeLine] | Unknown:
        """GET /charges?since=&cursor=."""

        async def ask(cut: Deadline) -> Listed[ChargeLine]:
            return charges_in(await self._list("/charges", since, cursor, cut))

        return _asked_for(await self._upstream.call(ask, deadline))

    async def list_operations(
        self, since: datetime, cursor: str | None, deadline: Deadline
    ) -> Listed[OperationLine] | Unknown:
        """GET /operations?since=&cursor=."""

        async def ask(cut: Deadline) -> Listed[OperationLine]:
            return operations_in(await self._list("/operations", since, cursor, cut))

        return _asked_for(await self._upstream.call(ask, deadline))

    async def find_line(
        self, charge_key: str, deadline: Deadline
    ) -> ChargeLine | NotSent | Unknown:
        """GET /charges/{charge_key}."""

        async def ask(cut: Deadline) -> ChargeLine:
            answer, body = await self._ask("GET", f"/charges/{quote(charge_key, safe='')}", cut)
            _read(answer, body, Charge)
            return charge_in(body, charge_key)

        outcome = await self._upstream.call(ask, deadline)
        if isinstance(outcome, limits.Failed) and isinstance(outcome.error, NeverArrived):
            return NotSent("the provider has never had it")
        return _asked_for(outcome)

    async def _list(self, path: str, since: datetime, cursor: str | None, cut: Deadline) -> bytes:
        query = {"since": since.isoformat(), "limit": str(LIST_LINES)}
        if cursor is not None:
            query["cursor"] = cursor
        answer, body = await self._ask("GET", path, cut, most_bytes=LIST_MAX_BYTES, params=query)
        if answer.status_code != 200:
            raise FailedAtProvider(f"status {answer.status_code}")
        return body

    async def _ask(
        self,
        method: str,
        path: str,
        cut: Deadline,
        *,
        most_bytes: int = ANSWER_MAX_BYTES,
        **content: Any,
    ) -> tuple[httpx.Response, bytes]:
        """The answer and its body, which is read no further than an answer can be long.

        The request is built here: to have the client merge address, headers and cookies into each
        took four tenths of a call (170 of 400 us without the network).
        """
        headers = [*self._headers, (DEADLINE_HEADER, str(cut.left_ms()))]
        request = httpx.Request(
            method, self._base + path, headers=headers, extensions={"deadline": cut}, **content
        )
        body = bytearray()
        answer = await self._client.send(request, stream=True)
        try:
            async for part in answer.aiter_raw():  # as it came: a few bytes can unpack to gigabytes
                body += part
                if len(body) > most_bytes:
                    raise AnswerTooLarge
        finally:
            await answer.aclose()
        return answer, bytes(body)

    def read(self, payload: bytes) -> Notice | None:
        """A webhook about a charge or an operation; the sandbox's key of it is our id."""
        try:
            event = _decode_event(payload)
            if event.type in CHARGE_EVENTS:
                charge = msgspec.json.decode(event.data, type=Charge)
                subject_id = UUID(charge.charge_key)
                return Notice("charge", subject_id, _meaning(charge), _amount(charge))
            if event.type in OPERATION_EVENTS:
                operation = msgspec.json.decode(event.data, type=Operation)
                subject_id = UUID(operation.operation_key)
                return Notice(operation.kind, subject_id, _meaning(operation), _amount(operation))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return None


@asynccontextmanager
async def open_sandbox(
    settings: BusinessSettings,
) -> AsyncIterator[tuple[PaymentProvider, Upstream]]:
    """The adapter, and the limits that it works within."""
    upstream = Upstream(
        "provider",
        timeout_s=settings.provider_timeout_ms / 1000,
        max_concurrent=CONCURRENT_CHARGES,
        # A payment is claimed by now: to refuse it early would help nobody.
        wait_s=settings.provider_timeout_ms / 1000,
        answers=(RefusedByProvider, RateLimited, NeverArrived),
        never_sent=(
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.PoolTimeout,
            httpx.LocalProtocolError,
        ),
        # A provider that takes a second is slow by its nature, not broken.
        slow_s=settings.provider_timeout_ms / 1000,
    )
    secret = settings.provider_secret.get_secret_value()
    async with httpx.AsyncClient(
        base_url=settings.provider_url,
        headers={"authorization": f"Bearer {secret}", "accept-encoding": "identity"},
        transport=KeepAliveTransport(size=CONCURRENT_CHARGES),
        timeout=upstream.timeout_s,
        follow_redirects=False,  # an answer must not choose whom we talk to with our credential
    ) as client:
        yield SandboxAdapter(client, upstream), upstream


def _wait_s(outcome: limits.Outcome[Answer], deadline: Deadline) -> int | None:
    """Seconds after which to ask once more; None if it was not told to, or not in time.

    Nothing was charged, so this is safe; and the key makes it so, had the provider lied.
    """
    if not isinstance(outcome, limits.Failed) or not isinstance(outcome.error, RateLimited):
        return None
    wait_s = outcome.error.retry_after_s
    return wait_s if wait_s < deadline.left_s() else None


def _read(answer: httpx.Response, body: bytes, kind: type[Answer]) -> Answer:
    """The charge or operation in an answer; raises what the status means."""
    if answer.status_code in (200, 201):
        return msgspec.json.decode(body, type=kind)
    problem = _problem(body)
    if answer.status_code == 429:
        raise RateLimited(_seconds(answer.headers.get("retry-after", "")))
    # The key in its answer tells this 404, which is evidence, from that of a wrong address.
    if answer.status_code == 404 and (problem.charge_key or problem.operation_key) is not None:
        raise NeverArrived
    if answer.status_code == 422 and problem.type.endswith("/invalid-body"):
        raise RefusedByProvider("invalid_payment_method" if kind is Charge else "invalid")
    if answer.status_code in (400, 401, 403, 413, 415):
        raise RefusedByProvider(f"refused_{answer.status_code}")
    raise FailedAtProvider(f"status {answer.status_code}")


def _seconds(retry_after: str) -> int:
    """Of Retry-After in seconds; a date or nonsense is longer than anybody waits here."""
    return int(retry_after) if re.fullmatch("[0-9]{1,6}", retry_after) else 10**6


def _problem(body: bytes) -> ProviderProblem:
    try:
        return msgspec.json.decode(body, type=ProviderProblem)
    except (msgspec.MsgspecError, RecursionError):
        return ProviderProblem()


def _outcome(outcome: limits.Outcome[Answer], order: ChargeOrder | OperationOrder) -> ChargeOutcome:
    """What became of a call that was to do something."""
    match outcome:
        case limits.Ok(answer):
            return _believe(answer, order)
        case limits.Failed(RefusedByProvider(code="invalid_payment_method" as code)):
            return Declined(code)
        # The reason is shown to the customer; what it was is for the log.
        case limits.Failed(error) | limits.NotSent(error):
            log.warning("not sent", payment_id=str(order.payment_id), error=repr(error))
            refused = isinstance(outcome, limits.Failed)
            return NotSent("the provider " + ("refused" if refused else "could not be reached"))
        case limits.Unknown(error):
            log.warning("outcome unknown", payment_id=str(order.payment_id), error=repr(error))
            return Unknown("the provider's answer was lost")


def _found(outcome: limits.Outcome[Answer], order: ChargeOrder | OperationOrder) -> ChargeOutcome:
    """What became of a call that asked."""
    if isinstance(outcome, limits.Failed) and isinstance(outcome.error, NeverArrived):
        return NotSent("the provider has never had it")
    if not isinstance(outcome, limits.Ok):
        return Unknown("the provider could not be asked")
    return _believe(outcome.value, order)


def _asked_for(outcome: limits.Outcome[Shown]) -> Shown | Unknown:
    """What was to be shown, if it was."""
    if isinstance(outcome, limits.Ok):
        return outcome.value
    log.warning("provider not asked", error=repr(outcome.error))
    return Unknown(f"the provider could not be asked: {outcome.error!r}")


def _believe(answer: Charge | Operation, order: ChargeOrder | OperationOrder) -> ChargeOutcome:
    """What an answer means, if it is of what was asked for."""
    if _told(answer) != _asked(order):
        return Unknown("the provider speaks of something else")
    return believed(_meaning(answer), _amount(answer), Amount(order.amount_minor, order.currency))


def _told(answer: Charge | Operation) -> tuple[str, ...]:
    if isinstance(answer, Charge):
        return (answer.charge_key,)
    return (answer.operation_key, answer.charge_key, answer.kind)


def _asked(order: ChargeOrder | OperationOrder) -> tuple[str, ...]:
    if isinstance(order, ChargeOrder):
        return (str(order.payment_id),)
    return (str(order.operation_id), str(order.payment_id), order.kind)


def _amount(answer: Charge | Operation) -> Amount:
    return Amount(answer.amount_minor, answer.currency)


def _meaning(answer: Charge | Operation) -> ChargeOutcome:
    reference = answer.charge_id if isinstance(answer, Charge) else answer.operation_id
    match answer.status:
        case "approved":
            return Approved(reference)
        case "declined":
            return Declined(answer.decline_code or "declined", reference)
        case "pending":
            action = answer.next_action if isinstance(answer, Charge) else None
            return Pending(reference, None if action is None else action.url)
