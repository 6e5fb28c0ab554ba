"""The route table, from which both the router and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from services import problems
from services.bulkhead import Traffic
from services.business import (
    accounts,
    analytics,
    analytics_schemas,
    cancellations,
    carts,
    catalog,
    flash_sales,
    followups,
    identities,
    lists,
    operators,
    orders,
    payments,
    reviews,
    schemas,
    sessions,
    webhooks,
)
from services.business.answers import json_bytes
from services.business.shop import Shop
from services.problems import Problem

Handler = Callable[[Shop, Request], Awaitable[Response]]
# customer: any, guests too. account: who is logged in. merchant: operators, too.
Guard = Literal["nobody", "customer", "account", "merchant", "operator", "optional customer"]


class PageRule(TypedDict):
    """A page's path with its parameters in braces, and the query parameters that matter to it."""

    path: str
    query: list[str]


@dataclass(frozen=True)
class Endpoint:
    """A route. answers: what each status carries; problems: what can go wrong beyond the usual.

    traffic: whose places at a dependency its calls take (services/bulkhead.py).
    signed: by Standard Webhooks, in three headers.
    page: the same for everybody, told apart by its path and the parameters of `query` alone, and
    sent with what a shared cache needs to hold, revalidate and purge it.
    """

    method: str
    path: str
    handler: Handler
    answers: dict[int, type[BaseModel] | None]
    problems: tuple[type[Problem], ...] = ()
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    guard: Guard = "nobody"
    traffic: Traffic = "page"
    idempotent: bool = False
    page: bool = False
    signed: bool = False

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring, without the address it begins with."""
        line = (self.handler.__doc__ or "").strip().splitlines()[0]
        sentence = line.partition(": ")[2] or line
        return sentence[:1].upper() + sentence[1:]

    @property
    def operation_id(self) -> str:
        return self.handler.__name__


BODY_PROBLEMS: Final = (
    problems.InvalidJson,
    problems.InvalidBody,
    problems.PayloadTooLarge,
    problems.UnsupportedMediaType,
)
KEY_PROBLEMS: Final = (
    problems.IdempotencyKeyMissing,
    problems.IdempotencyKeyReused,
    problems.IdempotencyKeyRunning,
)

PUBLIC: Final = (
    Endpoint(
        "GET",
        "/products",
        lists.show_products,
        {200: schemas.ProductListDocument},
        (problems.InvalidRequest,),
        query=schemas.ListQuery,
        page=True,
    ),
    Endpoint(
        "GET",
        "/products/{slug}",
        catalog.show_product,
        {200: schemas.ProductDocument},
        (problems.NotFound,),
        page=True,
    ),
    Endpoint(
        "GET",
        "/products/{slug}/stock",
        catalog.show_stock,
        {200: schemas.StockDocument},
        (problems.NotFound,),
    ),
    Endpoint(
        "GET",
        "/categories",
        lists.show_categories,
        {200: schemas.CategoryListDocument},
        page=True,
    ),
    Endpoint(
        "POST",
        "/carts",
        carts.create_cart,
        {201: schemas.CartDocument},
        (*BODY_PROBLEMS, problems.UnknownVariant),
        body=schemas.CartRequest,
        guard="optional customer",
        traffic="order",
    ),
    Endpoint(
        "GET",
        "/carts/{cart_id}",
        carts.show_cart,
        {200: schemas.CartDocument},
        (problems.NotFound,),
        guard="customer",
        traffic="order",
    ),
    Endpoint(
        "PUT",
        "/carts/{cart_id}/lines/{variant_id}",
        carts.put_cart_line,
        {200: schemas.CartDocument},
        (
            *BODY_PROBLEMS,
            problems.NotFound,
            problems.UnknownVariant,
            problems.CartOrdered,
            problems.CartFull,
        ),
        body=schemas.CartLineRequest,
        guard="customer",
        traffic="order",
    ),
    Endpoint(
        "DELETE",
        "/carts/{cart_id}/lines/{variant_id}",
        carts.delete_cart_line,
        {200: schemas.CartDocument},
        (problems.NotFound, problems.CartOrdered),
        guard="customer",
        traffic="order",
    ),
    Endpoint(
        "POST",
        "/orders",
        orders.create_order,
        {201: schemas.OrderDocument},
        (
            *BODY_PROBLEMS,
            *KEY_PROBLEMS,
            problems.UnknownVariant,
            problems.CurrencyMismatch,
            problems.TotalTooLarge,
            problems.OutOfStock,
            problems.NotFound,
            problems.CartChanged,
            problems.CartOrdered,
            problems.CartEmpty,
        ),
        body=schemas.OrderRequest,
        guard="optional customer",
        traffic="order",
        idempotent=True,
    ),
    Endpoint(
        "GET",
        "/orders/{order_id}",
        orders.show_order,
        {200: schemas.OrderDocument},
        (problems.InvalidRequest, problems.NotFound),
        guard="customer",
        traffic="order",
    ),
    Endpoint(
        "PUT",
        "/orders/{order_id}/cancellation",
        cancellations.cancel_order,
        {200: schemas.OrderDocument},
        (problems.NotFound, problems.OrderNotCancellable),
        guard="customer",
        traffic="order",
    ),
    Endpoint(
        "POST",
        "/orders/{order_id}/payments",
        payments.create_payment,
        {201: schemas.PaymentDocument, 202: schemas.PaymentDocument},
        (
            *BODY_PROBLEMS,
            *KEY_PROBLEMS,
            problems.InvalidRequest,
            problems.NotFound,
            problems.OrderNotPayable,
        ),
        body=schemas.PaymentRequest,
        guard="customer",
        traffic="payment",
        idempotent=True,
    ),
    *(
        Endpoint(
            "POST",
            f"/payments/{{payment_id}}/{path}",
            handler,
            {201: schemas.OperationDocument, 202: schemas.OperationDocument},
            (
                *BODY_PROBLEMS,
                *KEY_PROBLEMS,
                problems.InvalidRequest,
                problems.NotFound,
                problems.CurrencyMismatch,
                problems.OperationNotAllowed,
            ),
            body=body,
            guard="operator",
            traffic="payment",
            idempotent=True,
        )
        for path, handler, body in (
            ("captures", followups.capture_payment, schemas.CaptureRequest),
            ("voids", followups.void_payment, schemas.VoidRequest),
            ("refunds", followups.refund_payment, schemas.RefundRequest),
        )
    ),
    Endpoint(
        "GET",
        "/payments/{payment_id}",
        payments.show_payment,
        {200: schemas.PaymentDocument},
        (problems.InvalidRequest, problems.NotFound),
        guard="customer",
        traffic="payment",
    ),
    Endpoint(
        "POST",
        "/webhooks/{provider}",
        webhooks.receive_webhook,
        {202: schemas.WebhookDocument},
        (
            problems.PayloadTooLarge,
            problems.UnsupportedMediaType,
            problems.NotFound,
            problems.WebhookRefused,
        ),
        body=schemas.WebhookRequest,
        traffic="payment",
        signed=True,
    ),
    Endpoint(
        "GET",
        "/operator/payment-reviews",
        reviews.show_reviews,
        {200: schemas.PaymentReviewListDocument},
        (problems.InvalidRequest,),
        query=schemas.PaymentReviewQuery,
        guard="operator",
        traffic="payment",
    ),
    Endpoint(
        "PUT",
        "/operator/payment-reviews/{payment_review_id}/resolution",
        reviews.resolve_review,
        {200: schemas.PaymentReviewDocument},
        (*BODY_PROBLEMS, problems.InvalidRequest, problems.NotFound),
        body=schemas.ReviewResolutionRequest,
        guard="operator",
        traffic="payment",
    ),
    Endpoint(
        "POST",
        "/customers",
        accounts.create_customer,
        {202: schemas.MailedDocument},
        BODY_PROBLEMS,
        body=schemas.CustomerRequest,
        traffic="order",  # a crowd of logins leaves places to who pays
    ),
    Endpoint(
        "POST",
        "/customers/confirmations",
        accounts.confirm_customer,
        {201: schemas.NewSessionDocument},
        (*BODY_PROBLEMS, problems.TokenRefused, problems.Overloaded),
        body=schemas.ConfirmationRequest,
        traffic="order",
    ),
    Endpoint(
        "GET",
        "/customers/me",
        accounts.show_account,
        {200: schemas.AccountDocument},
        (problems.NotFound,),
        guard="account",
        traffic="order",
    ),
    Endpoint(
        "PUT",
        "/customers/me/password",
        accounts.change_password,
        {204: None},
        (*BODY_PROBLEMS, problems.NotFound, problems.Overloaded),
        body=schemas.PasswordRequest,
        guard="account",
        traffic="order",
    ),
    Endpoint(
        "POST",
        "/password-resets",
        accounts.create_password_reset,
        {202: schemas.MailedDocument},
        BODY_PROBLEMS,
        body=schemas.PasswordResetRequest,
        traffic="order",
    ),
    Endpoint(
        "POST",
        "/password-resets/completions",
        accounts.complete_password_reset,
        {204: None},
        (*BODY_PROBLEMS, problems.TokenRefused, problems.Overloaded),
        body=schemas.ConfirmationRequest,
        traffic="order",
    ),
    Endpoint(
        "POST",
        "/sessions",
        sessions.create_session,
        {201: schemas.NewSessionDocument},
        (*BODY_PROBLEMS, problems.LoginRefused, problems.Overloaded),
        body=schemas.SessionRequest,
        traffic="order",
    ),
    Endpoint(
        "GET",
        "/sessions",
        sessions.show_sessions,
        {200: schemas.SessionListDocument},
        guard="account",
        traffic="order",
    ),
    Endpoint(
        "DELETE",
        "/sessions/current",
        sessions.end_current_session,
        {204: None},
        guard="account",
        traffic="order",
    ),
    Endpoint(
        "DELETE",
        "/sessions/{session_id}",
        sessions.end_session,
        {204: None},
        (problems.InvalidRequest, problems.NotFound),
        guard="account",
        traffic="order",
    ),
    Endpoint(
        "POST",
        "/flash-sales",
        flash_sales.create_flash_sale,
        {201: schemas.FlashSaleDocument},
        (*BODY_PROBLEMS, *KEY_PROBLEMS, problems.UnknownVariant, problems.CurrencyMismatch),
        body=schemas.FlashSaleRequest,
        guard="operator",
        traffic="payment",
        idempotent=True,
    ),
    Endpoint(
        "GET",
        "/flash-sales/{flash_sale_id}",
        flash_sales.show_flash_sale,
        {200: schemas.FlashSaleDocument},
        (problems.InvalidRequest, problems.NotFound),
    ),
    Endpoint(
        "POST",
        "/flash-sales/{flash_sale_id}/claims",
        flash_sales.create_claim,
        {201: schemas.OrderDocument},
        (
            *BODY_PROBLEMS,
            *KEY_PROBLEMS,
            problems.InvalidRequest,
            problems.NotFound,
            problems.FlashSaleNotOpenYet,
            problems.FlashSaleOver,
            problems.FlashSaleSoldOut,
            problems.FlashSaleLimitReached,
            problems.OutOfStock,
        ),
        body=schemas.FlashSaleClaimRequest,
        guard="customer",
        traffic="order",
        idempotent=True,
    ),
    Endpoint(
        "GET",
        "/analytics/series",
        analytics.show_series,
        {200: analytics_schemas.SeriesDocument},
        (problems.InvalidRequest,),
        query=analytics_schemas.SeriesQuery,
        guard="merchant",
    ),
    Endpoint(
        "GET",
        "/analytics/top-products",
        analytics.show_top_products,
        {200: analytics_schemas.TopProductsDocument},
        (problems.InvalidRequest,),
        query=analytics_schemas.TopProductsQuery,
        guard="merchant",
    ),
    Endpoint(
        "GET",
        "/analytics/funnel",
        analytics.show_funnel,
        {200: analytics_schemas.FunnelDocument},
        (problems.InvalidRequest,),
        query=analytics_schemas.IntervalQuery,
        guard="merchant",
    ),
    Endpoint(
        "GET",
        "/analytics/searches",
        analytics.show_searches,
        {200: analytics_schemas.SearchesDocument},
        (problems.InvalidRequest,),
        query=analytics_schemas.SearchesQuery,
        guard="merchant",
    ),
    Endpoint(
        "POST",
        "/operator/stock-movements",
        operators.move_stock,
        {201: schemas.StockMovementDocument},
        (*BODY_PROBLEMS, problems.UnknownVariant, problems.OutOfStock),
        body=schemas.StockMovementRequest,
        guard="operator",
        traffic="payment",  # an operator is let in whatever comes
    ),
    Endpoint(
        "GET",
        "/operator/upstreams",
        operators.show_upstreams,
        {200: schemas.UpstreamListDocument},
        guard="operator",
        traffic="payment",
    ),
    Endpoint(
        "PUT",
        "/operator/upstreams/{upstream}",
        operators.force_upstream,
        {200: schemas.UpstreamDocument},
        (*BODY_PROBLEMS, problems.NotFound),
        body=schemas.ForceRequest,
        guard="operator",
        traffic="payment",
    ),
)


def page_rules() -> list[PageRule]:
    """Which paths are pages, and the query parameters that tell them apart."""
    return [
        {"path": page.path, "query": list(page.query.model_fields) if page.query else []}
        for page in PUBLIC
        if page.page
    ]


async def show_pages(_: Shop, __: Request) -> Response:
    """GET /internal/pages: what access may hold, and by which parameters it tells pages apart."""
    body = orjson.dumps({"pages": page_rules()})
    return json_bytes(body, 200, {"cache-control": "no-store"})


# Answered to access only; not part of the public document.
INTERNAL: Final = (
    Endpoint(
        "GET",
        "/internal/identities/{token_sha256}",
        identities.show_identity,
        {},
        traffic="payment",  # a login: nobody pays before it is known who it is
    ),
    Endpoint("GET", "/internal/pages", show_pages, {}),
)
