"""Search and lists: keyset pages over products, by words first and by likeness when no word fits.

Each order has its own statement, because a statement that serves several is planned for none.
A keyset page starts behind the last row of the one before: its cost does not grow with its number.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple
from uuid import UUID

Sort = Literal["relevance", "popular", "price", "-price", "newest"]
Match = Literal["all", "words", "similar"]

# Ranking looks at this many of the most popular hits: a word that is in every product would
# otherwise rank a million rows a request.
CANDIDATES: Final = 2000
SIMILARITY: Final = 0.3  # "shrit" is 0.33 like "shirt"; pg_trgm's own 0.6 finds no transposition


class Page(NamedTuple):
    """Where a page starts: behind this value of the sort column and this product."""

    sort_value: float
    product_id: UUID


class Filters(NamedTuple):
    """What narrows a list; prices in minor units. query is searched as words or by likeness."""

    query: str | None = None
    match: Match = "all"
    category_slug: str | None = None
    min_price_minor: int | None = None
    max_price_minor: int | None = None


# column, direction: what a sort reads and how; the tie is broken by product_id the same way.
SORTS: Final[dict[str, tuple[str, str]]] = {
    "popular": ("p.popularity", "desc"),
    "price": ("p.price_from_minor::float8", "asc"),
    "-price": ("p.price_from_minor::float8", "desc"),
    "newest": ("extract(epoch from p.created_at)::float8", "desc"),
}

MATCHES: Final[dict[str, str]] = {
    "all": "",
    "words": "and p.search_vector @@ websearch_to_tsquery('english', $1)",
    "similar": "and $1 <% p.title",
}

RANKS: Final[dict[str, str]] = {
    "words": "round(ts_rank_cd(p.search_vector, websearch_to_tsquery('english', $1))::numeric, 6)",
    "similar": "round(word_similarity($1, p.title)::numeric, 6)",
}
