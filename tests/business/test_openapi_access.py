"""What the document says of POST /events and GET /live is what access takes and what is told."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import orjson
import pytest
from openapi_schema_validator import OAS31Validator

from services.access.live_request import PARAMETERS, PRODUCTS, SALES
from services.business.live_states import Told, order_states, product_states, sale_states
from services.business.openapi import openapi_document
from services.business.openapi_access import DATA_OF
from services.data.flash_sales import Sale
from services.data.live import LiveOrder, LiveVariant
from services.events import EVENTS_LIMIT, TYPES, read_body
from services.problems import catalogue

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
EVENT: dict[str, Any] = {"id": str(uuid4()), "at": "2026-03-01T10:00:00.000Z"}
VIEW = EVENT | {"type": "view", "product": "a-lamp"}


def operation(path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = openapi_document()["paths"][path][method]
    return found


def fits(name: str, value: object) -> bool:
    document = openapi_document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return bool(OAS31Validator(schema).is_valid(value))


@pytest.mark.parametrize(
    ("events", "taken"),
    [
        ([VIEW], True),
        ([EVENT | {"type": "view"}], True),
        ([EVENT | {"type": "search", "query": "lamp", "results": 0}], True),
        ([EVENT | {"type": "add_to_cart", "product": "a-lamp"}], True),
        ([EVENT | {"type": "checkout"}, EVENT | {"type": "purchase"}], True),
        ([VIEW | {"later": 1}], True),  # fields that are not known
        ([VIEW] * EVENTS_LIMIT, True),
        ([VIEW] * (EVENTS_LIMIT + 1), False),
        ([], False),
        ([EVENT], False),
        ([EVENT | {"type": "booked"}], False),
        ([VIEW | {"product": "No Slug"}], False),
        ([VIEW | {"at": None}], False),
        ([EVENT | {"type": "search", "query": "", "results": 0}], False),
        ([EVENT | {"type": "search", "query": "lamp", "results": -1}], False),
    ],
)
def test_a_batch_fits_the_document_when_access_takes_it(events: list[Any], taken: bool) -> None:
    body = {"events": events}
    try:
        read_body(orjson.dumps(body))
        is_read = True
    except msgspec.ValidationError:
        is_read = False
    assert (is_read, fits("EventBody", body)) == (taken, taken)


def test_every_type_of_event_is_named() -> None:
    mapping = openapi_document()["components"]["schemas"]["EventBody"]["properties"]["events"][
        "items"
    ]["discriminator"]["mapping"]
    assert set(mapping) == set(TYPES)
    schemas = openapi_document()["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in mapping.values()} <= set(schemas)


def test_both_media_types_of_a_batch_and_the_one_of_a_stream_are_named() -> None:
    assert set(operation("/events", "post")["requestBody"]["content"]) == {
        "application/json",
        "text/plain",
    }
    stream = operation("/live", "get")["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert set(stream["x-data"]) == set(DATA_OF) == {"product", "sale", "order", "analytics"}


def test_parameters_of_a_stream_are_those_that_are_read() -> None:
    parameters = operation("/live", "get")["parameters"]
    assert tuple(one["name"] for one in parameters if one["in"] == "query") == PARAMETERS
    for kind in (PRODUCTS, SALES):
        (said,) = [one["description"] for one in parameters if one["name"] == kind.parameter]
        assert f"at most {kind.limit}" in said


def test_problems_are_those_of_the_catalogue_under_their_status() -> None:
    titles = {(str(kind.status), f"{kind.name}: {kind.title}") for kind in catalogue()}
    for path, method in (("/events", "post"), ("/live", "get")):
        for status, response in operation(path, method)["responses"].items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"]
                assert {(status, one) for one in response["description"].split("; ")} <= titles


def states() -> Iterable[Told]:
    variant = LiveVariant("a-lamp", uuid4(), "USD", 1999, 2500, "few_left", 2)
    yield from product_states(["a-lamp", "gone"], {"a-lamp": [variant]})
    opens_at = NOW + timedelta(hours=1)
    sale = Sale(
        flash_sale_id=uuid4(),
        variant_id=uuid4(),
        opens_at=opens_at,
        closes_at=opens_at + timedelta(hours=1),
        quantity=5,
        claimed=0,
        customer_limit=1,
        unit_price_minor=900,
        currency="USD",
        created_at=NOW,
        seen_at=NOW,
        title="A lamp",
    )
    yield from sale_states([sale.flash_sale_id, uuid4()], {sale.flash_sale_id: sale})
    for payment_id, state in ((uuid4(), "SUCCESS"), (None, None)):
        yield from order_states(
            [LiveOrder(uuid4(), uuid4(), "placed", "USD", 1999, NOW, NOW, payment_id, state)]
        )


def test_data_of_live_events_is_what_the_document_says() -> None:
    told = list(states())
    assert {each.state.event for each in told} == {"product", "sale", "order"}
    for each in told:
        data, model = orjson.loads(each.state.data), DATA_OF[each.state.event]
        assert fits(model.__name__, data), data
        assert set(data) <= set(model.model_fields)
