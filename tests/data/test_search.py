"""How searches are planned: for their values each time, and never along the order of a list."""

from __future__ import annotations

import pytest

from services.business.shop import Shop
from services.data.search import CANDIDATES, Filters, Match, Sort, list_statement, select_hits
from tests.shopping import Books

SEARCHES: tuple[tuple[Filters, Sort, Match], ...] = (
    (Filters("shirt"), "relevance", "words"),
    (Filters("shrit"), "relevance", "similar"),
    (Filters("shrit"), "popular", "similar"),
    (Filters("mug", None, 100, 5000), "price", "words"),
)
# From the sixth execution on PostgreSQL may take a plan for no values in particular.
EXECUTIONS = 6


async def test_no_search_is_ever_run_by_a_plan_for_no_values(shop: Shop) -> None:
    async with shop.database.primary.transaction() as tx:
        for _ in range(EXECUTIONS):
            for filters, sort, match in SEARCHES:
                await select_hits(tx, filters, sort=sort, match=match, after=None, limit=5)
        kept = await tx.fetch("select statement from pg_prepared_statements")
    assert not [row for row in kept if "as sort_value" in row["statement"]]
    assert len(kept) > 0  # all others are prepared


@pytest.mark.parametrize("sort", ["relevance", "popular", "price", "newest"])
async def test_what_is_alike_is_found_by_its_index_however_it_is_sorted(
    sort: Sort, books: Books
) -> None:
    """Along the order of the list each product would be compared: a second in a large catalog."""
    sql, args = list_statement(Filters("shrit"), sort, "similar", None, 5)
    async with books.connection.transaction():
        # A small catalog would be read as a whole; what is left is either order or likeness.
        await books.rows("set local enable_seqscan = off")
        await books.rows("set local enable_sort = off")
        plan = "\n".join(row[0] for row in await books.rows(f"explain {sql}", *args))
    assert "products_title_trgm_idx" in plan
    assert "using products_" not in plan  # scanned in the order of an index


async def test_the_most_alike_are_ranked_and_not_the_most_popular(
    lab_shop: Shop, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await lab_books.goods(title="Quizzical Marmalade")
    popular = await lab_books.goods(title="Quizzical Marmoset")
    await lab_books.rows(
        "update products set popularity = 10 where product_id = $1", popular.product_id
    )

    async def found() -> list[str]:
        hits = await select_hits(
            lab_shop.database.primary,
            Filters("quizzicla marmalade"),
            sort="relevance",
            match="similar",
            after=None,
            limit=5,
        )
        return [hit.item.slug for hit in hits]

    assert await found() == [wanted.slug, popular.slug]
    best, _ = CANDIDATES["similar"]
    monkeypatch.setitem(CANDIDATES, "similar", (best, 1))
    assert await found() == [wanted.slug]
