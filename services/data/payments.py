"""Payments: docs/payments.md has the table of states, and these are its moves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from services.data.sources import Reader, Transaction
from services.problems import OrderNotPayable

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
    check_count: int
    created_at: datetime
    updated_at: datetime


class Due(NamedTuple):
    """A payment to ask about; its age by the database's clock, which is the one that counts."""

    payment: Payment
    age: timedelta


INSERT_PAYMENT = """
    insert into payments (customer_id, payment_id, order_id, state, amount_minor, currency,
        payment_method, next_check_at)
    values ($1, $2, $3, 'INIT', $4, $5, $6, now() + $7::interval)
    returning customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, check_count, created_at, updated_at
"""

SELECT_PAYMENT = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, check_count, created_at, updated_at
    from payments where customer_id = $1 and payment_id = $2
"""

LOCK_PAYMENT = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, check_count, created_at, updated_at
    from payments where customer_id = $1 and payment_id = $2 for update
"""

SELECT_PAYMENTS_OF_ORDER = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, check_count, created_at, updated_at
    from payments where customer_id = $1 and order_id = $2 order by created_at, payment_id
"""

UPDATE_PAYMENT = """
    update payments set state = $3, charge_id = coalesce($4, charge_id), decline_code = $5,
        detail = $6, updated_at = now(),
        next_check_at = case when state = 'INIT' then now() + $7::interval else next_check_at end
    where customer_id = $1 and payment_id = $2
    returning customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, check_count, created_at, updated_at
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
        p.payment_method, p.charge_id, p.decline_code, p.detail, p.check_count, p.created_at,
        p.updated_at, now() - p.created_at as age
"""


async def insert_payment(
    tx: Transaction,
    *,
    customer_id: UUID,
    payment_id: UUID,
    order_id: UUID,
    amount_minor: int,
    currency: str,
    payment_method: str,
    first_check: timedelta,
) -> Payment:
    """A payment in INIT. Raises OrderNotPayable when the order has one that is neither
    failed nor errored."""
    try:
        row = await tx.fetchrow(
            INSERT_PAYMENT,
            customer_id,
            payment_id,
            order_id,
            amount_minor,
            currency,
            payment_method,
            first_check,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "payments_one_live_per_order":
            raise OrderNotPayable("A payment of this order is under way.") from error
        raise
    return _payment(row)


async def select_payment(reader: Reader, customer_id: UUID, payment_id: UUID) -> Payment | None:
    row = await reader.fetchrow(SELECT_PAYMENT, customer_id, payment_id)
    return Payment(*row) if row is not None else None


async def lock_payment(tx: Transaction, customer_id: UUID, payment_id: UUID) -> Payment:
    """The payment, kept from changing; its order is locked first, by everybody."""
    return _payment(await tx.fetchrow(LOCK_PAYMENT, customer_id, payment_id))


async def select_payments_of_order(
    reader: Reader, customer_id: UUID, order_id: UUID
) -> list[Payment]:
    rows = await reader.fetch(SELECT_PAYMENTS_OF_ORDER, customer_id, order_id)
    return [Payment(*row) for row in rows]


async def update_payment(
    tx: Transaction,
    payment: Payment,
    state: State,
    *,
    charge_id: str | None,
    decline_code: str | None,
    detail: str,
    first_wait: timedelta,
) -> Payment:
    """Book a state. first_wait: when to ask the provider, if its first answer settles nothing."""
    row = await tx.fetchrow(
        UPDATE_PAYMENT,
        payment.customer_id,
        payment.payment_id,
        state,
        charge_id,
        decline_code,
        detail,
        first_wait,
    )
    return _payment(row)


async def claim_due_payments(
    tx: Transaction, limit: int, *, first_wait: timedelta, longest_wait: timedelta
) -> list[Due]:
    """Unsettled payments whose check is due, leased to the caller until their next check."""
    rows = await tx.fetch(CLAIM_DUE, limit, first_wait, longest_wait)
    return [Due(Payment(*row[:-1]), row[-1]) for row in rows]


def _payment(row: asyncpg.Record | None) -> Payment:
    if row is None:
        raise LookupError("no such payment")  # callers hold its id from the database
    return Payment(*row)
