"""Rendering answers: documents as JSON, and problems in the one place that knows how."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from services.data.pages import Page
from services.problems import Problem
from services.telemetry import request_id_var


def document(
    value: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A document for its owner: no cache may keep it."""
    return json_bytes(render(value), status, {"cache-control": "no-store", **(headers or {})})


def render(value: BaseModel) -> bytes:
    return value.model_dump_json(exclude_none=False).encode()


def json_bytes(body: bytes, status: int, headers: Mapping[str, str]) -> Response:
    return Response(body, status, media_type="application/json", headers=dict(headers))


def cached_page(request: Request, found: Page, cache_control: str) -> Response:
    """A page with what a shared cache needs to hold, revalidate and purge it."""
    headers = {
        "cache-control": cache_control,
        "etag": found.etag,
        "cache-tag": ",".join(found.tags),
    }
    if _matches(request.headers.get("if-none-match"), found.etag):
        return Response(status_code=304, headers=headers)
    return json_bytes(found.body, 200, headers)


def problem(error: Problem) -> Response:
    return Response(error.body(request_id_var.get()), error.status, headers=error.headers())


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110 13.1.2: weak comparison with a list of validators, or a star."""
    if if_none_match is None:
        return False
    candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
    return "*" in candidates or etag in candidates
