"""Reviews: what a provider confirmed otherwise than it was asked for. Nothing of it is booked."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.provider import Amount
from services.business.requests import read_id, read_json, read_query
from services.business.roles import check_operator
from services.business.schemas import (
    Money,
    PaymentReviewDocument,
    PaymentReviewListDocument,
    PaymentReviewQuery,
    ReviewResolutionRequest,
)
from services.business.shop import Shop
from services.data import payment_reviews
from services.data.outbox import Event, insert_events
from services.data.payment_reviews import FIRST, NewReview, Review, Source
from services.data.sources import Transaction
from services.problems import NotFound
from services.telemetry import logger

log = logger(__name__)

DETAIL = "The provider speaks of another amount than it was asked for."


def difference(subject_id: UUID, asked: Amount, seen: Amount, source: Source) -> NewReview:
    """subject_id: the payment, or the operation on one."""
    return NewReview(
        subject_id,
        source,
        asked.amount_minor,
        asked.currency,
        seen.amount_minor,
        seen.currency,
        DETAIL,
    )


async def open_reviews(tx: Transaction, new: Sequence[NewReview]) -> list[Review]:
    """Note differences with an event each; returns those that were not noted before."""
    opened = await payment_reviews.insert_reviews(tx, list(dict.fromkeys(new)))
    events = [
        Event("payment_needs_review", str(review.subject_id), {"source": review.source})
        for review in opened
    ]
    await insert_events(tx, events)
    return opened


def log_reviews(opened: Sequence[Review]) -> None:
    """Call somebody, once for each, when they are committed."""
    for review in opened:
        log.error(
            "payment needs review",
            subject_id=str(review.subject_id),
            source=review.source,
            expected=f"{review.expected_minor} {review.expected_currency}",
            seen=f"{review.seen_minor} {review.seen_currency}",
        )


async def show_reviews(shop: Shop, request: Request) -> Response:
    """GET /operator/payment-reviews: what providers confirmed differently and nobody resolved."""
    check_operator(request)
    query = read_query(request, PaymentReviewQuery)
    found = await payment_reviews.select_open_reviews(
        shop.database.primary, query.cursor or FIRST, query.limit + 1
    )
    shown = found[: query.limit]
    following = shown[-1].payment_review_id if len(found) > query.limit else None
    return document(
        PaymentReviewListDocument(
            items=[_review_document(review) for review in shown], next_cursor=following
        )
    )


async def resolve_review(shop: Shop, request: Request) -> Response:
    """PUT /operator/payment-reviews/{payment_review_id}/resolution: close a review, with a word.

    Moves no money: a sum that is owed is captured or refunded on its own.
    """
    check_operator(request)
    review_id = read_id(request, "payment_review_id")
    wanted, _ = await read_json(request, ReviewResolutionRequest)
    async with shop.database.primary.transaction() as tx:
        resolved = await payment_reviews.resolve_review(tx, review_id, wanted.resolution)
    if resolved is None:
        raise NotFound("There is no such review.")
    log.info("payment review resolved", payment_review_id=str(review_id))
    return document(_review_document(resolved))


def _review_document(review: Review) -> PaymentReviewDocument:
    return PaymentReviewDocument.model_validate(
        {
            "payment_review_id": review.payment_review_id,
            "subject_id": review.subject_id,
            "source": review.source,
            "expected": Money(
                amount_minor=review.expected_minor, currency=review.expected_currency
            ),
            "seen": Money(amount_minor=review.seen_minor, currency=review.seen_currency),
            "detail": review.detail,
            "created_at": review.created_at,
            "resolved_at": review.resolved_at,
            "resolution": review.resolution,
        }
    )
