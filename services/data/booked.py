"""Our books beside the provider's: payments and operations in bulk, with all that is compared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from services.data.payment_operations import Kind
from services.data.payments import CaptureMethod, State
from services.data.sources import Reader

ROWS: Final = 500
FIRST: Final = UUID(int=0)  # below every id


class BookedPayment(NamedTuple):
    """A payment as it is to be found at the provider; sums in minor units.

    busy: something done with it is not settled. age_s: since it last changed, by the database's
    clock.
    """

    payment_id: UUID
    state: State
    amount_minor: int
    currency: str
    charge_id: str | None
    capture_method: CaptureMethod
    captured_minor: int
    refunded_minor: int
    voided: bool
    busy: bool
    age_s: float


class BookedOperation(NamedTuple):
    """A capture, void or refund as it is to be found at the provider."""

    operation_id: UUID
    payment_id: UUID
    kind: Kind
    state: State
    amount_minor: int
    currency: str
    provider_reference: str | None
    age_s: float


_PAYMENT: Final = """
    select payment_id, state, amount_minor, currency, charge_id, capture_method, captured_minor,
        refunded_minor, voided_at is not null, exists (
            select from payment_operations o
            where o.customer_id = p.customer_id and o.payment_id = p.payment_id
                and o.state in ('INIT', 'PENDING', 'UNKNOWN')
        ), extract(epoch from now() - updated_at)::float8
    from payments p
"""

SELECT_PAYMENTS = _PAYMENT + " where payment_id = any($1)"

LIST_PAYMENTS = (
    _PAYMENT + " where payment_id > $1 and created_at >= $2 order by payment_id limit $3"
)

_OPERATION: Final = """
    select operation_id, payment_id, kind, state, amount_minor, currency, provider_reference,
        extract(epoch from now() - updated_at)::float8
    from payment_operations
"""

SELECT_OPERATIONS = _OPERATION + " where operation_id = any($1)"

LIST_OPERATIONS = (
    _OPERATION + " where operation_id > $1 and created_at >= $2 order by operation_id limit $3"
)


async def select_booked_payments(
    reader: Reader, payment_ids: Sequence[UUID]
) -> dict[UUID, BookedPayment]:
    if not payment_ids:
        return {}
    rows = await reader.fetch(SELECT_PAYMENTS, list(payment_ids))
    return {row["payment_id"]: BookedPayment(*row) for row in rows}


async def select_booked_operations(
    reader: Reader, operation_ids: Sequence[UUID]
) -> dict[UUID, BookedOperation]:
    if not operation_ids:
        return {}
    rows = await reader.fetch(SELECT_OPERATIONS, list(operation_ids))
    return {row["operation_id"]: BookedOperation(*row) for row in rows}


async def list_booked_payments(
    reader: Reader, since: datetime
) -> AsyncIterator[list[BookedPayment]]:
    """All payments that were made since then, page by page, by their ids."""
    after = FIRST
    while True:
        rows = await reader.fetch(LIST_PAYMENTS, after, since, ROWS)
        if rows:
            yield [BookedPayment(*row) for row in rows]
        if len(rows) < ROWS:
            return
        after = rows[-1]["payment_id"]


async def list_booked_operations(
    reader: Reader, since: datetime
) -> AsyncIterator[list[BookedOperation]]:
    """All captures, voids and refunds that were made since then, page by page, by their ids."""
    after = FIRST
    while True:
        rows = await reader.fetch(LIST_OPERATIONS, after, since, ROWS)
        if rows:
            yield [BookedOperation(*row) for row in rows]
        if len(rows) < ROWS:
            return
        after = rows[-1]["operation_id"]
