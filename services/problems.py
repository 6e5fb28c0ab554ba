"""Problems: every error a client can see, as RFC 9457 problem details.

A rule that is broken raises the Problem that names it. The tier that answers renders it once.
What is not a Problem is a bug, answered as InternalError with the request id and logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, TypedDict

import orjson

PROBLEM_JSON: Final = "application/problem+json"


class FieldError(TypedDict):
    """One field that is wrong: where it stands (JSON Pointer, parameter or header) and why."""

    field: str
    detail: str


class Problem(Exception):
    """A named way to fail: status, type and title belong to the class, the rest to the case."""

    status: ClassVar[int] = 500
    name: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.errors = list(errors)
        self.retry_after_s = retry_after_s
        self.extra_headers = dict(headers or {})
        self.extensions = extensions

    def body(self, request_id: str = "") -> bytes:
        """The problem as JSON bytes; members without a value are left out."""
        document: dict[str, object] = {
            "type": f"/problems/{self.name}",
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            document["detail"] = self.detail
        if self.errors:
            document["errors"] = self.errors
        if request_id:
            document["request_id"] = request_id
        return orjson.dumps(document | self.extensions)

    def headers(self) -> dict[str, str]:
        headers = {
            "content-type": PROBLEM_JSON,
            "cache-control": "no-store",
            **self.extra_headers,
        }
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return headers


class InternalError(Problem):
    """A bug, or a fault nobody named; the request id leads to the log line."""


class InvalidRequest(Problem):
    """A parameter, header or field has a value that is not allowed; `errors` names each."""

    status, name, title = 400, "invalid-request", "The request is not valid"


class InvalidJson(Problem):
    """The body is not JSON."""

    status, name, title = 400, "invalid-json", "The body is not valid JSON"


class InvalidBody(Problem):
    """The body is JSON of the wrong shape or with values that are not allowed."""

    status, name, title = 422, "invalid-body", "The body has fields that are not valid"


class IdempotencyKeyMissing(Problem):
    """A POST with an effect came without a usable Idempotency-Key (IETF draft-07)."""

    status, name, title = 400, "idempotency-key-missing", "Idempotency-Key is required"


class IdempotencyKeyReused(Problem):
    """The same Idempotency-Key came with another body or path."""

    status, name, title = 422, "idempotency-key-reused", "This Idempotency-Key was used differently"


class IdempotencyKeyRunning(Problem):
    """The first request with this Idempotency-Key is still being worked on."""

    status, name, title = 409, "idempotency-key-running", "The first request is still running"


class Unauthenticated(Problem):
    """The route needs a customer's or operator's token, or the token is not known."""

    status, name, title = 401, "unauthenticated", "A valid token is required"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"www-authenticate": 'Bearer realm="tercet"'}


class LoginRefused(Problem):
    """No account has this address and this password; which of them is wrong is not told."""

    status, name, title = 401, "login-refused", "The address or the password is wrong"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"www-authenticate": 'Bearer realm="tercet"'}


class WebhookRefused(Problem):
    """A webhook is not signed by a key of its provider, or was not sent just now."""

    status, name, title = 401, "webhook-refused", "The signature of the webhook is not valid"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"www-authenticate": 'Webhook-Signature realm="tercet"'}


class Forbidden(Problem):
    """The caller is known and may not do this."""

    status, name, title = 403, "forbidden", "This is not allowed"


class CrossSiteRequest(Problem):
    """A page of another site had a browser send what changes something, with the cookie of here."""

    status, name, title = 403, "cross-site-request", "This came from another site"


class NotFound(Problem):
    """There is no such thing, or it belongs to somebody else."""

    status, name, title = 404, "not-found", "There is no such thing here"


class MethodNotAllowed(Problem):
    """The path exists, the method does not; Allow lists what does."""

    status, name, title = 405, "method-not-allowed", "This method is not allowed here"


class RequestTimeout(Problem):
    """The request did not come whole in the time a server waits for it; nothing was done."""

    status, name, title = 408, "request-timeout", "The request did not come in time"


class TokenRefused(Problem):
    """The token of a mail is not known, was used, or is too old."""

    status, name, title = 422, "token-refused", "The token can not be used"


class UnknownVariant(Problem):
    """An order names a variant that is not for sale."""

    status, name, title = 422, "unknown-variant", "A variant is not for sale"


class CurrencyMismatch(Problem):
    """An order or payment names a currency other than the goods are sold in."""

    status, name, title = 422, "currency-mismatch", "The currency does not fit"


class TotalTooLarge(Problem):
    """An order comes to more than can be paid at once; `errors` names the lines that are over."""

    status, name, title = 422, "total-too-large", "The order comes to too much"


class OutOfStock(Problem):
    """A line asks for more than is available; nothing of the order was held."""

    status, name, title = 409, "out-of-stock", "There is not enough stock"


class CartChanged(Problem):
    """The cart or a price in it is not what was shown; `cart` has what it is now."""

    status, name, title = 409, "cart-changed", "The cart has changed"


class CartOrdered(Problem):
    """An order was made of the cart: it stays as it is, and is not ordered again."""

    status, name, title = 409, "cart-ordered", "The cart has been ordered"


class CartEmpty(Problem):
    """There is nothing in the cart that could be ordered."""

    status, name, title = 409, "cart-empty", "The cart is empty"


class CartFull(Problem):
    """The cart has as many lines as an order may have."""

    status, name, title = 409, "cart-full", "The cart is full"


class OrderNotCancellable(Problem):
    """The order is paid or expired, or a payment of it is under way."""

    status, name, title = 409, "order-not-cancellable", "The order can not be cancelled now"


class OrderNotPayable(Problem):
    """The order is paid, expired or cancelled, or a payment of it is under way."""

    status, name, title = 409, "order-not-payable", "The order can not be paid now"


class FlashSaleNotOpenYet(Problem):
    """The sale opens later; Retry-After says when. Nothing is queued: come again then."""

    status, name, title = 409, "flash-sale-not-open-yet", "The flash sale is not open yet"


class FlashSaleOver(Problem):
    """The sale has closed, or its product is not for sale any more."""

    status, name, title = 409, "flash-sale-over", "The flash sale is over"


class FlashSaleSoldOut(Problem):
    """Fewer units of the sale are left than were asked for; some may come back unpaid."""

    status, name, title = 409, "flash-sale-sold-out", "The flash sale is sold out"


class FlashSaleLimitReached(Problem):
    """The customer would have more units of the sale than one customer may have."""

    status, name, title = 409, "flash-sale-limit-reached", "No more for one customer"


class OperationNotAllowed(Problem):
    """The payment is not in a state to be captured, voided or refunded, or not with this amount."""

    status, name, title = 409, "operation-not-allowed", "The payment does not allow this now"


class PayloadTooLarge(Problem):
    """The body is longer than this server accepts."""

    status, name, title = 413, "payload-too-large", "The body is too large"


class UriTooLong(Problem):
    """The request target is longer than this server accepts."""

    status, name, title = 414, "uri-too-long", "The address is too long"


class UnsupportedMediaType(Problem):
    """The body is not application/json."""

    status, name, title = 415, "unsupported-media-type", "The body must be application/json"


class TooManyRequests(Problem):
    """A limit for this caller is used up; Retry-After says when to come back."""

    status, name, title = 429, "too-many-requests", "Too many requests"


class HeadersTooLarge(Problem):
    """The request's header section is longer than this server accepts."""

    status, name, title = 431, "headers-too-large", "The header fields are too large"


