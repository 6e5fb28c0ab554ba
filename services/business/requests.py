"""Reading requests: bodies, parameters and headers, or the problem that names what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from services import consistency
from services.business.schemas import SLUG_FORM, SLUG_MAX, UUID_FORM
from services.consistency import INTERNAL_HEADER, Seen
from services.data.session import NOTHING
from services.problems import (
    FieldError,
    IdempotencyKeyMissing,
    InvalidBody,
    InvalidJson,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)

M = TypeVar("M", bound=BaseModel)

BODY_LIMIT_BYTES: Final = 65_536  # fifty lines of an order are 5 KB
IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
MIN_POSITION_HEADER: Final = "x-internal-min-position"
POSITION_FORM: Final = re.compile(r"[0-9]{1,19}")
# A body can be wrong in thousands of places, and its names can be long: the answer stays short.
ERRORS_MAX: Final = 20
FIELD_MAX: Final = 200
# What the validator says of itself where a reader needs to know about the body.
PLAIN_WORDS: Final = {"model_type": "must be an object", "extra_forbidden": "is not known here"}


async def read_json(request: Request, model: type[M]) -> tuple[M, bytes]:
    """The body as a model, and its bytes."""
    body = await read_bytes(request)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    _check_names_once(body)
    try:
        # Without strict=False, which would overrule the fields that are strict.
        return model.model_validate(value), body
    except ValidationError as error:
        raise InvalidBody(errors=_errors(error, "/")) from None


async def read_bytes(request: Request) -> bytes:
    """The body as it came, of a request that says that it is JSON."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.partition("charset=")[2].strip(' "').lower()
    if media_type.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        raise UnsupportedMediaType(errors=[{"field": "Content-Type", "detail": "application/json"}])
    return await _read_body(request)


def read_query(request: Request, model: type[M]) -> M:
    """The query string as a model; a parameter that is given twice or out of range is refused."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values and name in model.model_fields:
            raise InvalidRequest(errors=[{"field": name, "detail": "is given more than once"}])
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(errors=_errors(error, "")) from None


def read_position(request: Request) -> int:
    """In bytes of WAL, what the answer must not be behind: access has heard of a purge there.

    Only access can say so; if it does so wrongly, an answer from the past would hide that.
    """
    text = request.headers.get(MIN_POSITION_HEADER, "0")
    position = position_of(text)
    if position is None:
        detail = "must be a position in bytes"
        raise InvalidRequest(errors=[{"field": MIN_POSITION_HEADER, "detail": detail}])
    return position


def read_seen(request: Request) -> Seen:
    """What the customer has seen: access has verified it, so another form is a mistake of its."""
    text = request.headers.get(INTERNAL_HEADER)
    if text is None:
        return NOTHING
    try:
        return consistency.read_seen(text)
    except ValueError as error:
        raise InvalidRequest(errors=[{"field": INTERNAL_HEADER, "detail": str(error)}]) from None


def position_of(text: str) -> int | None:
    """A position in bytes of WAL; None where the text is none."""
    return int(text) if POSITION_FORM.fullmatch(text) else None


def read_slug(request: Request) -> str:
    """The slug of the path; one that no product can have is not looked up."""
    slug: str = request.path_params["slug"]
    if len(slug) > SLUG_MAX or not SLUG_FORM.fullmatch(slug):
        raise NotFound("There is no product of this name.")
    return slug


def read_id(request: Request, name: str) -> UUID:
    """An id of the path."""
    text = request.path_params[name]
    if not UUID_FORM.fullmatch(text):
        raise InvalidRequest(errors=[{"field": name, "detail": "must be a UUID"}])
    return UUID(text)


def read_customer(request: Request) -> UUID:
    """The customer that access has verified."""
    customer_id = find_customer(request)
    if customer_id is None:
        raise Unauthenticated
    return customer_id


def find_customer(request: Request) -> UUID | None:
    value = request.headers.get("x-customer-id")
    return UUID(value) if value is not None else None


def find_session(request: Request) -> UUID | None:
    """The session that the request shows, by the word of access."""
    value = request.headers.get("x-session-id")
    return UUID(value) if value is not None else None


def find_guests(request: Request) -> list[UUID]:
    """Who the customer was before it logged in, by the word of access."""
    value = request.headers.get("x-customer-guests", "")
    return [UUID(part.strip()) for part in value.split(",") if part.strip()]


def find_guest_token(request: Request) -> bytes | None:
    """The SHA-256 of the guest's token in the cookie of who logs in, by the word of access."""
    value = request.headers.get("x-guest-token-sha256")
    return bytes.fromhex(value) if value is not None else None


def read_idempotency_key(request: Request) -> str:
    """The Idempotency-Key, with or without the quotes of a structured field string."""
    values = request.headers.getlist("idempotency-key")
    if len(values) > 1:
        error: FieldError = {"field": "Idempotency-Key", "detail": "is given more than once"}
        raise IdempotencyKeyMissing(errors=[error])
    value = "".join(values).strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if not IDEMPOTENCY_KEY.match(value):
        detail = "1 to 255 visible ASCII characters" if value else "is missing"
        raise IdempotencyKeyMissing(errors=[{"field": "Idempotency-Key", "detail": detail}])
    return value


async def _read_body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT_BYTES:
            raise PayloadTooLarge(f"more than {BODY_LIMIT_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _check_names_once(body: bytes) -> None:
    """Refuse a name that stands twice in an object: readers differ in which value they take."""
    try:
        json.loads(body, object_pairs_hook=_each_once)
    except RecursionError:
        raise InvalidJson("It is nested too deeply.") from None


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names: dict[str, object] = {}
    for name, value in pairs:
        if name in names:
            raise InvalidJson(f"The name {name[:FIELD_MAX]!r} stands twice in one object.")
        names[name] = value
    return names


def _errors(error: ValidationError, separator: str) -> list[FieldError]:
    items = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {"field": _field(item["loc"], separator)[:FIELD_MAX], "detail": _detail(item)}
        for item in items[:ERRORS_MAX]
    ]


def _field(location: Iterable[int | str], separator: str) -> str:
    """A JSON Pointer where the separator is "/", else the parameter's name."""
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in location]
    return separator + separator.join(parts) if separator else parts[0]


def _detail(item: Any) -> str:
    return PLAIN_WORDS.get(item["type"]) or str(item["msg"]).removeprefix("Value error, ")
