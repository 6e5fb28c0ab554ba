"""Behaviour events: what a client may say it did, and what the shop itself says was booked.

The same structures are read from JSON at access and written to the log as MessagePack, so a field
that is not named here is not kept.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

EVENTS_LIMIT: Final = 100  # in one batch: some 10 KB of JSON
SLUG: Final = "^[a-z0-9]+(-[a-z0-9]+)*$"

Moment = Annotated[datetime, Meta(tz=True)]
Slug = Annotated[str, Meta(min_length=1, max_length=200, pattern=SLUG)]
Query = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class View(msgspec.Struct, tag_field="type", tag="view", omit_defaults=True):
    """A page was looked at; product: its slug, if it was a product's."""

    id: UUID
    at: Moment
    product: Slug | None = None


class Search(msgspec.Struct, tag_field="type", tag="search"):
    """Something was searched for, and so many products were found."""

    id: UUID
    at: Moment
    query: Query
    results: Count


class AddToCart(msgspec.Struct, tag_field="type", tag="add_to_cart"):
    id: UUID
    at: Moment
    product: Slug


class Checkout(msgspec.Struct, tag_field="type", tag="checkout"):
    """The customer went to the checkout."""

    id: UUID
    at: Moment


class Purchase(msgspec.Struct, tag_field="type", tag="purchase"):
    """A client says that it has bought. It counts for the funnel; revenue is never a client's."""

    id: UUID
    at: Moment


class Booked(msgspec.Struct, tag_field="type", tag="booked"):
    """A transfer of the ledger, by the shop itself: where revenue comes from."""

    cause: str
    cause_id: UUID
    debit_account: str
    credit_account: str
    amount_minor: int
    currency: str
    at: Moment


ClientEvent = View | Search | AddToCart | Checkout | Purchase
Event = ClientEvent | Booked
TYPE_OF: Final[dict[type, str]] = {
    View: "view",
    Search: "search",
    AddToCart: "add_to_cart",
    Checkout: "checkout",
    Purchase: "purchase",
}
TYPES: Final = tuple(TYPE_OF.values())  # the steps of the funnel


class Body(msgspec.Struct):
    """What POST /events takes. Fields that are not known are ignored: a page that a browser has
    kept open may be older or newer than the shop.
    """

    events: Annotated[list[ClientEvent], Meta(min_length=1, max_length=EVENTS_LIMIT)]


read_body: Final = msgspec.json.Decoder(Body).decode
write_events: Final = msgspec.msgpack.Encoder(uuid_format="bytes").encode
read_events: Final = msgspec.msgpack.Decoder(list[Event]).decode
