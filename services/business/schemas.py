"""What clients send and get: the models behind validation, rendering and the OpenAPI document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

LINES_MAX = 50  # a basket is locked and decided at once: keep it short
QUANTITY_MAX = 100
PRICE_MAX_MINOR = 10**12
VERSION_MAX = 100  # of a cart; ours are shorter
# The forms that the schema's constraints demand of what it stores.
SLUG_FORM: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SLUG_MAX: Final = 200
# One spelling of an id, of the several that are a UUID: readers of a body must agree.
UUID_FORM: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
INTEGER_FORM: Final = re.compile(r"-?[0-9]{1,19}")


def rfc3339(value: datetime) -> str:
    """A moment as answers write it: UTC, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _spelt_as_uuid(value: object) -> object:
    if isinstance(value, str) and not UUID_FORM.fullmatch(value):
        raise ValueError("must be a UUID")
    return value


def _spelt_as_integer(value: object) -> object:
    if isinstance(value, str) and not INTEGER_FORM.fullmatch(value):
        raise ValueError("must be an integer")
    return value


def _without_nul(value: str) -> str:
    """PostgreSQL's text can not hold NUL."""
    if "\x00" in value:
        raise ValueError("must not contain a NUL character")
    return value


Id = Annotated[UUID, BeforeValidator(_spelt_as_uuid)]
Integer = Annotated[int, BeforeValidator(_spelt_as_integer)]
# The bounds stand here and not at the parameters: those may be null, and pydantic then writes
# bounds into the document that no reader of it knows.
Price = Annotated[int, Field(ge=0, le=PRICE_MAX_MINOR), BeforeValidator(_spelt_as_integer)]
Text = Annotated[
    str,
    AfterValidator(_without_nul),
    # The same rule for those who read the document; the validator's sentence reads better.
    Field(json_schema_extra={"pattern": "^[^\\x00]*$"}),
]

# A time as RFC 3339 has it, in years that are one in every time zone of every database.
TIME_FORM: Final = re.compile(
    r"2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)


def _spelt_as_time(value: object) -> object:
    if not isinstance(value, str) or not TIME_FORM.fullmatch(value):
        raise ValueError("must be a time like 2026-11-11T00:00:00Z")
    return value


Moment = Annotated[
    datetime,
    BeforeValidator(_spelt_as_time),
    Field(
        description="RFC 3339",
        examples=["2026-11-11T00:00:00Z"],
        json_schema_extra={"pattern": f"^{TIME_FORM.pattern}$"},
    ),
]

Timestamp = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str),
    Field(description="RFC 3339, UTC", examples=["2026-11-11T00:00:00.000Z"]),
]


