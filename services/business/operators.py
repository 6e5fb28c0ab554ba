"""Operator routes: stock that came in, and the state of every dependency."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.schemas import (
    UpstreamDocument,
    UpstreamListDocument,
)
from services.business.shop import Shop
from services.problems import Unauthenticated


async def show_upstreams(shop: Shop, request: Request) -> Response:
    """GET /operator/upstreams: what each breaker of this process thinks of its dependency."""
    check_operator(shop, request)
    items = [
        UpstreamDocument.model_validate(
            {
                "name": upstream.name,
                "state": upstream.breaker.current_state.name.lower(),
                "failed_in_window": upstream.breaker.fail_counter,
            }
        )
        for upstream in shop.upstreams
    ]
    return document(UpstreamListDocument(items=items))


def check_operator(shop: Shop, request: Request) -> None:
    """Raise Unauthenticated unless the bearer token is the operator's."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    expected = shop.settings.operator_token.get_secret_value().encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), expected):
        raise Unauthenticated("This route needs the operator's token.")
