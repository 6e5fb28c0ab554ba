"""Payments: docs/payments.md has the table of states, and these are its moves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from services.data.orders import Order, OrderKey
from services.data.sources import Reader, Transaction

CaptureMethod = Literal["automatic", "manual"]
State = Literal["INIT", "PENDING", "SUCCESS", "FAILED", "ERRORED", "UNKNOWN"]


class Payment(NamedTuple):
    """A payment of an order, its amounts in minor units; payment_method is a provider's token.

    capturing and refunding: in captures and refunds of it that are not settled yet.
    """

    customer_id: UUID
    payment_id: UUID
    order_id: UUID
    state: State
    amount_minor: int
    currency: str
    payment_method: str
    charge_id: str | None
    decline_code: str | None
    detail: str
    next_action_url: str | None
    check_count: int
    created_at: datetime
    updated_at: datetime
    capture_method: CaptureMethod
    capturing_minor: int
    captured_minor: int
    refunding_minor: int
    refunded_minor: int
    voided_at: datetime | None

    @property
    def order_key(self) -> OrderKey:
        return OrderKey(self.customer_id, self.order_id)


class NewPayment(NamedTuple):
    """A payment to be made of an order."""

    order: Order
    payment_method: str
    capture_method: CaptureMethod = "automatic"


class Verdict(NamedTuple):
    """What the provider's word makes of a payment."""

    state: State
    charge_id: str | None
    decline_code: str | None
    detail: str
    next_action_url: str | None = None


class Due(NamedTuple):
    """A payment to ask about; its age by the database's clock, which is the one that counts."""

    payment: Payment
    age: timedelta


# The index decides which orders may have another payment; of two in one statement the first wins.
INSERT_PAYMENTS = """
    insert into payments (customer_id, payment_id, order_id, state, amount_minor, currency,
        payment_method, capture_method, next_check_at)
    select customer_id, uuidv7(), order_id, 'INIT', amount_minor, currency, payment_method,
        capture_method, now() + $7::interval
    from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[])
        as n (customer_id, order_id, amount_minor, currency, payment_method, capture_method)
    on conflict (customer_id, order_id)
        where state in ('INIT', 'PENDING', 'UNKNOWN', 'SUCCESS') and voided_at is null
        do nothing
    returning customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at,
        capture_method, capturing_minor, captured_minor, refunding_minor, refunded_minor, voided_at
"""

SELECT_PAYMENTS = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at,
        capture_method, capturing_minor, captured_minor, refunding_minor, refunded_minor, voided_at
    from payments
    join unnest($1::uuid[], $2::uuid[]) as k (customer_id, payment_id)
        using (customer_id, payment_id)
"""

SELECT_BY_ID = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at,
        capture_method, capturing_minor, captured_minor, refunding_minor, refunded_minor, voided_at
    from payments where payment_id = any($1)
"""

LOCK_PAYMENTS = """
    select p.* from unnest($1::uuid[], $2::uuid[]) as k (customer_id, payment_id)
    cross join lateral (
        select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
            charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at,
        capture_method, capturing_minor, captured_minor, refunding_minor, refunded_minor, voided_at
        from payments
        where payments.customer_id = k.customer_id and payments.payment_id = k.payment_id
        for update
    ) p
"""

UPDATE_PAYMENTS = """
    update payments p set state = n.state, charge_id = coalesce(n.charge_id, p.charge_id),
        decline_code = n.decline_code, detail = n.detail, updated_at = now(),
        next_action_url = coalesce(n.next_action_url, p.next_action_url),
        captured_minor = case when n.state = 'SUCCESS' and p.capture_method = 'automatic'
            then p.amount_minor else p.captured_minor end,
        next_check_at = case
            when p.state = 'INIT' then now() + $8::interval else p.next_check_at end
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
        as n (customer_id, payment_id, state, charge_id, decline_code, detail, next_action_url)
    where p.customer_id = n.customer_id and p.payment_id = n.payment_id
    returning p.customer_id, p.payment_id, p.order_id, p.state, p.amount_minor, p.currency,
        p.payment_method, p.charge_id, p.decline_code, p.detail, p.next_action_url, p.check_count,
        p.created_at, p.updated_at, p.capture_method, p.capturing_minor,
        p.captured_minor, p.refunding_minor, p.refunded_minor, p.voided_at
"""

# Pushing next_check_at is the lease: another reconcile leaves these alone until then.
CLAIM_DUE = """
    with due as (
        select customer_id, payment_id from payments
        where state in ('INIT', 'PENDING', 'UNKNOWN') and next_check_at <= now()
        order by next_check_at limit $1 for update skip locked
    )
    update payments p set check_count = p.check_count + 1,
        next_check_at = now() + least($2::interval * power(2, least(p.check_count, 10)), $3,
            case when p.created_at + $4 > now()
                then greatest(p.created_at + $4 - now(), $2) end)
    from due d where p.customer_id = d.customer_id and p.payment_id = d.payment_id
    returning p.customer_id, p.payment_id, p.order_id, p.state, p.amount_minor, p.currency,
        p.payment_method, p.charge_id, p.decline_code, p.detail, p.next_action_url, p.check_count,
        p.created_at, p.updated_at, p.capture_method, p.capturing_minor,
        p.captured_minor, p.refunding_minor, p.refunded_minor, p.voided_at,
        now() - p.created_at as age
"""


