"""Which class of traffic a request belongs to, and which paths are nobody's business outside."""

from __future__ import annotations

import posixpath
import re
from enum import Enum
from typing import Final

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))  # RFC 9110 9.2.1, without TRACE
LOCAL: Final = frozenset(("/live", "/ready"))
# Served by business on its own port, for access and for operators' machines only.
CLOSED: Final = frozenset(("internal", "metrics", "live", "ready"))
PAYMENT_PATH: Final = re.compile(r"/orders/[^/]+/payments/?")


class Route(Enum):
    """A class of traffic. Each has its own connections, so that none can starve another."""

    PAGE = "page"  # the same for everybody: fetched without cookie, token and customer
    CHECKOUT = "checkout"
    PAYMENT = "payment"  # waits for the provider
    OPERATOR = "operator"  # the only one whose Authorization is for business to judge
    OTHER = "other"


def route_of(method: bytes, path: str) -> Route | None:
    """The class of a request by its decoded path; None is answered 404 here."""
    plain = path
    if "//" in path or "/." in path:
        plain = posixpath.normpath("/" + path.lstrip("/"))
    first = plain.split("/", 2)[1].lower()
    if first in CLOSED:
        return None
    if first in ("products", "categories") and method in (b"GET", b"HEAD"):
        return Route.PAGE
    if first == "operator":
        return Route.OPERATOR
    if method == b"POST" and first == "orders":
        if plain.rstrip("/") == "/orders":
            return Route.CHECKOUT
        if PAYMENT_PATH.fullmatch(plain):
            return Route.PAYMENT
    return Route.OTHER
