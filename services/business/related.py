"""Related products: found out from what is bought and looked at together, in the background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from itertools import permutations
from typing import Final
from uuid import UUID

from services.business.shop import Shop
from services.data import related
from services.data.outbox import insert_tags
from services.data.pages import product_tag

EVERY: Final = timedelta(minutes=10)  # for one product
PRODUCTS: Final = 100  # a round: some 50 ms
OLD_PAIRS: Final = 1000


def pairs_of(baskets: Iterable[Iterable[UUID]]) -> Counter[tuple[UUID, UUID]]:
    """How often each product was bought with each other one."""
    return Counter(pair for basket in baskets for pair in permutations(basket, 2))


async def refresh_related(shop: Shop, every: timedelta = EVERY) -> int:
    """Look again what goes with the products that are wanted most; returns how many changed.

    Only what has changed is written, and only its pages are asked for again.
    """
    async with shop.database.primary.transaction() as tx:
        due = await related.select_due(tx, every, PRODUCTS)
        if not due:
            return 0
        together = await related.select_together(tx, due)
        before = await related.select_found(tx, due)
        changed = {
            product_id: together.get(product_id, [])
            for product_id in due
            if together.get(product_id, []) != before.get(product_id, [])
        }
        if changed:
            await related.replace_found(tx, changed)
            await insert_tags(tx, [product_tag(product_id) for product_id in changed])
        await related.set_refreshed(tx, due)
        await related.delete_old_pairs(tx, OLD_PAIRS)
    if changed:
        shop.changed()
    return len(changed)
