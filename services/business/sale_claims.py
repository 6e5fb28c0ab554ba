"""Claims of flash sales: orders at a sale's price, for all who claim at the moment, at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from services.business.drafts import Draft, Placed, find_earlier, insert_drafts, still_undecided
from services.business.operations import Operation
from services.business.shop import Shop
from services.data import flash_sales, idempotency, stock
from services.data.batch import Locked
from services.data.flash_sales import Claim, Sale, Turn
from services.data.orders import OrderKey, OrderLine
from services.data.sources import Transaction
from services.data.stock import Quantity
from services.problems import (
    FieldError,
    FlashSaleLimitReached,
    FlashSaleNotOpenYet,
    FlashSaleOver,
    FlashSaleSoldOut,
    NotFound,
    OutOfStock,
    Problem,
)


class NewClaim(NamedTuple):
    """Somebody wants units of a sale. He is known: there is no limit for who is nobody yet."""

    customer_id: UUID
    flash_sale_id: UUID
    quantity: int
    key: str
    fingerprint: bytes

    @property
    def token(self) -> None:
        return None

    @property
    def operation(self) -> idempotency.Operation:
        return "claim_flash_sale"


@dataclass
class ClaimDraft(Draft[NewClaim]):
    """A claim on its way. sale: as it was found; turn: once its row is ours."""

    sale: Sale | None = None
    turn: Turn | None = None


async def claim_units(
    shop: Shop, rows: Sequence[NewClaim], patient: bool
) -> list[Placed | Exception]:
    """One transaction for all rows: sales, keys, limits, stock, orders; whoever came first wins.

    What can be refused by a look at the sale locks nothing, and nothing refused is written. Keys
    are read after the sales: whoever finds his own claim in the way finds its key, too.
    """
    drafts = [ClaimDraft(row) for row in rows]
    async with shop.database.primary.transaction() as tx:
        refusals = await _look_at_sales(tx, drafts)
        await _lock_sales(tx, drafts, refusals, patient=patient)
        await find_earlier(tx, drafts)
        for draft, refusal in zip(drafts, refusals, strict=True):
            draft.outcome = draft.outcome or refusal
        await _take_units(tx, drafts, patient=patient)
        await insert_drafts(tx, drafts, hold_for=timedelta(minutes=shop.settings.hold_minutes))
        await flash_sales.insert_claims(tx, [_claim(draft) for draft in drafts if draft.order])
    if any(draft.order is not None for draft in drafts):
        shop.changed()
    return [draft.outcome or draft.placed() for draft in drafts]


CLAIM_UNITS: Final = Operation(
    "claim_flash_sale",
    claim_units,
    key_of=lambda row: (row.customer_id, row.key),
    repeated=lambda placed: placed._replace(replayed=True),
)


async def _look_at_sales(tx: Transaction, drafts: Sequence[ClaimDraft]) -> list[Problem | None]:
    """Find the sales, and why a claim has no chance as they are now."""
    wanted = {draft.row.flash_sale_id for draft in drafts}
    sales = await flash_sales.select_sales(tx, list(wanted))
    refusals: list[Problem | None] = []
    for draft in drafts:
        sale = draft.sale = sales.get(draft.row.flash_sale_id)
        if sale is None:
            refusals.append(NotFound("There is no such flash sale."))
            continue
        refusals.append(
            _outside(sale, sale.seen_at)
            or _too_many(sale, 0, draft.row)
            or _short(sale.left, draft.row)
        )
    return refusals


async def _lock_sales(
    tx: Transaction,
    drafts: Sequence[ClaimDraft],
    refusals: Sequence[Problem | None],
    *,
    patient: bool,
) -> None:
    """Have the rows of the sales of all who may have a chance."""
    chances = [draft for draft, refusal in zip(drafts, refusals, strict=True) if refusal is None]
    if not chances:
        return
    with Locked.among(chances, drafts):
        turns = await flash_sales.lock_sales(
            tx, [draft.row.flash_sale_id for draft in chances], patient=patient
        )
    for draft in chances:
        draft.turn = turns[draft.row.flash_sale_id]


async def _take_units(tx: Transaction, drafts: Sequence[ClaimDraft], *, patient: bool) -> None:
    """Decide who gets units, in order of arrival, on rows that are locked, and hold the stock."""
    undecided = still_undecided(drafts)
    if not undecided:
        return
    asked = [(draft.row.flash_sale_id, draft.row.customer_id) for draft in undecided]
    claimants, has = await flash_sales.select_claimed(tx, asked)
    variants = [[Quantity(_sale(draft).variant_id, draft.row.quantity)] for draft in undecided]
    with Locked.among(undecided, drafts):
        in_stock = await stock.lock_stock(tx, variants, patient=patient)
    claimed = {draft.row.flash_sale_id: _turn(draft).claimed for draft in undecided}
    for draft, claimant, basket in zip(undecided, claimants, variants, strict=True):
        sale, row = _sale(draft), draft.row
        left = sale.quantity - claimed[sale.flash_sale_id]
        draft.outcome = (
            _outside(sale, _turn(draft).since)
            or _too_many(sale, has[claimant], row)
            or _short(left, row)
            or _out_of_stock(in_stock, basket)
        )
        if draft.outcome is None:
            claimed[sale.flash_sale_id] += row.quantity
            has[claimant] += row.quantity
            draft.currency, draft.lines = sale.currency, [_line(sale, row.quantity)]
    taken = [
        basket for draft, basket in zip(undecided, variants, strict=True) if draft.outcome is None
    ]
    await stock.move_to_held(tx, taken)


def _outside(sale: Sale, now: datetime) -> Problem | None:
    """Opening is the first moment of the sale, closing the first after it."""
    if sale.title is None:
        return FlashSaleOver("The product is not for sale any more.")
    if now >= sale.closes_at:
        return FlashSaleOver()
    if now < sale.opens_at:
        wait_s = math.ceil((sale.opens_at - now).total_seconds())
        return FlashSaleNotOpenYet(f"It opens in {wait_s} s.", retry_after_s=wait_s)
    return None


def _too_many(sale: Sale, has: int, row: NewClaim) -> Problem | None:
    if has + row.quantity <= sale.customer_limit:
        return None
    detail = f"at most {sale.customer_limit} a customer, {has} claimed"
    return FlashSaleLimitReached(errors=[_quantity_error(detail)])


def _short(left: int, row: NewClaim) -> Problem | None:
    if row.quantity <= left:
        return None
    return FlashSaleSoldOut(errors=[_quantity_error(f"only {left} left")])


def _out_of_stock(in_stock: dict[UUID, int], basket: stock.Basket) -> Problem | None:
    """Take the basket from what is in stock, or refuse it."""
    short = stock.take(in_stock, basket)
    if not short:
        return None
    return OutOfStock(errors=[_quantity_error(f"only {short[0].available} available")])


def _quantity_error(detail: str) -> FieldError:
    return {"field": "/quantity", "detail": detail}


def _line(sale: Sale, quantity: int) -> OrderLine:
    return OrderLine(sale.variant_id, sale.title or "", quantity, sale.unit_price_minor)


def _claim(draft: ClaimDraft) -> Claim:
    assert draft.order is not None  # noqa: S101 - only of those that were placed
    key = OrderKey(draft.order.customer_id, draft.order.order_id)
    return Claim(key, draft.row.flash_sale_id, draft.row.quantity, _turn(draft).since)


def _sale(draft: ClaimDraft) -> Sale:
    assert draft.sale is not None  # noqa: S101 - who has none is refused first
    return draft.sale


def _turn(draft: ClaimDraft) -> Turn:
    assert draft.turn is not None  # noqa: S101 - who is not refused at a look has locked the row
    return draft.turn
