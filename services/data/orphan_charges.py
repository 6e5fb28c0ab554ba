"""Orphan charges: money that a provider has taken and that stands for no payment of ours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from services.data.sources import Reader, Transaction


class NewOrphan(NamedTuple):
    """A charge in the provider's books, its amount in minor units; detail says why it is none."""

    charge_key: str
    charge_id: str
    amount_minor: int
    currency: str
    detail: str


class Orphan(NamedTuple):
    charge_key: str
    charge_id: str
    amount_minor: int
    currency: str
    state: str
    detail: str
    attempt_count: int


# A charge is found once, whoever finds it.
INSERT_ORPHANS = """
    insert into orphan_charges (charge_key, charge_id, amount_minor, currency, detail)
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[])
        as n (charge_key, charge_id, amount_minor, currency, detail)
    order by charge_key
    on conflict on constraint orphan_charges_pkey do nothing
    returning charge_key, charge_id, amount_minor, currency, state, detail, attempt_count
"""

SELECT_ORPHANS = """
    select charge_key, charge_id, amount_minor, currency, state, detail, attempt_count
    from orphan_charges where charge_key = any($1)
"""

# Pushing next_attempt_at is the lease: another worker leaves these alone until then.
CLAIM_ORPHANS = """
    with due as (
        select charge_key from orphan_charges where state = 'found' and next_attempt_at <= now()
        order by next_attempt_at limit $1 for update skip locked
    )
    update orphan_charges o set attempt_count = o.attempt_count + 1,
        next_attempt_at = now() + least($2::interval * power(2, least(o.attempt_count, 10)), $3)
    from due d where o.charge_key = d.charge_key
    returning o.charge_key, o.charge_id, o.amount_minor, o.currency, o.state, o.detail,
        o.attempt_count
"""

RETURN_ORPHAN = """
    update orphan_charges set state = 'returned', returned_at = now(), detail = $2
    where charge_key = $1 and state = 'found' returning charge_key
"""

# The first walk looks at all there is. Whoever moves next_walk_at walks, the others do not.
INSERT_WALK = """
    insert into provider_walks (provider, walked_until) values ($1, 'epoch')
    on conflict on constraint provider_walks_pkey do nothing
"""

CLAIM_WALK = """
    update provider_walks set next_walk_at = now() + $2
    where provider = $1 and next_walk_at <= now() returning walked_until
"""

MOVE_WALK = """
    update provider_walks set walked_until = greatest(walked_until, $2) where provider = $1
"""


async def insert_orphans(tx: Transaction, found: Sequence[NewOrphan]) -> list[Orphan]:
    """Write down charges that nobody asked for; returns those that were not known."""
    if not found:
        return []
    columns = map(list, zip(*found, strict=True))
    return [Orphan(*row) for row in await tx.fetch(INSERT_ORPHANS, *columns)]


async def select_orphans(reader: Reader, charge_keys: Sequence[str]) -> dict[str, Orphan]:
    if not charge_keys:
        return {}
    rows = await reader.fetch(SELECT_ORPHANS, list(charge_keys))
    return {row["charge_key"]: Orphan(*row) for row in rows}


async def claim_orphans(
    tx: Transaction, limit: int, *, first_wait: timedelta, longest_wait: timedelta
) -> list[Orphan]:
    """Charges that are to be given back, leased to the caller."""
    rows = await tx.fetch(CLAIM_ORPHANS, limit, first_wait, longest_wait)
    return [Orphan(*row) for row in rows]


async def return_orphan(tx: Transaction, charge_key: str, detail: str) -> bool:
    """Note that it was given back; whether this was the first time."""
    return bool(await tx.fetch(RETURN_ORPHAN, charge_key, detail))


async def claim_walk(tx: Transaction, provider: str, *, pause: timedelta) -> datetime | None:
    """Up to when the provider's list was walked; None if a walk of the last `pause` is known."""
    await tx.execute(INSERT_WALK, provider)
    moment: datetime | None = await tx.fetchval(CLAIM_WALK, provider, pause)
    return moment


async def move_walk(tx: Transaction, provider: str, walked_until: datetime) -> None:
    """Remember how far it was walked; never back."""
    await tx.execute(MOVE_WALK, provider, walked_until)
