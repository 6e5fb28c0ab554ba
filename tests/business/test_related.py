"""Related products: what is bought or looked at together, and never in place of an import."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from redis.asyncio import Redis

from services.business.payments import pay
from services.business.related import refresh_related
from services.business.rollups import catch_up
from services.business.shop import Shop
from services.data.products import select_related
from services.events import View
from tests.business.counting import count_all, entry, send, worker_of
from tests.shopping import Books, Goods, place
from tests.test_hyperloglog import named

AT_ONCE = timedelta()


async def clean(counted: Books) -> None:
    await counted.rows("truncate bought_together, related_refreshes")
    await counted.rows("delete from related_products")
    await counted.rows("delete from outbox")


async def related_to(counted: Books, goods: Goods) -> list[UUID]:
    rows = await counted.rows(
        "select related_product_id from related_products where product_id = $1 order by position",
        goods.product_id,
    )
    return [row[0] for row in rows]


async def buy(counting: Shop, goods: Sequence[Goods]) -> None:
    key = await place(counting, {one.variant: 1 for one in goods})
    await pay(counting, key, "tok_approve", f"key-{uuid4()}", b"body")


async def test_what_is_bought_together_is_related_once_two_have_done_it(
    counting: Shop, counted: Books
) -> None:
    await catch_up(counting, timedelta())
    await clean(counted)
    one, two, three = [await counted.goods() for _ in range(3)]
    await buy(counting, [one, two])
    await catch_up(counting, timedelta())
    assert await refresh_related(counting, AT_ONCE) == 0  # it would show what one customer bought
    await buy(counting, [one, two])
    await buy(counting, [one, three])
    await buy(counting, [one, two, three])
    await catch_up(counting, timedelta())
    assert await refresh_related(counting, AT_ONCE) == 3
    assert await related_to(counted, one) == [two.product_id, three.product_id]
    assert await related_to(counted, two) == [one.product_id]
    tags = await counted.rows("select name from outbox where kind = 'tag'")
    wanted = {f"product-{each.product_id}" for each in (one, two, three)}
    assert wanted <= {row["name"] for row in tags}
    await counted.rows("delete from outbox")
    assert await refresh_related(counting, AT_ONCE) == 0  # and no page is asked for again
    assert await counted.value("select count(*) from outbox") == 0


async def test_what_is_looked_at_by_the_same_visitors_is_related(
    counting: Shop, counted: Books, log: Redis
) -> None:
    await clean(counted)
    one, two, three = [await counted.goods() for _ in range(3)]
    slugs = [
        await counted.value("select slug from products where product_id = $1", each.product_id)
        for each in (one, two, three)
    ]
    at = datetime.now(UTC)
    for who in range(3):
        seen = slugs[:2] if who < 2 else [slugs[0], slugs[2]]
        views = [View(uuid4(), at, slug) for slug in seen]
        await send(log, entry(*views, visitor=named(who)))
    await count_all(worker_of(counting, log))
    assert await refresh_related(counting, AT_ONCE) == 2
    assert await related_to(counted, one) == [two.product_id]
    shown = await select_related(counting.database.primary, slugs[0])
    assert [item.product_id for item in shown] == [two.product_id]


async def test_what_a_merchant_has_set_stays_and_comes_first(
    counting: Shop, counted: Books
) -> None:
    await catch_up(counting, timedelta())
    await clean(counted)
    one, two, three = [await counted.goods() for _ in range(3)]
    await counted.rows(
        "insert into related_products (product_id, position, related_product_id)"
        " values ($1, 1, $2)",
        one.product_id,
        three.product_id,
    )
    for _ in range(2):
        await buy(counting, [one, two, three])
    await catch_up(counting, timedelta())
    await refresh_related(counting, AT_ONCE)
    assert await related_to(counted, one) == [three.product_id, two.product_id]
    await counted.rows("truncate bought_together")
    await refresh_related(counting, AT_ONCE)
    assert await related_to(counted, one) == [three.product_id]


async def test_each_product_has_its_turn(counting: Shop, counted: Books) -> None:
    await catch_up(counting, timedelta())
    await clean(counted)
    pair = [await counted.goods() for _ in range(2)]
    for _ in range(2):
        await buy(counting, pair)
    await catch_up(counting, timedelta())
    assert await refresh_related(counting) == 2
    await counted.rows("truncate bought_together")
    assert await refresh_related(counting) == 0  # they were looked at a moment ago
    assert await refresh_related(counting, AT_ONCE) == 2
