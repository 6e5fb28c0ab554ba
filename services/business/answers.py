"""Rendering answers: documents as JSON, and problems in the one place that knows how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from services.consistency import INTERNAL_HEADER
from services.data.cache import Found
from services.data.pages import Page
from services.data.session import NOTHING, Session
from services.problems import Problem
from services.telemetry import request_id_var

# In bytes of WAL: a page with this header is not behind a change that was visible there.
POSITION_HEADER: Final = "x-internal-position"
JSON: Final = "application/json"


def document(
    value: BaseModel | dict[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A document for its owner: no cache may keep it."""
    body = encode(value) if isinstance(value, dict) else render(value)
    return json_bytes(body, status, {"cache-control": "no-store", **(headers or {})})


def render(value: BaseModel) -> bytes:
    return value.model_dump_json(exclude_none=False).encode()


def encode(document: dict[str, Any]) -> bytes:
    """A document from parts that are what its model says: no model is made of them."""
    return orjson.dumps(document)


def json_bytes(body: bytes, status: int, headers: Mapping[str, str]) -> Response:
    return Response(body, status, media_type=JSON, headers=dict(headers))


def cached_page(request: Request, found: Found[Page], cache_control: str) -> Response:
    """A page with what a shared cache needs to hold, revalidate and purge it; a 304 has it too."""
    headers = page_headers(found, cache_control)
    if is_known(request.headers.get("if-none-match"), found.value.etag):
        return Response(status_code=304, headers=headers)
    return json_bytes(found.value.body, 200, headers)


def page_headers(found: Found[Page], cache_control: str) -> dict[str, str]:
    return {
        "cache-control": cache_control,
        "etag": found.value.etag,
        "cache-tag": ",".join(found.value.tags),
        POSITION_HEADER: str(found.position),
    }


def show_session(response: Response, session: Session) -> None:
    """Tell access what the customer has seen by this answer, if it is anything of his own."""
    if session.customer_id is not None and session.seen != NOTHING:
        response.headers[INTERNAL_HEADER] = f"{session.customer_id}/{session.seen.text}"


def problem(error: Problem) -> Response:
    return Response(error.body(request_id_var.get()), error.status, headers=error.headers())


def is_known(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110 13.1.2: weak comparison with a list of validators, or a star."""
    if if_none_match is None:
        return False
    candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
    return "*" in candidates or etag in candidates
