"""Payments: docs/payments.md has the table of states, and these are its moves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from services.data.orders import Order, OrderKey
from services.data.sources import Reader, Transaction

State = Literal["INIT", "PENDING", "SUCCESS", "FAILED", "ERRORED", "UNKNOWN"]


class Payment(NamedTuple):
    """A payment of an order, its amount in minor units; payment_method is a provider's token."""

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

    @property
    def order_key(self) -> OrderKey:
        return OrderKey(self.customer_id, self.order_id)


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
        payment_method, next_check_at)
    select customer_id, uuidv7(), order_id, 'INIT', amount_minor, currency, payment_method,
        now() + $6::interval
    from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[])
        as n (customer_id, order_id, amount_minor, currency, payment_method)
    on conflict (customer_id, order_id)
        where state in ('INIT', 'PENDING', 'UNKNOWN', 'SUCCESS') and voided_at is null
        do nothing
    returning customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at
"""

SELECT_PAYMENTS = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at
    from payments
    join unnest($1::uuid[], $2::uuid[]) as k (customer_id, payment_id)
        using (customer_id, payment_id)
"""

SELECT_BY_ID = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at
    from payments where payment_id = any($1)
"""

LOCK_PAYMENTS = """
    select p.* from unnest($1::uuid[], $2::uuid[]) as k (customer_id, payment_id)
    cross join lateral (
        select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
            charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at
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
        p.created_at, p.updated_at
"""

# Pushing next_check_at is the lease: another reconcile leaves these alone until then.
CLAIM_DUE = """
    with due as (
        select customer_id, payment_id from payments
        where state in ('INIT', 'PENDING', 'UNKNOWN') and next_check_at <= now()
        order by next_check_at limit $1 for update skip locked
    )
    update payments p set check_count = p.check_count + 1,
        next_check_at = now() + least($2::interval * power(2, least(p.check_count, 10)), $3)
    from due d where p.customer_id = d.customer_id and p.payment_id = d.payment_id
    returning p.customer_id, p.payment_id, p.order_id, p.state, p.amount_minor, p.currency,
        p.payment_method, p.charge_id, p.decline_code, p.detail, p.next_action_url, p.check_count,
        p.created_at, p.updated_at, now() - p.created_at as age
"""


async def insert_payments(
    tx: Transaction, new: Sequence[tuple[Order, str]], *, first_check: timedelta
) -> dict[OrderKey, Payment]:
    """Payments in INIT of orders by payment methods, one for each order that may have one.

    Those that have one which is neither failed nor errored get none; of two of an order in `new`
    the first counts.
    """
    if not new:
        return {}
    columns = [
        (order.customer_id, order.order_id, order.total_minor, order.currency, payment_method)
        for order, payment_method in new
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
    tx: Transaction, limit: int, *, first_wait: timedelta, longest_wait: timedelta
) -> list[Due]:
    """Unsettled payments whose check is due, leased to the caller until their next check."""
    rows = await tx.fetch(CLAIM_DUE, limit, first_wait, longest_wait)
    return [Due(Payment(*row[:-1]), row[-1]) for row in rows]
