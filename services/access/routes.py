"""Which class of traffic a request belongs to, and which paths are nobody's business outside."""

from __future__ import annotations

import posixpath
import re
from enum import Enum
from typing import Final

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))  # RFC 9110 9.2.1, without TRACE
LIVE: Final = "/live"  # a stream of states where it is asked for one, else health
LOCAL: Final = frozenset((LIVE, "/ready"))
# Served by business on its own port, for access and for operators' machines only.
CLOSED: Final = frozenset(("internal", "metrics", "live", "ready"))
PAYMENT_PATH: Final = re.compile(r"/orders/[^/]+/payments")
CLAIM_PATH: Final = re.compile(r"/flash-sales/[^/]+/claims")
CART_LINE_PATH: Final = re.compile(r"/carts/[^/]+/lines/[^/]+")
FOLLOWUP_PATH: Final = re.compile(r"/payments/[^/]+/(captures|voids|refunds)")
# Targets whose class is remembered; the hot ones are few, and random ones come and go.
ROUTES_KEPT: Final = 4096
TARGET_KEPT_BYTES: Final = 256


class Route(Enum):
    """A class of traffic. Each has its own connections, so that none can starve another."""

    PAGE = "page"  # the same for everybody: fetched without cookie, token and customer
    CHECKOUT = "checkout"
    PAYMENT = "payment"  # waits for the provider
    LOGIN = "login"  # waits for a password to be hashed: accounts and sessions being changed
    OPERATOR = "operator"
    WEBHOOK = "webhook"  # of a provider, who signs it: of no customer
    BEACON = "beacon"  # behaviour events, which go no further than access
    LIVE = "live"  # streams that stay open: answered here
    OTHER = "other"

    __hash__ = object.__hash__  # each is there once; Enum's own is a call of Python per look-up


BY_FIRST_PART: Final = {
    "operator": Route.OPERATOR,
    "analytics": Route.OPERATOR,
    "webhooks": Route.WEBHOOK,
}
BY_PATH: Final = {"/events": Route.BEACON}  # which answers other methods than POST, too
ACCOUNTS: Final = frozenset(("customers", "sessions", "password-resets"))
# Those of no customer: nobody is asked who it is.
NOBODYS: Final = frozenset((Route.PAGE, Route.WEBHOOK))


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
    plain = plain.rstrip("/")
    if first in BY_FIRST_PART or plain in BY_PATH:
        return BY_FIRST_PART.get(first) or BY_PATH[plain]
    if first in ACCOUNTS and method not in SAFE:
        return Route.LOGIN
    if method == b"POST":
        return _route_of_post(plain)
    is_cart_line = method in (b"PUT", b"DELETE") and CART_LINE_PATH.fullmatch(plain)
    return Route.CHECKOUT if is_cart_line else Route.OTHER


def _route_of_post(plain: str) -> Route:
    """What is bought, paid for or set up for sale."""
    if plain in ("/orders", "/carts") or CLAIM_PATH.fullmatch(plain):
        return Route.CHECKOUT
    if PAYMENT_PATH.fullmatch(plain):
        return Route.PAYMENT
    is_operators = plain == "/flash-sales" or FOLLOWUP_PATH.fullmatch(plain)
    return Route.OPERATOR if is_operators else Route.OTHER


# By method and target, of what learn_route() was asked for; never of what access answers itself.
known_routes: Final[dict[tuple[bytes, bytes], Route]] = {}


def learn_route(method: bytes, target: bytes, path: str) -> Route | None:
    """route_of(), remembered; path: the target's, decoded."""
    route = route_of(method, path)
    if route is not None and len(target) <= TARGET_KEPT_BYTES:
        if len(known_routes) >= ROUTES_KEPT:
            known_routes.clear()
        known_routes[method, target] = route
    return route
