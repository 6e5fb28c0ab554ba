"""Tries of passwords, counted in the database: it is there as long as logins are.

Each rule counts under a key of its own, and which tries count is decided in one statement, under
the locks of their rows: of many that come at once no more pass than may.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from services.data.sources import Primary, Transaction


class Rule(NamedTuple):
    """`free` tries in 15 minutes need not wait; each further one waits twice as long as the one
    before, from 1 s up to longest_s; after `most` there are none."""

    free: int
    most: int
    longest_s: float


class Keys(NamedTuple):
    """What a try counts under. by_pair: the account together with the network it comes from."""

    by_pair: bytes
    by_network: bytes
    by_account: bytes


class Try(NamedTuple):
    """wait_s: 0 of one that counts, else how long it would have to wait."""

    tried_at: datetime
    wait_s: float


# One after another, each only if those before let it pass: what one rule refuses does not use up
# another. $1 to $3: the keys; $4: the address; $5 to $13: the rules. A network from which the
# account has logged in before does not wait for what others do to the account.
COUNT_TRY = """
    with by_pair as (
        insert into login_tries as t (try_key, tried_at) values ($1, array[statement_timestamp()])
        on conflict (try_key) do update set tried_at = case
            when try_wait(t.tried_at, statement_timestamp(), $5, $6, $7) > interval '0'
                then t.tried_at
            else (t.tried_at || statement_timestamp())[cardinality(t.tried_at) + 2 - $6:] end
        returning try_wait(coalesce(old.tried_at, '{}'), statement_timestamp(), $5, $6, $7) as wait
    ), by_network as (
        insert into login_tries as t (try_key, tried_at)
        select $2, array[statement_timestamp()] from by_pair where wait = interval '0'
        on conflict (try_key) do update set tried_at = case
            when try_wait(t.tried_at, statement_timestamp(), $8, $9, $10) > interval '0'
                then t.tried_at
            else (t.tried_at || statement_timestamp())[cardinality(t.tried_at) + 2 - $9:] end
        returning try_wait(coalesce(old.tried_at, '{}'), statement_timestamp(), $8, $9, $10) as wait
    ), by_account as (
        insert into login_tries as t (try_key, tried_at)
        select $3, array[statement_timestamp()] from by_network where wait = interval '0'
            and not exists (
                select from accounts join account_networks using (customer_id)
                where email_key = $4 and network_key = $2
            )
        on conflict (try_key) do update set tried_at = case
            when try_wait(t.tried_at, statement_timestamp(), $11, $12, $13) > interval '0'
                then t.tried_at
            else (t.tried_at || statement_timestamp())[cardinality(t.tried_at) + 2 - $12:] end
        returning try_wait(coalesce(old.tried_at, '{}'), statement_timestamp(), $11, $12, $13)
            as wait
    )
    select statement_timestamp() as tried_at, extract(epoch from max(wait))::float8 as wait_s
    from (select * from by_pair union all select * from by_network
        union all select * from by_account) as waits
"""

COUNT_ONE = """
    insert into login_tries as t (try_key, tried_at) values ($1, array[statement_timestamp()])
    on conflict (try_key) do update set tried_at = case
        when try_wait(t.tried_at, statement_timestamp(), $2, $3, $4) > interval '0'
            then t.tried_at
        else (t.tried_at || statement_timestamp())[cardinality(t.tried_at) + 2 - $3:] end
    returning extract(epoch from
        try_wait(coalesce(old.tried_at, '{}'), statement_timestamp(), $2, $3, $4))::float8
"""

# In the order in which COUNT_TRY locks them.
FORGET_TRY = """
    with locked as (
        select try_key from login_tries where try_key = any($1::bytea[])
        order by array_position($1::bytea[], try_key) for update
    )
    update login_tries t set tried_at = array_remove(t.tried_at, $2)
    from locked where t.try_key = locked.try_key
"""

KNOW_NETWORK = """
    insert into account_networks (customer_id, network_key) values ($1, $2)
    on conflict (customer_id, network_key) do update set last_login_at = now()
"""

TRIM_TRIES = """
    with old as (
        select try_key from login_tries
        where coalesce(tried_at[cardinality(tried_at)], '-infinity') < now() - interval '15 minutes'
        limit $1 for update skip locked
    ), gone as (
        delete from login_tries t using old where t.try_key = old.try_key returning true
    )
    select count(*) from gone
"""


async def count_try(
    primary: Primary, keys: Keys, email_key: str, *, pair: Rule, network: Rule, account: Rule
) -> Try:
    """Count a try before its password is looked at; one that has to wait does not count."""
    row = await primary.fetchrow(COUNT_TRY, *keys, email_key, *pair, *network, *account)
    assert row is not None  # noqa: S101 - an aggregate is always there
    return Try(*row)


async def count_one(tx: Transaction, key: bytes, rule: Rule) -> float:
    """Count something under one key; returns the seconds that it has to wait, else 0."""
    return float(await tx.fetchval(COUNT_ONE, key, *rule))


async def forget_try(tx: Transaction, keys: Keys, tried_at: datetime) -> None:
    """Take back a try whose password was right: only failures count."""
    await tx.execute(FORGET_TRY, list(keys), tried_at)


async def know_network(tx: Transaction, customer_id: UUID, network_key: bytes) -> None:
    """Note that an account has logged in from there."""
    await tx.execute(KNOW_NETWORK, customer_id, network_key)


async def trim_tries(tx: Transaction, limit: int) -> int:
    """Delete what counts no more; returns how many."""
    return int(await tx.fetchval(TRIM_TRIES, limit))
