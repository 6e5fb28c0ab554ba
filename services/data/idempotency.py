"""Idempotency keys: a row a key, written in the transaction of the effect it stands for."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from services.data.sources import Transaction

Operation = Literal["place_order", "pay_order"]


class Key(NamedTuple):
    """What a client sent: its key, for which operation, and a hash of path and body."""

    customer_id: UUID
    operation: Operation
    idempotency_key: str
    fingerprint: bytes


class KeyRow(NamedTuple):
    """What is stored under a key: the order or payment that it made, and its answer.

    leased: the first request may still be running.
    """

    fingerprint: bytes
    subject_id: UUID
    response_body: bytes | None
    leased: bool


# Waits for a transaction that has just inserted the same key, and then finds its row.
INSERT_KEY = """
    insert into idempotency_keys
        (customer_id, operation, idempotency_key, fingerprint, state, subject_id, lease_until)
    values ($1, $2, $3, $4, 'running', uuidv7(), now() + $5::interval)
    on conflict on constraint idempotency_keys_pkey do nothing
    returning subject_id
"""

SELECT_KEY = """
    select fingerprint, subject_id, response_body, lease_until > now() as leased
    from idempotency_keys
    where customer_id = $1 and operation = $2 and idempotency_key = $3
"""

ANSWER_KEY = """
    update idempotency_keys set state = 'answered', response_status = $3, response_body = $4
    where customer_id = $1 and subject_id = $2 and state = 'running'
"""


async def claim_key(tx: Transaction, key: Key, lease: timedelta) -> UUID | KeyRow:
    """The id of the order or payment to make, or the row of whoever used the key before."""
    subject_id: UUID | None = await tx.fetchval(INSERT_KEY, *key, lease)
    if subject_id is not None:
        return subject_id
    row = await tx.fetchrow(SELECT_KEY, key.customer_id, key.operation, key.idempotency_key)
    if row is None:  # deleted between the two statements: it is free again
        return await claim_key(tx, key, lease)
    return KeyRow(*row)


async def answer_key(
    tx: Transaction, customer_id: UUID, subject_id: UUID, *, status: int, body: bytes
) -> None:
    """Store the answer that whoever repeats the request will get."""
    await tx.execute(ANSWER_KEY, customer_id, subject_id, status, body)