class BadGateway(Problem):
    """The tier behind gave an answer that is not HTTP, or went away in the middle of one."""

    status, name, title = 502, "bad-gateway", "The server behind failed to answer properly"


class Unavailable(Problem):
    """A dependency is away or full; nothing was done, and trying again later is safe."""

    status, name, title = 503, "unavailable", "Not available at the moment"


class Overloaded(Problem):
    """More came than can be answered in time; nothing was done, Retry-After says when to come."""

    status, name, title = 503, "overloaded", "Too much is going on at the moment"


class OutcomeUnknown(Problem):
    """The answer of the database to a commit was lost: it may have happened, most likely it did."""

    status, name, title = 503, "outcome-unknown", "It is not known whether this has happened"

    def __init__(self) -> None:
        super().__init__(
            "The same request with the same Idempotency-Key tells; without a key, look first.",
            retry_after_s=1,
        )


class GatewayTimeout(Problem):
    """The answer did not come within the request's deadline."""

    status, name, title = 504, "deadline-exceeded", "The deadline has passed"


def catalogue() -> list[type[Problem]]:
    """Every problem a client can meet, in the order of their status codes."""
    return sorted([InternalError, *_subclasses(Problem)], key=lambda kind: (kind.status, kind.name))


def _subclasses(kind: type[Problem]) -> list[type[Problem]]:
    return [sub for sub in kind.__subclasses__() if sub is not InternalError]
