"""Keys are kept for a day: after that the same key is a new one, unless its payment is open."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from services.business import purging
from services.business.orders import place_order
from services.business.payments import claim, settle
from services.business.provider import Approved
from services.business.schemas import OrderRequest
from services.business.shop import Shop
from services.data.orders import OrderKey
from tests.shopping import Books, place


async def a_day_passes(books: Books, key: str, hours: str = "24 hours 1 second") -> None:
    """As if a key had been used so long ago, and what it has made been made then."""
    made = "select subject_id from idempotency_keys where idempotency_key = $1"
    for table, which in (
        ("orders", f"order_id in ({made})"),
        ("payments", f"payment_id in ({made})"),
        ("idempotency_keys", "idempotency_key = $1"),
    ):
        await books.rows(
            f"update {table} set created_at = created_at - $2::text::interval where {which}",  # noqa: S608 - names of ours
            key,
            hours,
        )


async def is_kept(books: Books, key: str) -> bool:
    sql = "select count(*) from idempotency_keys where idempotency_key = $1"
    return bool(await books.value(sql, key))


async def test_the_key_of_an_order_is_a_new_one_after_a_day_and_not_before(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods = await lab_books.goods()
    first = await place(lab_shop, {goods.variant: 1})
    body = {"lines": [{"variant_id": str(goods.variant), "quantity": 1}]}
    wanted, key = OrderRequest.model_validate(body), uuid4().hex

    async def order() -> tuple[UUID, bool]:
        placed = await place_order(lab_shop, first.customer_id, wanted, key, b"body")
        return placed.order_id, placed.replayed

    placed, _ = await order()
    await a_day_passes(lab_books, key, "23 hours 59 minutes")
    await purging.run_once(lab_shop)
    assert await order() == (placed, True)
    await a_day_passes(lab_books, key, "2 minutes")
    await purging.run_once(lab_shop)
    another, replayed = await order()
    assert another != placed
    assert not replayed
    assert await order() == (another, True)


async def test_a_key_stays_while_its_payment_is_not_settled(
    lab_shop: Shop, lab_books: Books
) -> None:
    goods, key = await lab_books.goods(), uuid4().hex
    order: OrderKey = await place(lab_shop, {goods.variant: 1})
    claimed = await claim(lab_shop, order, "tok_approve", key, b"")
    await a_day_passes(lab_books, key)
    for state in ("INIT", "PENDING", "UNKNOWN"):
        await lab_books.rows(
            "update payments set state = $2 where payment_id = $1",
            claimed.payment.payment_id,
            state,
        )
        await purging.run_once(lab_shop)
        assert await is_kept(lab_books, key), state
    again = await claim(lab_shop, order, "tok_approve", key, b"")
    assert (again.payment.payment_id, again.replayed) == (claimed.payment.payment_id, True)
    await settle(lab_shop, claimed.payment, Approved("ch_1"))
    await purging.run_once(lab_shop)
    assert not await is_kept(lab_books, key)


async def test_several_purge_at_once_in_bounded_batches(lab_shop: Shop, lab_books: Books) -> None:
    goods = await lab_books.goods()
    first = await place(lab_shop, {goods.variant: 1})
    body = {"lines": [{"variant_id": str(goods.variant), "quantity": 1}]}
    wanted, keys = OrderRequest.model_validate(body), [uuid4().hex for _ in range(12)]
    for key in keys:
        await place_order(lab_shop, first.customer_id, wanted, key, b"body")
        await a_day_passes(lab_books, key)
    limits = [purging.run_once(lab_shop, 3) for _ in range(3)]
    assert max(await asyncio.gather(*limits)) == 3
    while await purging.run_once(lab_shop):
        pass
    left = "select count(*) from idempotency_keys where created_at < now() - interval '24 hours'"
    assert await lab_books.value(left) == 0
