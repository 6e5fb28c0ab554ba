"""Which class a request belongs to, and what is closed to the outside."""

from __future__ import annotations

import pytest

from services.access.routes import Route, route_of


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        (b"GET", "/products", Route.PAGE),
        (b"GET", "/products/blue-shirt", Route.PAGE),
        (b"HEAD", "/products/blue-shirt/stock", Route.PAGE),
        (b"GET", "/categories", Route.PAGE),
        (b"POST", "/products", Route.OTHER),
        (b"GET", "/productsx", Route.OTHER),
        (b"POST", "/orders", Route.CHECKOUT),
        (b"POST", "/orders/", Route.CHECKOUT),
        (b"POST", "/carts", Route.CHECKOUT),
        (b"POST", "/carts/", Route.CHECKOUT),
        (b"GET", "/carts/1", Route.OTHER),
        (b"PUT", "/carts/1/lines/2", Route.CHECKOUT),
        (b"DELETE", "/carts/1/lines/2/", Route.CHECKOUT),
        (b"GET", "/carts/1/lines/2", Route.OTHER),
        (b"PUT", "/carts/1/lines", Route.OTHER),
        (b"GET", "/orders/1", Route.OTHER),
        (b"POST", "/orders/1/payments", Route.PAYMENT),
        (b"GET", "/orders/1/payments", Route.OTHER),
        (b"POST", "/orders/1/payments/2", Route.OTHER),
        (b"GET", "/payments/1", Route.OTHER),
        (b"POST", "/operator/products", Route.OPERATOR),
        (b"POST", "/webhooks/sandbox", Route.WEBHOOK),
        (b"POST", "/flash-sales", Route.OPERATOR),
        (b"POST", "/flash-sales/", Route.OPERATOR),
        (b"GET", "/flash-sales/1", Route.OTHER),
        (b"POST", "/flash-sales/1", Route.OTHER),
        (b"POST", "/flash-sales/1/claims", Route.CHECKOUT),
        (b"POST", "/flash-sales/1/claims/2", Route.OTHER),
        (b"POST", "/sessions", Route.LOGIN),
        (b"POST", "/sessions/", Route.LOGIN),
        (b"DELETE", "/sessions/current", Route.LOGIN),
        (b"GET", "/sessions", Route.OTHER),
        (b"POST", "/customers", Route.LOGIN),
        (b"PUT", "/customers/me/password", Route.LOGIN),
        (b"POST", "/customers/confirmations", Route.LOGIN),
        (b"POST", "/password-resets", Route.LOGIN),
        (b"POST", "/password-resets/completions", Route.LOGIN),
        (b"GET", "/customers/me", Route.OTHER),
        (b"POST", "/customersx", Route.OTHER),
        (b"POST", "/events", Route.BEACON),
        (b"GET", "/events", Route.BEACON),
        (b"POST", "/events/1", Route.OTHER),
        (b"GET", "/openapi.json", Route.OTHER),
        (b"GET", "/", Route.OTHER),
    ],
)
def test_a_request_has_one_class(method: bytes, path: str, route: Route) -> None:
    assert route_of(method, path) is route


@pytest.mark.parametrize(
    "path",
    [
        "/internal",
        "/internal/identities/0",
        "/Internal/x",
        "//internal/x",
        "/./internal/x",
        "/products/../internal/x",
        "/a/b/../../internal",
        "/metrics",
        "/metrics/x",
        "/live/x",
        "/ready/",
    ],
)
def test_what_is_internal_is_closed_however_it_is_written(path: str) -> None:
    assert route_of(b"GET", path) is None
