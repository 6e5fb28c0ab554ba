"""Payment reviews: a provider confirmed another amount or currency than it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from services.data.sources import Reader, Transaction

Source = Literal["answer", "reconcile", "webhook"]
FIRST: Final = UUID(int=0)  # below every id


class NewReview(NamedTuple):
    """subject_id: the payment, or the operation on one. Amounts in minor units."""

    subject_id: UUID
    source: Source
    expected_minor: int
    expected_currency: str
    seen_minor: int
    seen_currency: str
    detail: str


class Review(NamedTuple):
    payment_review_id: UUID
    subject_id: UUID
    source: str
    expected_minor: int
    expected_currency: str
    seen_minor: int
    seen_currency: str
    detail: str
    created_at: datetime
    resolved_at: datetime | None = None
    resolution: str | None = None


# The same word, however often it comes, is one review.
INSERT_REVIEWS = """
    insert into payment_reviews (subject_id, source, expected_minor, expected_currency,
        seen_minor, seen_currency, detail)
    select subject_id, source, expected_minor, expected_currency, seen_minor, seen_currency, detail
    from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::text[],
        $7::text[]) as n (subject_id, source, expected_minor, expected_currency, seen_minor,
        seen_currency, detail)
    order by subject_id, seen_minor, seen_currency
    on conflict on constraint payment_reviews_once do nothing
    returning payment_review_id, subject_id, source, expected_minor, expected_currency,
        seen_minor, seen_currency, detail, created_at
"""

SELECT_OPEN = """
    select payment_review_id, subject_id, source, expected_minor, expected_currency, seen_minor,
        seen_currency, detail, created_at
    from payment_reviews where resolved_at is null and payment_review_id > $1
    order by payment_review_id limit $2
"""

# Again is no difference; another resolution replaces the words, not the time.
RESOLVE = """
    update payment_reviews set resolved_at = coalesce(resolved_at, now()), resolution = $2
    where payment_review_id = $1
    returning payment_review_id, subject_id, source, expected_minor, expected_currency, seen_minor,
        seen_currency, detail, created_at, resolved_at, resolution
"""


async def insert_reviews(tx: Transaction, new: Sequence[NewReview]) -> list[Review]:
    """Note what was confirmed differently; returns what was not noted before."""
    if not new:
        return []
    columns = [list(column) for column in zip(*new, strict=True)]
    return [Review(*row) for row in await tx.fetch(INSERT_REVIEWS, *columns)]


async def select_open_reviews(reader: Reader, after: UUID, limit: int) -> list[Review]:
    """Reviews that nobody has resolved, oldest first, from the one after `after` on."""
    return [Review(*row) for row in await reader.fetch(SELECT_OPEN, after, limit)]


async def count_open_reviews(reader: Reader) -> int:
    """How many wait for somebody to look."""
    sql = "select count(*) from payment_reviews where resolved_at is null"
    return int(await reader.fetchval(sql))


async def resolve_review(
    tx: Transaction, payment_review_id: UUID, resolution: str
) -> Review | None:
    """Note what the operator found; None if there is no such review."""
    rows = await tx.fetch(RESOLVE, payment_review_id, resolution)
    return Review(*rows[0]) if rows else None
