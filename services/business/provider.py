"""The port to a payment provider: what it can be asked, and the five ways in which it answers.

A charge takes the money or only authorises it; captures, voids and refunds are operations on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, Protocol, TypeVar
from uuid import UUID

from services.deadline import Deadline


@dataclass(frozen=True, slots=True)
class ChargeOrder:
    """What the provider is asked to do. payment_id is its idempotency key: one charge at most.

    capture: take the money at once; otherwise authorise it only, to be captured or voided later.
    """

    payment_id: UUID
    amount_minor: int
    currency: str
    payment_method: str
    capture: bool = True


Kind = Literal["capture", "void", "refund"]


@dataclass(frozen=True, slots=True)
class OperationOrder:
    """A capture, void or refund of a charge. operation_id is its idempotency key.

    A void is of the whole charge, and its amount is that of the charge. charge_id is the
    provider's own name of the charge, for providers that go by theirs and not by ours.
    payment_id is the charge's key: text where that is none of ours, a charge that nobody asked for.
    """

    operation_id: UUID
    payment_id: UUID | str
    charge_id: str
    kind: Kind
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Amount:
    """Minor units of a currency, as the provider says them."""

    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Approved:
    """It is done: the money is taken or authorised, captured, let go or given back.

    reference: the provider's own name of the charge or operation.
    """

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider says no, for good."""

    decline_code: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """The provider has it and will decide later.

    next_action_url: where the customer has to go before it can, if anywhere.
    """

    reference: str
    next_action_url: str | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """It certainly has not happened: trying again is safe, and so is giving up."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened: only the provider's own word ends this.

    seen: it has confirmed another amount than it was asked for, which somebody has to look at.
    """

    reason: str
    seen: Amount | None = None


ChargeOutcome = Approved | Declined | Pending | NotSent | Unknown


@dataclass(frozen=True, slots=True)
class Notice:
    """What a provider says by itself of a charge or of an operation on one.

    subject_id: the payment_id of a charge, the operation_id of an operation.
    """

    subject: Literal["charge"] | Kind
    subject_id: UUID
    outcome: ChargeOutcome
    seen: Amount


Status = Literal["approved", "declined", "pending"]


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """A charge as it stands in the provider's own ledger.

    charge_key is our payment_id, if it is of a payment of ours. capture: to be taken at once.
    """

    charge_key: str
    charge_id: str
    status: Status
    amount: Amount
    capture: bool
    captured_minor: int
    refunded_minor: int
    voided: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OperationLine:
    """A capture, void or refund in the provider's own ledger; operation_key is our operation_id."""

    operation_key: str
    operation_id: str
    charge_key: str
    kind: Kind
    status: Status
    amount: Amount
    created_at: datetime


Line = TypeVar("Line", ChargeLine, OperationLine)


@dataclass(frozen=True, slots=True)
class Listed(Generic[Line]):
    """A page of the provider's ledger, oldest first; next_cursor: where it goes on, if it does."""

    lines: list[Line]
    next_cursor: str | None


def believed(outcome: ChargeOutcome, seen: Amount, asked: Amount) -> ChargeOutcome:
    """The outcome, if it is of the amount that was asked for; of another it is no evidence."""
    if seen == asked:
        return outcome
    return Unknown("the provider speaks of another amount", seen)


class PaymentProvider(Protocol):
    """One adapter a provider, in services/business/providers/. No method raises."""

    async def charge(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        """Charge once, however often it is called with the same payment_id."""
        ...

    async def find(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        """What became of an earlier charge. NotSent: the provider has never had it."""
        ...

    def read(self, payload: bytes) -> Notice | None:
        """What a webhook of its says; None where it is nothing that concerns a payment."""
        ...

    async def capture(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """Take so much of what was authorised; once for its operation_id, as the other two."""
        ...

    async def void(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """Let an authorisation go of which nothing was captured."""
        ...

    async def refund(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """Give back so much of what was captured."""
        ...

    async def find_operation(self, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
        """What became of an earlier operation. NotSent: the provider has never had it."""
        ...

    async def list_charges(
        self, since: datetime, cursor: str | None, deadline: Deadline
    ) -> Listed[ChargeLine] | Unknown:
        """A page of all charges made since then, whoever made them."""
        ...

    async def list_operations(
        self, since: datetime, cursor: str | None, deadline: Deadline
    ) -> Listed[OperationLine] | Unknown:
        """A page of all captures, voids and refunds made since then."""
        ...

    async def find_line(
        self, charge_key: str, deadline: Deadline
    ) -> ChargeLine | NotSent | Unknown:
        """A charge as it stands now. NotSent: there is none of this key."""
        ...
