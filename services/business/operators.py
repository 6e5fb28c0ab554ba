"""Operator routes: stock that came in, and the state of every dependency."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.requests import read_json
from services.business.roles import check_operator
from services.business.schemas import (
    ForceRequest,
    StockMovementDocument,
    StockMovementRequest,
    UpstreamDocument,
    UpstreamListDocument,
)
from services.business.shop import Shop
from services.data import stock_journal
from services.problems import InvalidBody, NotFound, OutOfStock, UnknownVariant
from services.telemetry import logger
from services.upstream import Upstream

log = logger(__name__)


async def show_upstreams(shop: Shop, request: Request) -> Response:
    """GET /operator/upstreams: what each breaker of this process thinks of its dependency."""
    check_operator(request)
    items = [_upstream_document(upstream) for upstream in shop.upstreams]
    return document(UpstreamListDocument(items=items))


async def force_upstream(shop: Shop, request: Request) -> Response:
    """PUT /operator/upstreams/{upstream}: hold a breaker of this process open or closed, or not.

    Other processes of business have breakers of their own, which this does not change.
    """
    check_operator(request)
    wanted, _ = await read_json(request, ForceRequest)
    name = request.path_params["upstream"]
    upstream = next((each for each in shop.upstreams if each.name == name), None)
    if upstream is None:
        raise NotFound("There is no dependency of this name.")
    upstream.breaker.force(wanted.forced)
    log.warning("breaker forced", upstream=name, forced=wanted.forced)
    return document(_upstream_document(upstream))


def _upstream_document(upstream: Upstream) -> UpstreamDocument:
    return UpstreamDocument.model_validate(
        {
            "name": upstream.name,
            "state": upstream.breaker.current_state.name.lower(),
            "forced": upstream.breaker.forced,
            "failed_in_window": upstream.breaker.fail_counter,
            "in_use": upstream.in_use,
            "limit": upstream.limit,
            "waiting": upstream.waiting,
        }
    )


async def move_stock(shop: Shop, request: Request) -> Response:
    """POST /operator/stock-movements: stock that came in, or was counted differently."""
    check_operator(request)
    wanted, _ = await read_json(request, StockMovementRequest)
    if wanted.quantity == 0 or (wanted.kind == "receive" and wanted.quantity < 0):
        raise InvalidBody(errors=[{"field": "/quantity", "detail": "moves nothing this way"}])
    try:
        async with shop.database.primary.transaction() as tx:
            moved = await stock_journal.move_stock(
                tx, wanted.variant_id, wanted.quantity, wanted.kind, wanted.reason
            )
    except stock_journal.NoSuchVariant:
        raise UnknownVariant(errors=[{"field": "/variant_id", "detail": "is not known"}]) from None
    except stock_journal.NotEnough:
        detail = "takes away more than is available"
        raise OutOfStock(errors=[{"field": "/quantity", "detail": detail}]) from None
    shop.changed()
    return document(
        StockMovementDocument(
            variant_id=wanted.variant_id,
            received=moved.received,
            available=moved.available,
            band=moved.band,
        ),
        201,
    )
