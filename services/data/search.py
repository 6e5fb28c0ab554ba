"""Search and lists: keyset pages over products, by words first, by likeness when no word fits.

A keyset page starts behind the last row of the page before: its cost does not grow with its
number. A statement is put together from the constants below and from numbered parameters, one
text for each combination of filters, and planned for its values: a word may be in half of all
products or in none.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from services.data.link import PlannedAnew
from services.data.products import ListItem
from services.data.sources import Reader

Sort = Literal["relevance", "popular", "price", "-price", "newest"]
Match = Literal["words", "similar"]
SortValue = float | int | datetime

# Ranking looks at this many hits, by words the most popular ones: a word that is in every product
# would otherwise rank a million rows a request. To rank by likeness costs some 50 microseconds a
# product, so of those only the most alike are looked at.
CANDIDATES: Final[dict[Match, tuple[str, int]]] = {
    "words": ("p.popularity desc", 2000),
    "similar": ("word_similarity($1, p.title) desc, p.popularity desc, p.product_id", 200),
}


class After(NamedTuple):
    """Where a page starts: behind this value of what it is sorted by, and this product."""

    sort_value: SortValue
    product_id: UUID


class Filters(NamedTuple):
    """What narrows a list; prices in minor units."""

    query: str | None = None
    category_slug: str | None = None
    min_price_minor: int | None = None
    max_price_minor: int | None = None


class Hit(NamedTuple):
    """A product in a list, and what it was sorted by there."""

    item: ListItem
    sort_value: SortValue


COLUMNS: Final = """
    p.product_id, p.slug, p.title, p.vendor, p.category_slug, p.currency, p.price_from_minor,
    (select i.url from product_images i
        where i.product_id = p.product_id order by i.position limit 1) as image_url,
"""
# What is sorted by, its type as a parameter, and the direction; product_id breaks ties.
SORTS: Final[dict[str, tuple[str, str, str]]] = {
    "relevance": ("p.rank", "float8", "desc"),
    "popular": ("p.popularity", "float8", "desc"),
    "price": ("p.price_from_minor", "bigint", "asc"),
    "-price": ("p.price_from_minor", "bigint", "desc"),
    "newest": ("p.created_at", "timestamptz", "desc"),
}
# For each way to match: the condition, and the rank (rounded, so that a cursor repeats it).
MATCHES: Final[dict[Match, tuple[str, str]]] = {
    "words": (
        "p.search_vector @@ websearch_to_tsquery('english', $1)",
        "round(ts_rank_cd(p.search_vector, websearch_to_tsquery('english', $1))::numeric, 6)",
    ),
    # Trigrams find the candidates by index; of them, those rank first whose words are the fewest
    # changed letters away: "shrit" shares as many trigrams with "shakra" as with "shirt".
    "similar": (
        "$1 <% p.title",
        """(select round(avg(best), 6) from (
            select max(1 - levenshtein(left(wanted, 50), left(word, 50))::numeric
                / greatest(length(wanted), length(word))) as best
            from regexp_split_to_table(lower($1), '\\W+') wanted,
                regexp_split_to_table(lower(p.title), '\\W+') word
            where wanted <> '' group by wanted) words)""",
    ),
}


async def select_hits(
    reader: Reader,
    filters: Filters,
    *,
    sort: Sort,
    match: Match,
    after: After | None,
    limit: int,
) -> list[Hit]:
    """One page of products. relevance needs a query; match says how the query is compared."""
    sql, args = list_statement(filters, sort, match, after, limit)
    rows = await reader.fetch(PlannedAnew(sql), *args)
    return [Hit(ListItem(*row[:-1]), row[-1]) for row in rows]


def list_statement(
    filters: Filters, sort: Sort, match: Match, after: After | None, limit: int
) -> tuple[str, list[object]]:
    """The text and the values of a list's statement; they are planned anew each time."""
    conditions, args = _conditions(filters, match)
    expression, kind, direction = SORTS[sort]
    source = "products p"
    if sort == "relevance":
        rank, (best, candidates) = MATCHES[match][1], CANDIDATES[match]
        source = _join(
            "(select p.*,", rank, "::float8 as rank from products p where", *conditions,
            "order by", best, "limit", str(candidates), ") p",
        )  # fmt: skip
        conditions = ["true"]
    elif match == "similar" and filters.query is not None:
        # How many titles are alike is not known to the planner, which would look at one product
        # after another in the order of the list; offset 0 keeps it from that.
        source = _join("(select p.* from products p where", *conditions, "offset 0) p")
        conditions = ["true"]
    if after is not None:
        args += after
        compare = "<" if direction == "desc" else ">"
        value, product = f"${len(args) - 1}::{kind}", f"${len(args)}::uuid"
        conditions = [*conditions, "and (", expression, ", p.product_id)", compare]
        conditions += ["(", value, ",", product, ")"]
    args.append(limit)
    sql = _join(
        "select", COLUMNS, expression, "as sort_value from", source, "where", *conditions,
        "order by", expression, direction, ", p.product_id", direction, f"limit ${len(args)}",
    )  # fmt: skip
    return sql, args


def _conditions(filters: Filters, match: Match) -> tuple[list[str], list[object]]:
    """The where clause and its parameters; the query is always $1."""
    conditions, args = ["p.published"], list[object]()
    if filters.query is not None:
        args.append(filters.query)
        conditions += ["and", MATCHES[match][0]]
    for value, comparison, kind in (
        (filters.category_slug, "p.category_slug =", "text"),
        (filters.min_price_minor, "p.price_from_minor >=", "bigint"),
        (filters.max_price_minor, "p.price_from_minor <=", "bigint"),
    ):
        if value is not None:
            args.append(value)
            conditions += ["and", comparison, f"${len(args)}::{kind}"]
    return conditions, args


def _join(*parts: str) -> str:
    return " ".join(parts)
