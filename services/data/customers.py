"""Customers and the tokens that stand for them; a token is stored as its hash only."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.data.sources import Reader, Transaction

GUEST_TOKEN_LIFETIME: Final = timedelta(days=90)  # how long a guest can come back to an order


class Identity(NamedTuple):
    customer_id: UUID
    kind: str


INSERT_GUEST = """
    with guest as (insert into customers (kind) values ('guest') returning customer_id)
    insert into customer_tokens (token_sha256, customer_id, expires_at)
    select $1, customer_id, now() + $2::interval from guest returning customer_id
"""

SELECT_IDENTITY = """
    select c.customer_id, c.kind
    from customer_tokens t join customers c using (customer_id)
    where t.token_sha256 = $1 and t.expires_at > now()
"""


async def insert_guest(tx: Transaction, token_sha256: bytes) -> UUID:
    """A new customer who is known by a token and nothing else."""
    customer_id: UUID = await tx.fetchval(INSERT_GUEST, token_sha256, GUEST_TOKEN_LIFETIME)
    return customer_id


async def select_identity(reader: Reader, token_sha256: bytes) -> Identity | None:
    """Whose token it is; None when it is unknown or over."""
    row = await reader.fetchrow(SELECT_IDENTITY, token_sha256)
    return Identity(*row) if row is not None else None
