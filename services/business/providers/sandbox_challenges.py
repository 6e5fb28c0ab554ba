"""The page that stands for the customer's bank: he is sent there, and approves or declines."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import jinja2
from starlette.requests import Request
from starlette.responses import Response

from services.business.providers.sandbox_ledger import Charge, Decision
from services.problems import FieldError, InvalidBody, PayloadTooLarge

FORM_LIMIT_BYTES: Final = 1024  # decision=approve
DECISIONS: Final[dict[str, Decision]] = {"approve": "approved", "decline": "declined"}
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def challenges_url(request: Request, public_url: str) -> str:
    """The address of the pages, up to a charge's id, which nobody can guess."""
    return f"{public_url or str(request.base_url).rstrip('/')}/challenges/"


def challenge_page(charge: Charge | None) -> Response:
    """The question, or that there is none: it was answered, or it is too late."""
    return _page(200 if charge is not None else 404, charge=charge, answered=False)


def decided_page(charge: Charge) -> Response:
    return _page(200, charge=charge, answered=True)


async def read_decision(request: Request) -> Decision:
    """The form's answer; InvalidBody if it is another."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_LIMIT_BYTES:
            raise PayloadTooLarge(f"at most {FORM_LIMIT_BYTES} bytes")
    values = parse_qs(body.decode("latin-1")).get("decision", [])
    if len(values) != 1 or values[0] not in DECISIONS:
        detail = "must be approve or decline"
        raise InvalidBody(errors=[FieldError(field="decision", detail=detail)])
    return DECISIONS[values[0]]


def _page(status: int, *, charge: Charge | None, answered: bool) -> Response:
    html = _template().render(charge=charge, answered=answered)
    return Response(html, status, media_type="text/html", headers=HEADERS)


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(loader=loader, autoescape=True).get_template("challenge.html")
