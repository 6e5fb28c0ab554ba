"""Accounts: who logs in by an address and a password, and what was mailed to prove the address."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from services.data.sources import Reader, Transaction

Role = Literal["customer", "merchant", "operator"]
TokenKind = Literal["confirmation", "reset"]


class Account(NamedTuple):
    """email_key: the address in the form by which it is found. role: of customers.kind."""

    customer_id: UUID
    role: Role
    email: str
    email_key: str
    password_hash: str
    password_changed_at: datetime
    created_at: datetime
    disabled_at: datetime | None


class AccountToken(NamedTuple):
    """What a mail proves: that who has it reads the mails of this address."""

    kind: TokenKind
    email: str
    email_key: str


SELECT_ACCOUNT = """
    select a.customer_id, c.kind, a.email, a.email_key, a.password_hash, a.password_changed_at,
        a.created_at, a.disabled_at
    from accounts a join customers c using (customer_id) where a.email_key = $1
"""

SELECT_ACCOUNT_OF = """
    select a.customer_id, c.kind, a.email, a.email_key, a.password_hash, a.password_changed_at,
        a.created_at, a.disabled_at
    from accounts a join customers c using (customer_id) where a.customer_id = $1
"""

# Whoever begins a session of it, or ends them all, does so one after another.
LOCK_ACCOUNT = f"{SELECT_ACCOUNT_OF} for update of a"

SELECT_ACCOUNTS = """
    select a.customer_id, c.kind, a.email, a.email_key, a.password_hash, a.password_changed_at,
        a.created_at, a.disabled_at
    from accounts a join customers c using (customer_id)
    where c.kind = any($1::text[]) order by a.email_key
"""

# None is made where the address has one: of two that come at once, one is first.
INSERT_ACCOUNT = """
    with fresh as materialized (select uuidv7() as customer_id), customer as (
        insert into customers (customer_id, kind)
        select customer_id, $1 from fresh
        where not exists (select from accounts where email_key = $3)
        returning customer_id, kind
    )
    insert into accounts (customer_id, email, email_key, password_hash)
    select customer_id, $2, $3, $4 from customer
    on conflict (email_key) do nothing
    returning customer_id, password_changed_at, created_at
"""

CHANGE_HASH = """
    update accounts set password_hash = $2, password_changed_at = clock_timestamp()
    where customer_id = $1
"""

# The same password, hashed with the parameters of today.
RENEW_HASH = "update accounts set password_hash = $2 where customer_id = $1"

UPDATE_ROLE = "update customers set kind = $2 where customer_id = $1"

DISABLE = "update accounts set disabled_at = coalesce(disabled_at, now()) where customer_id = $1"

ENABLE = "update accounts set disabled_at = null where customer_id = $1"

INSERT_PROOF = """
    insert into account_tokens (token_sha256, kind, email, email_key, expires_at)
    values ($1, $2, $3, $4, now() + $5::interval)
"""

SELECT_PROOF = """
    select kind, email, email_key from account_tokens
    where token_sha256 = $1 and used_at is null and expires_at > now()
"""

# Of two who use a token at once, the second waits for the first and finds it used. What else was
# mailed to the address is over with it.
SPEND_PROOF = """
    with locked as (
        select token_sha256 from account_tokens
        where used_at is null and expires_at > now() and email_key = (
            select email_key from account_tokens where token_sha256 = $1
        )
        order by token_sha256 for update
    ), used as (
        update account_tokens t set used_at = now() from locked l
        where t.token_sha256 = l.token_sha256 and exists (
            select from locked where token_sha256 = $1
        )
        returning t.token_sha256, t.kind, t.email, t.email_key
    )
    select kind, email, email_key from used where token_sha256 = $1
"""

TRIM_PROOFS = """
    with old as (
        select token_sha256 from account_tokens where expires_at < now() - interval '1 day'
        limit $1 for update skip locked
    ), gone as (
        delete from account_tokens t using old where t.token_sha256 = old.token_sha256
        returning true
    )
    select count(*) from gone
"""


async def select_account(reader: Reader, email_key: str) -> Account | None:
    row = await reader.fetchrow(SELECT_ACCOUNT, email_key)
    return Account(*row) if row is not None else None


async def select_account_of(reader: Reader, customer_id: UUID) -> Account | None:
    row = await reader.fetchrow(SELECT_ACCOUNT_OF, customer_id)
    return Account(*row) if row is not None else None


async def lock_account(tx: Transaction, customer_id: UUID) -> Account | None:
    """The account as it is now, kept from changing until the transaction ends."""
    row = await tx.fetchrow(LOCK_ACCOUNT, customer_id)
    return Account(*row) if row is not None else None


async def select_accounts(reader: Reader, roles: Sequence[Role]) -> list[Account]:
    """All of these roles, by their addresses."""
    return [Account(*row) for row in await reader.fetch(SELECT_ACCOUNTS, list(roles))]


async def insert_account(
    tx: Transaction, role: Role, email: str, email_key: str, password_hash: str
) -> Account | None:
    """A new account; None where the address has one: then the transaction has to end."""
    row = await tx.fetchrow(INSERT_ACCOUNT, role, email, email_key, password_hash)
    if row is None:
        return None
    customer_id, changed_at, created_at = row
    return Account(customer_id, role, email, email_key, password_hash, changed_at, created_at, None)


async def update_password(tx: Transaction, customer_id: UUID, password_hash: str) -> None:
    await tx.execute(CHANGE_HASH, customer_id, password_hash)


async def update_hash(tx: Transaction, customer_id: UUID, password_hash: str) -> None:
    await tx.execute(RENEW_HASH, customer_id, password_hash)


async def update_role(tx: Transaction, customer_id: UUID, role: Role) -> None:
    await tx.execute(UPDATE_ROLE, customer_id, role)


async def disable_account(tx: Transaction, customer_id: UUID) -> None:
    await tx.execute(DISABLE, customer_id)


async def enable_account(tx: Transaction, customer_id: UUID) -> None:
    await tx.execute(ENABLE, customer_id)


async def insert_token(
    tx: Transaction, token_sha256: bytes, token: AccountToken, *, lifetime: timedelta
) -> None:
    await tx.execute(INSERT_PROOF, token_sha256, *token, lifetime)


async def select_token(reader: Reader, token_sha256: bytes) -> AccountToken | None:
    """What a token that can still be used proves; None of any other."""
    row = await reader.fetchrow(SELECT_PROOF, token_sha256)
    return AccountToken(*row) if row is not None else None


async def use_token(tx: Transaction, token_sha256: bytes) -> AccountToken | None:
    """The same, and nobody can use it, or another of this address, again."""
    row = await tx.fetchrow(SPEND_PROOF, token_sha256)
    return AccountToken(*row) if row is not None else None


async def trim_tokens(tx: Transaction, limit: int) -> int:
    """Delete what was over a day ago; returns how many."""
    return int(await tx.fetchval(TRIM_PROOFS, limit))
