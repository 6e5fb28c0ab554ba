"""What callers send to the sandbox provider: who may, in which shape, and what is refused."""

from __future__ import annotations

import hmac
import re
from datetime import datetime
from typing import Annotated, Final, TypeVar

import msgspec
from starlette.requests import Request

from services.problems import (
    FieldError,
    InvalidBody,
    InvalidJson,
    InvalidRequest,
    PayloadTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)

BODY_LIMIT_BYTES: Final = 16_384  # the largest valid body is under 1 KB
LIST_LIMIT: Final = 1000  # charges in one answer of GET /charges
AMOUNT_LIMIT_MINOR: Final = 10**12  # nine million charges of it still sum up within 63 bits

Body = TypeVar("Body")


class ChargeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A charge to make; charge_key is the caller's own id of the payment.

    capture: take the money at once, or authorise it only.
    """

    charge_key: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~-]{1,255}\Z")]
    amount_minor: Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_LIMIT_MINOR)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
    payment_method: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    capture: bool = True


class OperationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A capture or refund to make; operation_key is the caller's own id of it."""

    operation_key: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~-]{1,255}\Z")]
    amount_minor: Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_LIMIT_MINOR)]


class VoidRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A void to make: of the whole charge."""

    operation_key: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~-]{1,255}\Z")]


class TokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A test card to make a payment method of."""

    card_number: Annotated[str, msgspec.Meta(max_length=32)]


class ChargeList(msgspec.Struct, frozen=True):
    """Which charges to list: made since then, after that sequence number, at most so many."""

    since_ms: int
    after: int
    limit: int


def authorize(request: Request, secret: bytes) -> None:
    """Raise Unauthenticated unless the bearer credential is this provider's secret."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    shown = credential.strip().encode("latin-1")
    if scheme.lower() != "bearer" or not hmac.compare_digest(shown, secret):
        raise Unauthenticated("show the provider's secret as a bearer credential")


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The JSON body as this kind, or the problem that says what is wrong with it."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise PayloadTooLarge(f"at most {BODY_LIMIT_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidBody(errors=[_field_error(str(error))]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(str(error)) from None


def read_list(request: Request) -> ChargeList:
    """since (RFC 3339), cursor and limit of GET /charges; InvalidRequest names a bad one."""
    query = request.query_params
    unknown = sorted(set(query) - {"since", "cursor", "limit"})
    if unknown:
        raise _bad(unknown[0], "is not a parameter of this list")
    return ChargeList(
        since_ms=_moment_ms(query["since"]) if "since" in query else 0,
        after=_number(query.get("cursor", "0"), "cursor", 2**62),
        limit=max(1, _number(query.get("limit", str(LIST_LIMIT)), "limit", LIST_LIMIT)),
    )


def _moment_ms(value: str) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _bad("since", "must be a time as RFC 3339 writes it") from None
    if moment.tzinfo is None:
        raise _bad("since", "needs an offset, for example Z")
    return int(moment.timestamp() * 1000)


def _number(value: str, name: str, most: int) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 19 or int(value) > most:
        raise _bad(name, f"must be a number from 0 to {most}")
    return int(value)


def _bad(name: str, detail: str) -> InvalidRequest:
    return InvalidRequest(errors=[FieldError(field=name, detail=detail)])


def _field_error(message: str) -> FieldError:
    """msgspec's message as one field's error: it ends in the place, `$.field`, or quotes one."""
    path = re.search(r" - at `\$([^`]*)`$", message)
    quoted = re.search(r"field `([^`]+)`", message)
    if path is not None and path[1]:
        return FieldError(field=path[1].replace(".", "/"), detail=message[: path.start()])
    return FieldError(field=f"/{quoted[1]}" if quoted else "", detail=message)