# Sums that are added to those of payments, once they are locked; constraints hold what they may be.
ADD_SUMS = """
    update payments p set capturing_minor = p.capturing_minor + n.capturing_minor,
        captured_minor = p.captured_minor + n.captured_minor,
        refunding_minor = p.refunding_minor + n.refunding_minor,
        refunded_minor = p.refunded_minor + n.refunded_minor,
        voided_at = case when n.voided then now() else p.voided_at end, updated_at = now()
    from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bool[]) as n (customer_id, payment_id, capturing_minor, captured_minor,
        refunding_minor, refunded_minor, voided)
    where p.customer_id = n.customer_id and p.payment_id = n.payment_id
    returning p.customer_id, p.payment_id, p.order_id, p.state, p.amount_minor, p.currency,
        p.payment_method, p.charge_id, p.decline_code, p.detail, p.next_action_url, p.check_count,
        p.created_at, p.updated_at, p.capture_method, p.capturing_minor,
        p.captured_minor, p.refunding_minor, p.refunded_minor, p.voided_at
"""

ESCALATE_PAYMENT = """
    update payments set escalated_at = now()
    where customer_id = $1 and payment_id = $2 and escalated_at is null
        and state in ('INIT', 'PENDING', 'UNKNOWN')
    returning payment_id
"""


class Sums(NamedTuple):
    """What is added to the sums of a payment, in minor units."""

    capturing_minor: int = 0
    captured_minor: int = 0
    refunding_minor: int = 0
    refunded_minor: int = 0
    voided: bool = False

    def plus(self, other: Sums) -> Sums:
        return Sums(
            self.capturing_minor + other.capturing_minor,
            self.captured_minor + other.captured_minor,
            self.refunding_minor + other.refunding_minor,
            self.refunded_minor + other.refunded_minor,
            self.voided or other.voided,
        )


async def insert_payments(
    tx: Transaction, new: Sequence[NewPayment], *, first_check: timedelta
) -> dict[OrderKey, Payment]:
    """Payments in INIT, one for each order that may have one.

    Those that have one which is neither failed nor errored get none; of two of an order in `new`
    the first counts.
    """
    if not new:
        return {}
    columns = [
        (order.customer_id, order.order_id, order.total_minor, order.currency, *how)
        for order, *how in new
    ]
    rows = await tx.fetch(INSERT_PAYMENTS, *map(list, zip(*columns, strict=True)), first_check)
    return {payment.order_key: payment for payment in (Payment(*row) for row in rows)}


async def select_payment(reader: Reader, customer_id: UUID, payment_id: UUID) -> Payment | None:
    rows = await reader.find(SELECT_PAYMENTS, customer_id, payment_id)
    return Payment(*rows[0]) if rows else None


async def select_payments(reader: Reader, keys: Sequence[tuple[UUID, UUID]]) -> dict[UUID, Payment]:
    """The payments of these (customer_id, payment_id), by payment_id."""
    if not keys:
        return {}
    rows = await reader.fetch(SELECT_PAYMENTS, *map(list, zip(*keys, strict=True)))
    return {row["payment_id"]: Payment(*row) for row in rows}


async def select_payments_by_id(reader: Reader, payment_ids: Sequence[UUID]) -> dict[UUID, Payment]:
    """The payments of these ids, for who is told nothing but the id: the provider."""
    if not payment_ids:
        return {}
    rows = await reader.fetch(SELECT_BY_ID, list(payment_ids))
    return {row["payment_id"]: Payment(*row) for row in rows}


async def lock_payments(tx: Transaction, payments: Sequence[Payment]) -> dict[UUID, Payment]:
    """The payments as they are now, by id, kept from changing; their orders are locked first."""
    keys = [(payment.customer_id, payment.payment_id) for payment in payments]
    rows = await tx.fetch(LOCK_PAYMENTS, *map(list, zip(*keys, strict=True)))
    return {row["payment_id"]: Payment(*row) for row in rows}


async def update_payments(
    tx: Transaction, verdicts: Sequence[tuple[Payment, Verdict]], *, first_wait: timedelta
) -> dict[UUID, Payment]:
    """Book verdicts; returns the payments by id, as they are now.

    first_wait: when to ask the provider, if its first answer settles nothing.
    """
    if not verdicts:
        return {}
    columns = [(payment.customer_id, payment.payment_id, *verdict) for payment, verdict in verdicts]
    rows = await tx.fetch(UPDATE_PAYMENTS, *map(list, zip(*columns, strict=True)), first_wait)
    return {row["payment_id"]: Payment(*row) for row in rows}


async def claim_due_payments(
    tx: Transaction,
    limit: int,
    *,
    first_wait: timedelta,
    longest_wait: timedelta,
    believed_after: timedelta,
) -> list[Due]:
    """Unsettled payments whose check is due, leased to the caller until their next check.

    The waits double. No check is left out at the age (believed_after) from which a provider is
    believed that a charge never arrived: one just before it would double the wait for nothing.
    """
    rows = await tx.fetch(CLAIM_DUE, limit, first_wait, longest_wait, believed_after)
    return [Due(Payment(*row[:-1]), row[-1]) for row in rows]


async def add_sums(tx: Transaction, added: Sequence[tuple[Payment, Sums]]) -> dict[UUID, Payment]:
    """Add to the sums of payments that are locked; returns those, by id, as they are now."""
    if not added:
        return {}
    sums: dict[tuple[UUID, UUID], Sums] = {}
    for payment, more in added:
        key = (payment.customer_id, payment.payment_id)
        sums[key] = sums.get(key, Sums()).plus(more)
    columns = [(*key, *total) for key, total in sums.items()]
    rows = await tx.fetch(ADD_SUMS, *map(list, zip(*columns, strict=True)))
    return {row["payment_id"]: Payment(*row) for row in rows}


async def escalate_payment(tx: Transaction, payment: Payment) -> bool:
    """Note that somebody is told of it; whether this was the first time."""
    return bool(await tx.fetch(ESCALATE_PAYMENT, payment.customer_id, payment.payment_id))
