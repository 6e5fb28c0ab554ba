"""Captures, voids and refunds: docs/payments.md has their states, and these are their moves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from services.data.payments import Payment, State
from services.data.sources import Reader, Transaction

Kind = Literal["capture", "void", "refund"]
Cause = Literal["requested", "order_ended"]


class PaymentOperation(NamedTuple):
    """Something done with a payment, its amount in minor units; a void is of the whole payment.

    cause: requested by somebody, or order_ended: the money came when its order had ended.
    """

    customer_id: UUID
    operation_id: UUID
    payment_id: UUID
    kind: Kind
    cause: Cause
    state: State
    amount_minor: int
    currency: str
    provider_reference: str | None
    decline_code: str | None
    detail: str
    check_count: int
    created_at: datetime
    updated_at: datetime


class NewOperation(NamedTuple):
    payment: Payment
    kind: Kind
    amount_minor: int
    cause: Cause = "requested"


class OperationVerdict(NamedTuple):
    """What the provider's word makes of an operation."""

    state: State
    provider_reference: str | None
    decline_code: str | None
    detail: str


# In the order in which they are given.
INSERT_OPERATIONS = """
    insert into payment_operations (customer_id, operation_id, payment_id, kind, cause, state,
        amount_minor, currency, next_check_at)
    select customer_id, uuidv7(), payment_id, kind, cause, 'INIT', amount_minor, currency,
        now() + $7::interval
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[])
        with ordinality as n (customer_id, payment_id, kind, cause, amount_minor, currency, place)
    order by place
    returning customer_id, operation_id, payment_id, kind, cause, state, amount_minor, currency,
        provider_reference, decline_code, detail, check_count, created_at, updated_at
"""

SELECT_OPERATIONS = """
    select customer_id, operation_id, payment_id, kind, cause, state, amount_minor, currency,
        provider_reference, decline_code, detail, check_count, created_at, updated_at
    from payment_operations where operation_id = any($1)
"""

SELECT_OF_PAYMENTS = """
    select customer_id, operation_id, payment_id, kind, cause, state, amount_minor, currency,
        provider_reference, decline_code, detail, check_count, created_at, updated_at
    from payment_operations
    join unnest($1::uuid[], $2::uuid[]) as k (customer_id, payment_id)
        using (customer_id, payment_id)
    order by created_at, operation_id
"""

# Whoever changes one has its payment locked, so nobody waits for another here.
LOCK_OPERATIONS = """
    select customer_id, operation_id, payment_id, kind, cause, state, amount_minor, currency,
        provider_reference, decline_code, detail, check_count, created_at, updated_at
    from payment_operations where operation_id = any($1) order by operation_id for update
"""

UPDATE_OPERATIONS = """
    update payment_operations o set state = n.state,
        provider_reference = coalesce(n.provider_reference, o.provider_reference),
        decline_code = n.decline_code, detail = n.detail, updated_at = now(),
        next_check_at = case
            when o.state = 'INIT' then now() + $7::interval else o.next_check_at end
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[])
        as n (customer_id, operation_id, state, provider_reference, decline_code, detail)
    where o.customer_id = n.customer_id and o.operation_id = n.operation_id
    returning o.customer_id, o.operation_id, o.payment_id, o.kind, o.cause, o.state,
        o.amount_minor, o.currency, o.provider_reference, o.decline_code, o.detail,
        o.check_count, o.created_at, o.updated_at
"""

# Pushing next_check_at is the lease, as with payments.
CLAIM_DUE = """
    with due as (
        select customer_id, operation_id from payment_operations
        where state in ('INIT', 'PENDING', 'UNKNOWN') and next_check_at <= now()
        order by next_check_at limit $1 for update skip locked
    )
    update payment_operations o set check_count = o.check_count + 1,
        next_check_at = now() + least($2::interval * power(2, least(o.check_count, 10)), $3,
            case when o.created_at + $4 > now()
                then greatest(o.created_at + $4 - now(), $2) end)
    from due d where o.customer_id = d.customer_id and o.operation_id = d.operation_id
    returning o.customer_id, o.operation_id, o.payment_id, o.kind, o.cause, o.state,
        o.amount_minor, o.currency, o.provider_reference, o.decline_code, o.detail,
        o.check_count, o.created_at, o.updated_at, now() - o.created_at as age
"""

