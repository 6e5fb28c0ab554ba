"""Identities: telling access whose token it is."""

from __future__ import annotations

from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import json_bytes
from services.business.shop import Shop
from services.data.customers import select_identity
from services.problems import NotFound

SHA256_HEX_LENGTH: Final = 64


async def show_identity(shop: Shop, request: Request) -> Response:
    """GET /internal/identities/{token_sha256}: read where tokens are written."""
    text = request.path_params["token_sha256"]
    try:
        token_sha256 = bytes.fromhex(text)
    except ValueError:
        raise NotFound from None
    if len(text) != SHA256_HEX_LENGTH:
        raise NotFound
    identity = await select_identity(shop.database.primary, token_sha256)
    if identity is None:
        raise NotFound
    body = orjson.dumps(identity._asdict(), default=str)  # the ids are of asyncpg's own class
    return json_bytes(body, 200, {"cache-control": "no-store"})
