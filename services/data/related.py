"""What goes with a product: bought together or looked at by the same visitors, most often first.

What a merchant's import has set is never touched: it stands at positions up to 1000, and what is
found out here follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from services.data.sources import Transaction

FIRST_POSITION: Final = 1001
RELATED_LIMIT: Final = 12  # of one product: as many as its page shows
# A pair that only one customer has made would show his basket to everybody.
LEAST: Final = 2
BOUGHT_WEIGHT: Final = 5.0  # who buys both says more than who looks at both
BASKET_LIMIT: Final = 10  # products of one order: its pairs grow with the square
VIEWERS_LIMIT: Final = 500  # visitors of a product whose other views are looked at
PAIR_KEPT: Final = timedelta(days=90)

# The orders behind transfers: a transfer is of a payment, or of an operation on one.
SELECT_BASKETS: Final = f"""
    with paid as (
        select customer_id, order_id from payments where payment_id = any($1::uuid[])
        union
        select p.customer_id, p.order_id from payment_operations x
        join payments p using (customer_id, payment_id) where x.operation_id = any($1::uuid[])
    )
    select b.product_ids from paid cross join lateral (
        select array_agg(product_id) as product_ids from (
            select distinct v.product_id from order_lines l join variants v using (variant_id)
            where (l.customer_id, l.order_id) = (paid.customer_id, paid.order_id)
            order by v.product_id limit {BASKET_LIMIT}
        ) few
    ) b where b.product_ids is not null
"""  # noqa: S608  # nosec B608 - the number above

ADD_PAIRS: Final = """
    insert into bought_together as b (product_id, other_product_id, orders, last_at)
    select n.product_id, n.other_product_id, n.orders, now()
    from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as n (product_id, other_product_id, orders)
    order by 1, 2
    on conflict (product_id, other_product_id) do update set
        orders = b.orders + excluded.orders, last_at = excluded.last_at
"""

# One worker at a time; the most wanted first, each once in a while.
TAKE_TURN: Final = "select pg_try_advisory_xact_lock(7008)"
SELECT_DUE: Final = """
    select product_id from trending_products left join related_refreshes using (product_id)
    where refreshed_at is null or refreshed_at < now() - $1::interval
    order by log_score desc limit $2
"""

SELECT_TOGETHER: Final = f"""
    with asked as (select unnest($1::uuid[]) as product_id), scores as (
        select b.product_id, b.other_product_id, b.orders * {BOUGHT_WEIGHT} as score
        from bought_together b join asked using (product_id)
        where b.orders >= {LEAST} and b.last_at > now() - $2::interval
        union all
        select asked.product_id, w.product_id, count(*)
        from asked cross join lateral (
            select day, visitor from viewed_products v where v.product_id = asked.product_id
            limit {VIEWERS_LIMIT}
        ) who join viewed_products w using (day, visitor)
        where w.product_id <> asked.product_id
        group by asked.product_id, w.product_id having count(*) >= {LEAST}
    ), ranked as (
        select product_id, other_product_id,
            row_number() over (partition by product_id
                order by sum(score) desc, other_product_id) as place
        from scores s where not exists (
            select from related_products r where r.source = 'import'
                and (r.product_id, r.related_product_id) = (s.product_id, s.other_product_id)
        )
        group by product_id, other_product_id
    )
    select product_id, array_agg(other_product_id order by place) from ranked
    where place <= {RELATED_LIMIT} group by product_id
"""  # noqa: S608  # nosec B608 - the numbers above

SELECT_FOUND: Final = """
    select product_id, array_agg(related_product_id order by position) from related_products
    where source = 'events' and product_id = any($1::uuid[]) group by product_id
"""

DELETE_FOUND: Final = """
    delete from related_products where source = 'events' and product_id = any($1::uuid[])
"""

# A product may have gone since it was looked at.
INSERT_FOUND: Final = """
    insert into related_products (product_id, position, related_product_id, source)
    select n.product_id, n.position, n.other_id, 'events'
    from unnest($1::uuid[], $2::integer[], $3::uuid[]) as n (product_id, position, other_id)
    join products on products.product_id = n.other_id
"""

SET_REFRESHED: Final = """
    insert into related_refreshes (product_id, refreshed_at)
    select product_id, now() from unnest($1::uuid[]) as product_id
    on conflict (product_id) do update set refreshed_at = excluded.refreshed_at
"""

DELETE_OLD_PAIRS: Final = """
    with old as (
        select product_id, other_product_id from bought_together
        where last_at < now() - $1::interval limit $2
    )
    delete from bought_together b using old
    where (b.product_id, b.other_product_id) = (old.product_id, old.other_product_id)
"""


async def select_baskets(tx: Transaction, cause_ids: Iterable[UUID]) -> list[list[UUID]]:
    """The products of each order that transfers with these causes paid for."""
    return [list(row[0]) for row in await tx.fetch(SELECT_BASKETS, list(cause_ids))]


async def add_pairs(tx: Transaction, pairs: Mapping[tuple[UUID, UUID], int]) -> None:
    """Add orders in which both products are."""
    if pairs:
        rows = [(*pair, orders) for pair, orders in pairs.items()]
        await tx.execute(ADD_PAIRS, *[list(column) for column in zip(*rows, strict=True)])


async def select_due(tx: Transaction, every: timedelta, limit: int) -> list[UUID]:
    """Products whose turn it is; none while another worker is at it, until the transaction ends."""
    if not await tx.fetchval(TAKE_TURN):
        return []
    return [row[0] for row in await tx.fetch(SELECT_DUE, every, limit)]


async def select_together(tx: Transaction, product_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """By product, what goes with it, without what an import has said."""
    rows = await tx.fetch(SELECT_TOGETHER, product_ids, PAIR_KEPT)
    return {row[0]: list(row[1]) for row in rows}


async def select_found(tx: Transaction, product_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """What was found out before."""
    return {row[0]: list(row[1]) for row in await tx.fetch(SELECT_FOUND, product_ids)}


async def replace_found(tx: Transaction, found: Mapping[UUID, Sequence[UUID]]) -> None:
    rows = [
        (product_id, position, other_id)
        for product_id, others in found.items()
        for position, other_id in enumerate(others, start=FIRST_POSITION)
    ]
    await tx.execute(DELETE_FOUND, list(found))
    if rows:
        await tx.execute(INSERT_FOUND, *[list(column) for column in zip(*rows, strict=True)])


async def set_refreshed(tx: Transaction, product_ids: Sequence[UUID]) -> None:
    await tx.execute(SET_REFRESHED, product_ids)


async def delete_old_pairs(tx: Transaction, limit: int) -> None:
    """Forget a portion of the pairs that nobody has bought for long."""
    await tx.execute(DELETE_OLD_PAIRS, PAIR_KEPT, limit)
