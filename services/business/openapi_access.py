"""What access answers itself, as the OpenAPI document has it: behaviour events and live streams.

Business has no route for either; what is said of events is made from the structures by which access
reads them, and what is said of live data is held against what the worker tells.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import Field

from services import problems
from services.business.analytics_schemas import SeriesDocument
from services.business.schemas import Document, Money
from services.events import Body
from services.problems import PROBLEM_JSON, Problem

REF: Final = "#/components/schemas/{name}"
EVENT_STREAM: Final = "text/event-stream"
EVENT_PROBLEMS: Final = (
    problems.InvalidRequest,
    problems.InvalidJson,
    problems.CrossSiteRequest,
    problems.MethodNotAllowed,
    problems.RequestTimeout,
    problems.PayloadTooLarge,
    problems.UnsupportedMediaType,
    problems.InvalidBody,
    problems.TooManyRequests,
    problems.InternalError,
    problems.Overloaded,
    problems.Unavailable,
)
LIVE_PROBLEMS: Final = (
    problems.InvalidRequest,
    problems.Unauthenticated,
    problems.Forbidden,
    problems.MethodNotAllowed,
    problems.TooManyRequests,
    problems.InternalError,
    problems.BadGateway,
    problems.Overloaded,
    problems.Unavailable,
    problems.GatewayTimeout,
)


class EventsAccepted(Document):
    """All of the batch is in the log and on its disk."""

    accepted: int = Field(description="events of the batch")


class LiveVariantDocument(Document):
    """A variant as it is now."""

    variant_id: UUID
    price: Money
    compare_at: Money | None = Field(description="price before a reduction")
    band: Literal["in_stock", "few_left", "sold_out"]
    available: int


class LiveProductDocument(Document):
    """Data of a `product` event; a product that is not on sale has no variants."""

    topic: str
    slug: str
    variants: list[LiveVariantDocument]


class LiveSaleDocument(Document):
    """Data of a `sale` event; of an unknown one only the first three."""

    topic: str
    flash_sale_id: UUID
    state: Literal["upcoming", "open", "over", "unknown"]
    variant_id: UUID | None = None
    opens_at: datetime | None = None
    closes_at: datetime | None = None
    quantity: int | None = None
    left: int | None = None
    unit_price: Money | None = None
    server_time: datetime | None = None


class LivePaymentDocument(Document):
    """The last payment of an order."""

    payment_id: UUID
    state: str


class LiveOrderDocument(Document):
    """Data of an `order` event: one of the customer's last ten."""

    topic: str
    order_id: UUID
    state: str
    total: Money
    hold_expires_at: datetime
    updated_at: datetime
    payment: LivePaymentDocument | None


# Of each event of a stream by its name.
DATA_OF: Final[dict[str, type[Document]]] = {
    "product": LiveProductDocument,
    "sale": LiveSaleDocument,
    "order": LiveOrderDocument,
    "analytics": SeriesDocument,
}
MODELS: Final[tuple[type[Document], ...]] = (EventsAccepted, *DATA_OF.values())


def event_schemas() -> dict[str, Any]:
    """The schemas of a batch, by name: those of the structures themselves."""
    _, components = msgspec.json.schema_components((Body,), ref_template=REF)
    renamed: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(components).replace(
            REF.format(name="").encode(), REF.format(name="Event").encode()
        )
    )
    return {f"Event{name}": schema for name, schema in renamed.items()}


def paths(models: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """The operations. models: a reference to the schema of each of MODELS, by its name."""
    return {
        "/events": {"post": _post_events(models)},
        "/live": {"get": _get_live(models)},
    }


def _post_events(models: dict[str, dict[str, str]]) -> dict[str, Any]:
    schema = {"$ref": REF.format(name="EventBody")}
    accepted = {"application/json": {"schema": models["EventsAccepted"]}}
    return {
        "operationId": "post_events",
        "summary": "Tell what a client did, up to 100 events at once",
        "parameters": [],
        "requestBody": {
            "required": True,
            # sendBeacon sends a string as text/plain; what is in it is the same.
            "content": {
                "application/json": {"schema": schema},
                "text/plain": {"schema": {"type": "string", "contentMediaType": "application/json",
                                          "contentSchema": schema}},
            },
        },
        "responses": {
            "202": {"description": EventsAccepted.__doc__, "content": accepted},
            "204": {"description": "The browser said Sec-GPC or DNT: nothing was read or kept."},
            **_refusals(EVENT_PROBLEMS),
        },
    }  # fmt: skip


def _get_live(models: dict[str, dict[str, str]]) -> dict[str, Any]:
    events = {name: models[model.__name__] for name, model in DATA_OF.items()}
    stream = {
        "type": "string",
        "description": "Events of text/event-stream: `product`, `sale`, `order`, `analytics`, each"
        " with a whole state as JSON, and `reset`: read again what you show. `x-data` has the"
        " schema of the data by the name of the event.",
        "x-data": events,
    }
    return {
        "operationId": "get_live",
        "summary": "Listen to what changes: a stream that stays open",
        "security": [{"customer": []}, {}],
        "parameters": [
            _query("products", "slugs by commas, at most 50"),
            _query("sales", "ids of flash sales by commas, at most 10"),
            _query("orders", "one's own; needs a customer", only="me"),
            _query("analytics", "minutes as they are counted; needs a merchant", only="all"),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "Of the last event that was had: what was missed comes first.",
            },
        ],
        "responses": {
            "200": {
                "description": "A stream, from the states of all that is asked for. Without a query"
                " and without Accept: text/event-stream, whether the process lives.",
                "content": {
                    EVENT_STREAM: {"schema": stream},
                    "application/json": {"schema": {"type": "object"}},
                },
            },
            **_refusals(LIVE_PROBLEMS),
        },
    }


def _query(name: str, description: str, *, only: str = "") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if only:
        schema["enum"] = [only]
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
    }


def _refusals(kinds: tuple[type[Problem], ...]) -> dict[str, Any]:
    by_status: dict[int, list[type[Problem]]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    schema = {"$ref": REF.format(name="ProblemDocument")}
    return {
        str(status): {
            "description": "; ".join(f"{kind.name}: {kind.title}" for kind in found),
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        for status, found in sorted(by_status.items())
    }
