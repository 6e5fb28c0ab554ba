"""Idempotency keys: a row a key, written in the transaction of the effect it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal, NamedTuple
from uuid import UUID

from services.data.batch import Locked
from services.data.sources import Transaction

Operation = Literal[
    "place_order",
    "pay_order",
    "create_flash_sale",
    "claim_flash_sale",
    "capture",
    "void",
    "refund",
]


# After that the same key is a new one; so long the IETF draft lets a server choose.
KEPT_FOR: Final = timedelta(hours=24)


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


class NewKey(NamedTuple):
    """A key and what it has made. answer: status and body, None while there is none yet."""

    key: Key
    subject_id: UUID
    answer: tuple[int, bytes] | None = None


SELECT_KEYS = """
    select k.customer_id, k.operation, k.idempotency_key,
        k.fingerprint, k.subject_id, k.response_body, k.lease_until > now() as leased
    from unnest($1::uuid[], $2::text[], $3::text[])
        as asked (customer_id, operation, idempotency_key)
    join idempotency_keys k using (customer_id, operation, idempotency_key)
"""

# Waits for a transaction that has just inserted the same key, and then leaves its row alone. All
# who wait here insert in one order, so that no two wait for each other.
INSERT_KEYS = """
    insert into idempotency_keys (customer_id, operation, idempotency_key, fingerprint, state,
        subject_id, response_status, response_body, lease_until)
    select n.customer_id, n.operation, n.idempotency_key, n.fingerprint,
        case when n.status is null then 'running' else 'answered' end,
        n.subject_id, n.status, n.body, now() + $8::interval
    from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::int[],
        $7::bytea[]) as n (customer_id, operation, idempotency_key, fingerprint, subject_id,
        status, body)
    order by n.customer_id, n.operation, n.idempotency_key
    on conflict on constraint idempotency_keys_pkey do nothing
    returning subject_id
"""

ANSWER_KEYS = """
    update idempotency_keys k set state = 'answered', response_status = $4, response_body = ''
    from unnest($1::uuid[], $2::uuid[]) as done (customer_id, subject_id)
    where k.customer_id = done.customer_id and k.operation = $3
        and k.subject_id = done.subject_id and k.state = 'running'
"""


# Of several that purge at once each takes others.
DELETE_OLD_KEYS = """
    with old as (
        select k.customer_id, k.operation, k.idempotency_key from idempotency_keys k
        where k.created_at < now() - $2::interval
            and not exists (
                select from payments p where p.payment_id = k.subject_id
                    and p.state in ('INIT', 'PENDING', 'UNKNOWN')
            )
            and not exists (
                select from payment_operations o where o.operation_id = k.subject_id
                    and o.state in ('INIT', 'PENDING', 'UNKNOWN')
            )
        order by k.created_at limit $1 for update skip locked
    )
    delete from idempotency_keys k using old
    where (k.customer_id, k.operation, k.idempotency_key)
        = (old.customer_id, old.operation, old.idempotency_key)
    returning 1
"""


async def select_keys(tx: Transaction, keys: Sequence[Key]) -> dict[Key, KeyRow]:
    """What is stored under those keys that were used before, whatever they were used for."""
    if not keys:
        return {}
    columns = zip(*(key[:3] for key in keys), strict=True)
    rows = await tx.fetch(SELECT_KEYS, *map(list, columns))
    found = {tuple(row[:3]): KeyRow(*row[3:]) for row in rows}
    return {key: found[key[:3]] for key in keys if key[:3] in found}


async def insert_keys(tx: Transaction, new: Sequence[NewKey], lease: timedelta) -> None:
    """Store keys with what they have made; written last, because they may have to wait.

    Raises Locked with the places of those that somebody else has used in the meantime.
    """
    if not new:
        return
    columns = [
        (*row.key, row.subject_id, *(row.answer if row.answer is not None else (None, None)))
        for row in new
    ]
    rows = await tx.fetch(INSERT_KEYS, *map(list, zip(*columns, strict=True)), lease)
    if len(rows) < len(new):
        inserted = {row["subject_id"] for row in rows}
        raise Locked(place for place, row in enumerate(new) if row.subject_id not in inserted)


async def answer_keys(
    tx: Transaction, operation: Operation, done: Sequence[tuple[UUID, UUID]], *, status: int
) -> None:
    """Note that what these keys have made, (customer_id, subject_id), has been answered."""
    await tx.execute(ANSWER_KEYS, *map(list, zip(*done, strict=True)), operation, status)


async def delete_old_keys(tx: Transaction, limit: int) -> int:
    """Delete the oldest keys that are over, up to a limit; returns how many.

    Those whose payment or operation is not settled stay.
    """
    return len(await tx.fetch(DELETE_OLD_KEYS, limit, KEPT_FOR))
