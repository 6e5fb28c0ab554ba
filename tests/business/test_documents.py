"""What is made of plain dicts is to the byte what its model in schemas.py would be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from asyncpg.pgproto import pgproto
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from services.business.answers import encode
from services.business.documents import (
    Json,
    Part,
    category_list,
    list_item,
    payment_document,
    product_document,
)
from services.business.schemas import (
    CategoryListDocument,
    ListItemDocument,
    PaymentDocument,
    ProductDocument,
)
from services.data.payment_operations import PaymentOperation
from services.data.payments import Payment
from services.data.products import Category, Image, ListItem, Offer, Product, Rating
from services.data.stock import StockRow

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
MAYBE = st.none() | TEXT
PRICE = st.integers(0, 2**63 - 1)
# What asyncpg makes of a uuid column: a class of its own.
IDS = st.uuids().map(lambda value: pgproto.UUID(value.hex))
PRODUCTS = st.builds(
    Product,
    product_id=IDS,
    slug=TEXT,
    title=TEXT,
    description_html=TEXT,
    vendor=TEXT,
    category_slug=MAYBE,
    category_title=MAYBE,
    tags=st.lists(TEXT, max_size=3),
    option_names=st.lists(TEXT, max_size=3),
    images=st.lists(st.builds(Image, TEXT, TEXT), max_size=3),
)
OFFERS = st.builds(
    Offer, IDS, TEXT, TEXT, st.lists(TEXT, max_size=3), TEXT, PRICE, st.none() | PRICE, MAYBE
)
ITEMS = st.builds(ListItem, IDS, TEXT, TEXT, TEXT, MAYBE, TEXT, PRICE, MAYBE)
RATINGS = st.none() | st.integers(1, 10**6).flatmap(
    lambda count: st.builds(Rating, st.just(count), st.integers(count, 5 * count))
)
PARTS: st.SearchStrategy[list[Part]] = st.lists(
    st.sampled_from(["band", "rating", "related"]), unique=True
)

MOMENTS = st.datetimes(
    datetime(2000, 1, 1),
    datetime(2100, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
CURRENCIES = st.sampled_from(["USD", "JPY"])
PAYMENTS = st.builds(
    Payment,
    customer_id=IDS,
    payment_id=IDS,
    order_id=IDS,
    state=st.sampled_from(["INIT", "PENDING", "SUCCESS", "FAILED", "ERRORED", "UNKNOWN"]),
    amount_minor=PRICE,
    currency=CURRENCIES,
    payment_method=TEXT,
    charge_id=MAYBE,
    decline_code=MAYBE,
    detail=TEXT,
    next_action_url=MAYBE,
    check_count=st.just(0),
    created_at=MOMENTS,
    updated_at=MOMENTS,
    capture_method=st.sampled_from(["automatic", "manual"]),
    capturing_minor=PRICE,
    captured_minor=PRICE,
    refunding_minor=PRICE,
    refunded_minor=PRICE,
    voided_at=st.none() | MOMENTS,
)

OPERATIONS = st.builds(
    PaymentOperation,
    customer_id=IDS,
    operation_id=IDS,
    payment_id=IDS,
    kind=st.sampled_from(["capture", "void", "refund"]),
    cause=st.sampled_from(["requested", "order_ended"]),
    state=st.sampled_from(["INIT", "PENDING", "SUCCESS", "FAILED", "ERRORED", "UNKNOWN"]),
    amount_minor=PRICE,
    currency=CURRENCIES,
    provider_reference=MAYBE,
    decline_code=MAYBE,
    detail=TEXT,
    check_count=st.just(0),
    created_at=MOMENTS,
    updated_at=MOMENTS,
)


def assert_is(model: type[BaseModel], document: Json) -> None:
    body = encode(document)
    assert model.model_validate_json(body).model_dump_json().encode() == body


@settings(max_examples=25, deadline=None)
@given(PRODUCTS, st.lists(OFFERS, max_size=3), RATINGS, st.lists(ITEMS, max_size=3), PARTS)
def test_a_product_page_is_what_its_model_says(
    product: Product,
    offers: list[Offer],
    rating: Rating | None,
    related: list[ListItem],
    degraded: list[Part],
) -> None:
    stock = [StockRow(offer.variant_id, offer.title, offer.sku, 1, "few_left") for offer in offers]
    document = product_document(
        product, offers, stock=stock[1:], rating=rating, related=related, degraded=degraded
    )
    assert_is(ProductDocument, document)
    assert [v["variant_id"] for v in document["variants"]] == [str(o.variant_id) for o in offers]


@settings(max_examples=25, deadline=None)
@given(ITEMS)
def test_an_item_of_a_list_is_what_its_model_says(item: ListItem) -> None:
    assert_is(ListItemDocument, list_item(item))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.builds(Category, TEXT, TEXT, st.integers(0, 10**9)), max_size=3))
def test_the_categories_are_what_their_model_says(rows: list[Category]) -> None:
    assert_is(CategoryListDocument, category_list(rows))


@settings(max_examples=25, deadline=None)
@given(PAYMENTS, st.lists(OPERATIONS, max_size=2))
def test_a_payment_is_what_its_model_says(
    payment: Payment, operations: list[PaymentOperation]
) -> None:
    assert_is(PaymentDocument, payment_document(payment, operations))


@pytest.mark.parametrize(
    ("count", "total", "average"), [(3, 13, 4.33), (1, 5, 5.0), (10**6, 4_300_000, 4.3)]
)
def test_stars_are_told_to_two_places(count: int, total: int, average: float) -> None:
    product = Product(uuid4(), "a", "A", "", "", None, None, [], [], [])
    document = product_document(
        product, [], stock=[], rating=Rating(count, total), related=[], degraded=[]
    )
    assert document["rating"] == {"average": average, "count": count}


def test_a_variant_without_stock_data_has_a_band_that_says_so() -> None:
    product = Product(uuid4(), "a", "A", "", "", None, None, [], [], [])
    offer = Offer(UUID(int=1), "t", "s", [], "USD", 1, None, None)
    document = product_document(
        product, [offer], stock=[], rating=None, related=[], degraded=["band"]
    )
    assert document["variants"][0]["band"] == "unknown"
