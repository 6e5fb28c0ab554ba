"""Identities: telling access whose token it is."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import json_bytes
from services.business.requests import read_position
from services.business.shop import Shop
from services.data.customers import Found, select_identity, select_identity_on_standby
from services.data.sessions import touch_session
from services.data.sources import Replica
from services.problems import GatewayTimeout, NotFound, Problem, Unavailable
from services.telemetry import logger

log = logger(__name__)

SHA256_HEX_LENGTH: Final = 64
STANDBY_FOR_S: Final = 1  # how long access may believe what a standby says


async def show_identity(shop: Shop, request: Request) -> Response:
    """GET /internal/identities/{token_sha256}: read where tokens are written."""
    text = request.path_params["token_sha256"]
    try:
        token_sha256 = bytes.fromhex(text)
    except ValueError:
        raise NotFound from None
    if len(text) != SHA256_HEX_LENGTH:
        raise NotFound
    found = await _find(shop, token_sha256, read_position(request))
    if found is None:
        raise NotFound
    if found.is_idle and found.identity.session_id is not None:
        with suppress(Problem):  # noted at the next look, then
            async with shop.database.primary.transaction() as tx:
                await touch_session(tx, found.identity.session_id)
    body = orjson.dumps(found.identity._asdict(), default=str)  # the ids are of asyncpg's own class
    return json_bytes(body, 200, {"cache-control": "no-store"})


async def _find(shop: Shop, token_sha256: bytes, position: int) -> Found | None:
    """By the primary; without it by a standby that has replayed what access has heard of.

    Nothing can be ended while there is no primary, and customers can go on to read. That a standby
    does not know a token says nothing.
    """
    try:
        return await select_identity(shop.database.primary, token_sha256)
    except (Unavailable, GatewayTimeout):
        for standby in shop.database.readers(position):
            if not isinstance(standby, Replica):
                continue
            try:
                found = await select_identity_on_standby(standby, token_sha256)
            except (Unavailable, GatewayTimeout) as error:
                log.warning("read failed over", source=standby.name, error=repr(error))
                continue
            if found is not None:
                lives_s = min(STANDBY_FOR_S, found.identity.expires_in_s)
                return Found(found.identity._replace(expires_in_s=lives_s), is_idle=False)
        raise