ESCALATE_OPERATION = """
    update payment_operations set escalated_at = now()
    where customer_id = $1 and operation_id = $2 and escalated_at is null
    returning operation_id
"""


async def insert_operations(
    tx: Transaction, new: Sequence[NewOperation], *, first_check: timedelta
) -> list[PaymentOperation]:
    """Operations in INIT of payments that are locked; their sums are the caller's to reserve."""
    if not new:
        return []
    columns = [
        (one.payment.customer_id, one.payment.payment_id, one.kind, one.cause, one.amount_minor,
            one.payment.currency)
        for one in new
    ]  # fmt: skip
    rows = await tx.fetch(INSERT_OPERATIONS, *map(list, zip(*columns, strict=True)), first_check)
    return [PaymentOperation(*row) for row in rows]


async def select_operations(
    reader: Reader, operation_ids: Sequence[UUID]
) -> dict[UUID, PaymentOperation]:
    if not operation_ids:
        return {}
    rows = await reader.fetch(SELECT_OPERATIONS, list(operation_ids))
    return {row["operation_id"]: PaymentOperation(*row) for row in rows}


async def select_operations_of(
    reader: Reader, payments: Sequence[Payment]
) -> dict[UUID, list[PaymentOperation]]:
    """The operations of payments, from the first on, by payment_id."""
    found: dict[UUID, list[PaymentOperation]] = {}
    keys = list({(payment.customer_id, payment.payment_id) for payment in payments})
    if keys:
        for row in await reader.fetch(SELECT_OF_PAYMENTS, *map(list, zip(*keys, strict=True))):
            found.setdefault(row["payment_id"], []).append(PaymentOperation(*row))
    return found


async def lock_operations(
    tx: Transaction, operations: Sequence[PaymentOperation]
) -> dict[UUID, PaymentOperation]:
    """The operations as they are now, by id; their payments are locked first."""
    rows = await tx.fetch(LOCK_OPERATIONS, [one.operation_id for one in operations])
    return {row["operation_id"]: PaymentOperation(*row) for row in rows}


async def update_operations(
    tx: Transaction,
    verdicts: Sequence[tuple[PaymentOperation, OperationVerdict]],
    *,
    first_wait: timedelta,
) -> dict[UUID, PaymentOperation]:
    """Book verdicts, as update_payments does."""
    if not verdicts:
        return {}
    columns = [(one.customer_id, one.operation_id, *verdict) for one, verdict in verdicts]
    rows = await tx.fetch(UPDATE_OPERATIONS, *map(list, zip(*columns, strict=True)), first_wait)
    return {row["operation_id"]: PaymentOperation(*row) for row in rows}


async def claim_due_operations(
    tx: Transaction,
    limit: int,
    *,
    first_wait: timedelta,
    longest_wait: timedelta,
    believed_after: timedelta,
) -> list[tuple[PaymentOperation, timedelta]]:
    """Unsettled operations whose check is due, and their ages, leased to the caller.

    As with payments, there is a check at the age believed_after.
    """
    rows = await tx.fetch(CLAIM_DUE, limit, first_wait, longest_wait, believed_after)
    return [(PaymentOperation(*row[:-1]), row[-1]) for row in rows]


async def escalate_operation(tx: Transaction, operation: PaymentOperation) -> bool:
    """Note that somebody is told of it; whether this was the first time."""
    key = (operation.customer_id, operation.operation_id)
    return bool(await tx.fetch(ESCALATE_OPERATION, *key))