class Document(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class Request(BaseModel):
    """A body that a client sends: nothing is converted, nothing unknown is passed over."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Money(Document):
    """An amount in minor units (cents for USD, yen for JPY)."""

    amount_minor: int = Field(description="minor units of currency", examples=[1999])
    currency: str = Field(description="ISO 4217", examples=["USD"])


class ImageDocument(Document):
    """A picture; its address is as it was imported."""

    url: str
    alt: str


class CategoryName(Document):
    """The category of a product."""

    slug: str
    title: str


class VariantDocument(Document):
    """A variant on sale."""

    variant_id: UUID
    title: str
    sku: str
    option_values: list[str]
    price: Money
    compare_at: Money | None = Field(description="price before a reduction")
    image_url: str | None
    band: Literal["in_stock", "few_left", "sold_out", "unknown"] = Field(
        description="availability; exact stock is at /products/{slug}/stock"
    )


class RatingDocument(Document):
    """What customers gave, on average."""

    average: float = Field(description="stars, 1 to 5", examples=[4.3])
    count: int


class ListItemDocument(Document):
    """A product in a list."""

    slug: str
    title: str
    vendor: str
    category: str | None = Field(description="slug of the category")
    price_from: Money = Field(description="lowest price of its variants")
    image_url: str | None


class ProductDocument(Document):
    """The product page."""

    product_id: UUID
    slug: str
    title: str
    description_html: str = Field(description="sanitised when it was imported")
    vendor: str
    category: CategoryName | None
    tags: list[str]
    option_names: list[str]
    images: list[ImageDocument]
    variants: list[VariantDocument]
    rating: RatingDocument | None
    related: list[ListItemDocument]
    degraded: list[Literal["band", "rating", "related"]] = Field(
        description="parts that were late or broken and are missing from this answer"
    )


class VariantStock(Document):
    """Exact stock of a variant."""

    variant_id: UUID
    title: str
    sku: str
    available: int
    band: Literal["in_stock", "few_left", "sold_out"]


class StockDocument(Document):
    """Exact stock, never held by a cache."""

    slug: str
    variants: list[VariantStock]


class ProductListDocument(Document):
    """One page of a list of products."""

    items: list[ListItemDocument]
    match: Literal["all", "words", "similar"] = Field(
        description="words: the query's words were found; similar: none was, these look like it"
    )
    next_cursor: str | None = Field(description="cursor of the next page; null on the last")


class CategoryDocument(Document):
    """A category."""

    slug: str
    title: str
    product_count: int


class CategoryListDocument(Document):
    """Every category."""

    items: list[CategoryDocument]


class ListQuery(BaseModel):
    """Query parameters of a product list; parameters not named here change nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    q: Text | None = Field(
        None, min_length=1, max_length=100, description="words to search; misspelt ones are found"
    )
    category: str | None = Field(
        None,
        max_length=SLUG_MAX,
        pattern=f"^{SLUG_FORM.pattern}$",
        description="slug of a category",
    )
    min_price: Price | None = Field(None, description="lowest price, minor units")
    max_price: Price | None = Field(None, description="highest price, minor units")
    sort: Literal["relevance", "popular", "price", "-price", "newest"] | None = Field(
        None, description="default: relevance with q, else popular; relevance needs q"
    )
    cursor: str | None = Field(None, max_length=500, description="next_cursor of the page before")
    limit: Integer = Field(24, ge=1, le=100, description="products a page")


class OrderLineRequest(Request):
    """A variant and how many of it."""

    variant_id: Id
    quantity: int = Field(ge=1, le=QUANTITY_MAX, strict=True)


def _each_variant_once(lines: list[OrderLineRequest]) -> list[OrderLineRequest]:
    seen: set[UUID] = set()
    for line in lines:
        if line.variant_id in seen:
            raise ValueError(f"variant {line.variant_id} stands on two lines")
        seen.add(line.variant_id)
    return lines


def _never_null(schema: dict[str, Any]) -> None:
    """A member that may be left out, but is never null."""
    schema.pop("default", None)
    choices = schema.pop("anyOf")
    schema.update(next(choice for choice in choices if choice.get("type") != "null"))


OrderLines = Annotated[
    list[OrderLineRequest],
    Field(min_length=1, max_length=LINES_MAX),
    AfterValidator(_each_variant_once),
]
CartLines = Annotated[
    list[OrderLineRequest], Field(max_length=LINES_MAX), AfterValidator(_each_variant_once)
]


class OrderRequest(Request):
    """What to order, either lines or a cart as it was shown; the server sets the prices."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["lines"]}, {"required": ["cart_id", "cart_version"]}],
            "dependentRequired": {"cart_id": ["cart_version"], "cart_version": ["cart_id"]},
        }
    )

    lines: OrderLines | None = Field(None, json_schema_extra=_never_null)
    cart_id: Id | None = Field(None, json_schema_extra=_never_null)
    cart_version: Annotated[str, Field(max_length=VERSION_MAX)] | None = Field(
        None,
        description="as it was shown; a cart of another version is not ordered",
        json_schema_extra=_never_null,
    )
    currency: str | None = Field(
        None, pattern="^[A-Z]{3}$", description="refused if the goods have another; ISO 4217"
    )

    @model_validator(mode="after")
    def _either_lines_or_cart(self) -> OrderRequest:
        named = self.model_fields_set - {"currency"}
        if named not in ({"lines"}, {"cart_id", "cart_version"}):
            raise ValueError("must have either lines or both cart_id and cart_version")
        if any(getattr(self, name) is None for name in named):
            raise ValueError("must not be null")
        return self


class CartRequest(Request):
    """A new cart, with lines or empty."""

    lines: CartLines = Field(default_factory=list)


class CartLineRequest(Request):
    """How many of a variant are to be in the cart."""

    quantity: int = Field(ge=1, le=QUANTITY_MAX, strict=True)


class CartLineDocument(Document):
    """A line of a cart, as it would be sold now."""

    variant_id: UUID
    title: str
    quantity: int
    for_sale: bool = Field(description="false: it has to leave the cart before that is ordered")
    unit_price: Money | None = Field(description="of now; null of what is not for sale")
    band: Literal["in_stock", "few_left", "sold_out"]


class CartDocument(Document):
    """A cart as it is now; it holds no stock and fixes no price."""

    cart_id: UUID
    state: Literal["open", "ordered"]
    version: str = Field(
        description="changes with lines, titles and prices; an order names the one that was shown"
    )
    lines: list[CartLineDocument]
    total: Money | None = Field(description="null if not all lines can be ordered together")
    order_id: UUID | None = Field(description="the order that was made of it")
    created_at: Timestamp
    updated_at: Timestamp = Field(description="RFC 3339, UTC; when its lines changed last")
    customer_token: str | None = Field(
        None,
        description="only for a new guest: the bearer token of this customer, shown once",
    )


class PaymentRequest(Request):
    """How to pay: a token of the payment provider, never card data."""

    payment_method: str = Field(
        pattern="^tok_[A-Za-z0-9_]{1,64}$", strict=True, examples=["tok_approve"]
    )
    capture: Literal["automatic", "manual"] = Field(
        "automatic", description="manual: the money is only authorised, and captured later"
    )


class AmountRequest(Request):
    """A part of a payment, in the currency of the payment."""

    amount_minor: int = Field(ge=1, le=PRICE_MAX_MINOR, strict=True, examples=[1999])
    currency: str = Field(pattern="^[A-Z]{3}$", description="ISO 4217", examples=["USD"])


class CaptureRequest(Request):
    """How much to take of what was authorised; without an amount, all that is left."""

    amount: AmountRequest | None = None


class VoidRequest(Request):
    """Nothing more is to be said: an authorisation is let go whole."""


class RefundRequest(Request):
    """How much to give back of what was captured; without an amount, all that is left."""

    amount: AmountRequest | None = None
    reason: Text = Field("", max_length=200)


class NextActionDocument(Document):
    """What the customer has to do before the provider decides: go to that page."""

    type: Literal["redirect"]
    url: str


class OperationDocument(Document):
    """A capture, void or refund of a payment; its states are those of payments."""

    operation_id: UUID
    payment_id: UUID
    kind: Literal["capture", "void", "refund"]
    cause: Literal["requested", "order_ended"] = Field(
        description="order_ended: the money came when its order had ended, and goes back"
    )
    state: Literal["INIT", "PENDING", "SUCCESS", "FAILED", "ERRORED", "UNKNOWN"]
    amount: Money
    decline_code: str | None = Field(description="why the provider declined")
    detail: str
    created_at: Timestamp
    updated_at: Timestamp


class PaymentDocument(Document):
    """A payment; docs/payments.md has the table of its states."""

    payment_id: UUID
    order_id: UUID
    state: Literal["INIT", "PENDING", "SUCCESS", "FAILED", "ERRORED", "UNKNOWN"]
    amount: Money
    decline_code: str | None = Field(description="why the provider declined")
    detail: str
    next_action: NextActionDocument | None = Field(
        description="while the payment is PENDING: where its customer has to approve it"
    )
    capture: Literal["automatic", "manual"]
    captured: Money = Field(description="taken, of the amount")
    refunded: Money = Field(description="given back, of what was captured")
    voided_at: Timestamp | None = Field(description="when its authorisation was let go")
    operations: list[OperationDocument] = Field(description="captures, voids and refunds")
    created_at: Timestamp
    updated_at: Timestamp


class WebhookRequest(Request):
    """What a provider tells: which kind of event, and what it is about; see docs/webhooks.md."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    timestamp: datetime
    data: dict[str, object]


class WebhookDocument(Document):
    """A webhook that was stored; what it says is booked a moment later."""

    webhook_id: str
    is_new: bool = Field(description="whether it had not come before")


class PaymentReviewQuery(BaseModel):
    """Which reviews to show."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    cursor: Id | None = Field(None, description="next_cursor of the page before")
    limit: Integer = Field(50, ge=1, le=100, description="reviews a page")


class PaymentReviewDocument(Document):
    """A provider confirmed another amount or currency than it was asked for: nothing was booked."""

    payment_review_id: UUID
    subject_id: UUID = Field(description="the payment, or the operation on a payment")
    source: Literal["answer", "reconcile", "webhook"]
    expected: Money
    seen: Money
    detail: str
    created_at: Timestamp
    resolved_at: Timestamp | None
    resolution: str | None = Field(description="what the operator found, and did about it")


class ReviewResolutionRequest(Request):
    """What the operator found when he asked the provider."""

    resolution: Text = Field(min_length=1, max_length=1000)


class PaymentReviewListDocument(Document):
    """Reviews that nobody has resolved, oldest first."""

    items: list[PaymentReviewDocument]
    next_cursor: UUID | None


class OrderLineDocument(Document):
    """A line of an order, at the price it was ordered for."""

    variant_id: UUID
    title: str
    quantity: int
    unit_price: Money


OrderState = Literal["placed", "authorized", "paid", "refunded", "cancelled", "expired"]


class OrderEventDocument(Document):
    """A move of an order, from null when it was placed."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    was: OrderState | None = Field(alias="from")
    to: OrderState
    cause: str = Field(description="what moved it", examples=["payment_captured"])
    at: Timestamp


class OrderDocument(Document):
    """An order with its lines, its payments and its history."""

    order_id: UUID
    state: OrderState
    total: Money
    lines: list[OrderLineDocument]
    hold_expires_at: Timestamp = Field(description="until when the stock is held unpaid")
    created_at: Timestamp
    payments: list[PaymentDocument]
    events: list[OrderEventDocument] = Field(description="every move, from the first on")
    customer_token: str | None = Field(
        None,
        description="only for a new guest: the bearer token of this customer, shown once",
    )


class MoneyRequest(Request):
    """An amount that is asked for, at least one minor unit."""

    amount_minor: int = Field(ge=1, le=PRICE_MAX_MINOR, strict=True, description="minor units")
    currency: str = Field(pattern="^[A-Z]{3}$", description="ISO 4217")


class FlashSaleRequest(Request):
    """A sale of one variant: so many units, from one moment to another, so many a customer."""

    variant_id: Id
    opens_at: Moment
    closes_at: Moment
    quantity: int = Field(ge=1, le=10**9, strict=True, description="units for sale")
    customer_limit: int = Field(ge=1, le=1000, strict=True, description="units a customer")
    unit_price: MoneyRequest


class FlashSaleDocument(Document):
    """A flash sale. It is open from opens_at on, and until just before closes_at."""

    flash_sale_id: UUID
    variant_id: UUID
    opens_at: Timestamp
    closes_at: Timestamp
    quantity: int = Field(description="units for sale")
    left: int = Field(description="units not claimed, or given back; stock may be less")
    customer_limit: int = Field(description="units a customer")
    unit_price: Money
    created_at: Timestamp


class FlashSaleClaimRequest(Request):
    """How many units of the sale to order."""

    quantity: int = Field(ge=1, le=QUANTITY_MAX, strict=True)


class StockMovementRequest(Request):
    """Stock that came in (receive) or was counted differently (adjust)."""

    variant_id: Id
    kind: Literal["receive", "adjust"]
    quantity: int = Field(ge=-(10**9), le=10**9, strict=True)
    reason: Text = Field(min_length=1, max_length=200)


class StockMovementDocument(Document):
    """The stock of a variant after a movement."""

    variant_id: UUID
    received: int = Field(description="all that ever came in, less corrections")
    available: int
    band: str


class UpstreamDocument(Document):
    """A dependency, as the process that answers sees it."""

    name: str
    state: Literal["closed", "open", "half_open"]
    forced: Literal["open", "closed"] | None = Field(description="held so by an operator")
    failed_in_window: int
    in_use: int = Field(description="calls that run now")
    limit: int = Field(description="the most that may run at once")
    waiting: int = Field(description="calls that wait for one of them to end")


class ForceRequest(Request):
    """How a breaker is to be held: open, closed, or null, as it decides by itself."""

    forced: Literal["open", "closed"] | None


class UpstreamListDocument(Document):
    """Every dependency of the process that answers."""

    items: list[UpstreamDocument]


class FieldProblem(Document):
    """One thing that is wrong with a request."""

    field: str = Field(description="JSON Pointer into the body, or name of a parameter or header")
    detail: str


class ProblemDocument(Document):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: list[FieldProblem] | None = None
    cart: CartDocument | None = Field(None, description="of cart-changed: the cart as it is now")
    request_id: str | None = None


# The address of a mailbox as HTML's input has it: none of its characters ends a line or a header.
# ASCII alone, so that no two spellings are one address, and no two addresses one account.
EMAIL_FORM: Final = (
    r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"
)
Email = Annotated[str, Field(max_length=254, pattern=EMAIL_FORM, examples=["somebody@example.com"])]
# What is compared need not be one that may be set; its bytes are counted there.
Password = Annotated[str, Field(max_length=1024)]
NewPassword = Annotated[
    str,
    Field(
        min_length=8,
        max_length=1024,
        description="any characters, at least 8, none of the most common passwords",
    ),
]
MailedToken = Annotated[str, Field(max_length=100, description="as it came by mail")]


class CustomerRequest(Request):
    """An address that is to have an account."""

    email: Email


class ConfirmationRequest(Request):
    """What was mailed, and the password that the account is to have."""

    token: MailedToken
    password: NewPassword


class SessionRequest(Request):
    """Who logs in."""

    email: Email
    password: Password


class PasswordRequest(Request):
    """The password of now and the one from now on."""

    current_password: Password
    new_password: NewPassword


class PasswordResetRequest(Request):
    """The address of an account whose password is forgotten."""

    email: Email


class MailedDocument(Document):
    """A mail is on its way, whatever the address is; what it says, only its reader knows."""

    status: Literal["mailed"] = "mailed"


class NewSessionDocument(Document):
    """A session that has begun, with its token, which is told this once."""

    session_id: UUID
    token: str = Field(description="bearer token; browsers have it in a cookie")
    customer_id: UUID
    role: Literal["customer", "merchant", "operator"]
    expires_at: Timestamp
    cart_id: UUID | None = Field(
        description="the open cart, with what was in the guest's, if there is one"
    )


class SessionDocument(Document):
    """A session of the account; current: the one that asks."""

    session_id: UUID
    current: bool
    user_agent: str
    created_at: Timestamp
    last_used_at: Timestamp
    expires_at: Timestamp


class SessionListDocument(Document):
    """Where the account is logged in, newest first."""

    items: list[SessionDocument]


class AccountDocument(Document):
    """The account that asks."""

    customer_id: UUID
    role: Literal["customer", "merchant", "operator"]
    email: str
    created_at: Timestamp
    password_changed_at: Timestamp
