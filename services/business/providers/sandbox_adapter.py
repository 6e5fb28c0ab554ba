"""The adapter of the sandbox provider: its HTTP API behind the port of business/provider.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import httpx
import msgspec

from services import upstream as limits
from services.business.provider import (
    Approved,
    ChargeOrder,
    ChargeOutcome,
    Declined,
    NotSent,
    PaymentProvider,
    Pending,
    Unknown,
)
from services.deadline import DEADLINE_HEADER, Deadline
from services.settings import BusinessSettings
from services.telemetry import logger
from services.transport import KeepAliveTransport
from services.upstream import Upstream

log = logger(__name__)

# Little's law: 200 payments a second that take 0.3 s each keep 60 places busy.
CONCURRENT_CHARGES: Final = 64


class Charge(msgspec.Struct, frozen=True):
    """A charge as the sandbox answers it."""

    charge_id: str
    charge_key: str
    status: Literal["approved", "declined", "pending"]
    amount_minor: int
    currency: str
    decline_code: str | None = None


class ProviderProblem(msgspec.Struct, frozen=True):
    """What is read of the sandbox's problem details."""

    type: str = ""
    charge_key: str | None = None


class RefusedByProvider(Exception):
    """It answered that it will not: nothing was charged. code says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NeverArrived(Exception):
    """It answered that it has no charge of this key."""


class FailedAtProvider(Exception):
    """It answered that it failed: whether it charged is not known."""


class SandboxAdapter:
    """Speaks to the sandbox; what can not be believed becomes Unknown, never a guess."""

    def __init__(self, client: httpx.AsyncClient, upstream: Upstream) -> None:
        self._client = client
        self._upstream = upstream

    async def charge(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        """POST /charges with payment_id as its key: the provider charges a key at most once."""

        async def send(cut: Deadline) -> Charge:
            answer = await self._client.post(
                "/charges",
                **_within(cut),
                json={
                    "charge_key": str(order.payment_id),
                    "amount_minor": order.amount_minor,
                    "currency": order.currency,
                    "payment_method": order.payment_method,
                },
            )
            return _read(answer)

        return _outcome(await self._upstream.call(send, deadline), order)

    async def find(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        """GET /charges/{payment_id}: what the provider has under our key."""

        async def ask(cut: Deadline) -> Charge:
            path = f"/charges/{order.payment_id}"
            return _read(await self._client.get(path, **_within(cut)))

        outcome = await self._upstream.call(ask, deadline)
        if isinstance(outcome, limits.Failed) and isinstance(outcome.error, NeverArrived):
            return NotSent("the provider has no such charge")
        if not isinstance(outcome, limits.Ok):
            return Unknown("the provider could not be asked")
        return _outcome(outcome, order)


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
        answers=(RefusedByProvider, NeverArrived),
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
        headers={"authorization": f"Bearer {secret}"},
        transport=KeepAliveTransport(size=CONCURRENT_CHARGES),
        timeout=upstream.timeout_s,
    ) as client:
        yield SandboxAdapter(client, upstream), upstream


def _within(cut: Deadline) -> dict[str, Any]:
    """What is left of the time, told to the provider and to the connection."""
    return {
        "headers": {DEADLINE_HEADER: str(cut.left_ms())},
        "extensions": {"deadline": cut},
    }


def _read(answer: httpx.Response) -> Charge:
    """The charge in an answer; raises what the status means."""
    if answer.status_code in (200, 201):
        return msgspec.json.decode(answer.content, type=Charge)
    problem = _problem(answer)
    # The key in its answer tells this 404, which is evidence, from that of a wrong address.
    if answer.status_code == 404 and problem.charge_key is not None:
        raise NeverArrived
    if answer.status_code == 422 and problem.type.endswith("/invalid-body"):
        raise RefusedByProvider("invalid_payment_method")
    if answer.status_code in (400, 401, 403, 413, 415, 429):
        raise RefusedByProvider(f"refused_{answer.status_code}")
    raise FailedAtProvider(f"status {answer.status_code}")


def _problem(answer: httpx.Response) -> ProviderProblem:
    try:
        return msgspec.json.decode(answer.content, type=ProviderProblem)
    except msgspec.MsgspecError:
        return ProviderProblem()


def _outcome(outcome: limits.Outcome[Charge], order: ChargeOrder) -> ChargeOutcome:
    match outcome:
        case limits.Ok(charge):
            return _believe(charge, order)
        case limits.Failed(RefusedByProvider(code="invalid_payment_method" as code)):
            return Declined(code)
        # The reason is shown to the customer; what it was is for the log.
        case limits.Failed(error) | limits.NotSent(error):
            log.warning("not charged", payment_id=str(order.payment_id), error=repr(error))
            refused = isinstance(outcome, limits.Failed)
            return NotSent("the provider " + ("refused" if refused else "could not be reached"))
        case limits.Unknown(error):
            log.warning("charge unknown", payment_id=str(order.payment_id), error=repr(error))
            return Unknown("the provider's answer was lost")


def _believe(charge: Charge, order: ChargeOrder) -> ChargeOutcome:
    """What a charge means, if it is the one that was asked for."""
    same = (charge.charge_key, charge.amount_minor, charge.currency) == (
        str(order.payment_id),
        order.amount_minor,
        order.currency,
    )
    if not same:
        return Unknown("the provider speaks of another amount")
    match charge.status:
        case "approved":
            return Approved(charge.charge_id)
        case "declined":
            return Declined(charge.decline_code or "declined", charge.charge_id)
        case "pending":
            return Pending(charge.charge_id)
