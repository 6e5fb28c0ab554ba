"""Stock keeping: an operator receives goods or corrects a count, as entries of the journal."""

from __future__ import annotations

from typing import Final, NamedTuple

from services.data.sources import Primary
from services.data.stock_journal import Kind, Moved, Named, NotEnough, move_stock, select_named

QUANTITY_MAX: Final = 1_000_000_000  # of one entry; far below what the columns hold
REASON_MAX: Final = 500


class StockRefused(Exception):
    """The entry can not be made; the message says why, in plain words. Nothing was changed."""


class Entry(NamedTuple):
    """What was moved, and how the stock stands after it."""

    variant: Named
    moved: Moved


async def enter_stock(
    primary: Primary, sku_or_variant_id: str, quantity: int, *, kind: Kind, reason: str
) -> Entry:
    """Make one journal entry and move the stock by it, in one transaction.

    A `receive` is above zero, an `adjust` anything but zero. Raises StockRefused, and what the
    primary raises when it can not be reached.
    """
    if quantity == 0 or (kind == "receive" and quantity < 0) or abs(quantity) > QUANTITY_MAX:
        raise StockRefused(f"{quantity} is not a quantity to {kind}")
    if not reason.strip() or len(reason) > REASON_MAX:
        raise StockRefused(f"the reason has to have 1 to {REASON_MAX} characters")
    variant = await _the_one(primary, sku_or_variant_id)
    try:
        async with primary.transaction() as tx:
            moved = await move_stock(tx, variant.variant_id, quantity, kind, reason.strip())
    except NotEnough:
        raise StockRefused(
            f"{variant.sku or variant.variant_id}: fewer than {-quantity} are available; "
            "what orders hold can not be taken away"
        ) from None
    return Entry(variant, moved)


async def _the_one(primary: Primary, sku_or_variant_id: str) -> Named:
    named = await select_named(primary, sku_or_variant_id)
    if not named:
        raise StockRefused(f"no variant has the id or SKU {sku_or_variant_id[:100]!r}")
    if len(named) > 1:
        ids = ", ".join(str(one.variant_id) for one in named)
        raise StockRefused(f"several variants have the SKU {sku_or_variant_id!r}; name one: {ids}")
    return named[0]
