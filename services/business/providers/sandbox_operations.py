"""The sandbox's captures, voids and refunds over HTTP: what is done with a charge later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.business.providers.sandbox_answers import json_answer
from services.business.providers.sandbox_behaviour import OPERATIONS_APPROVED, Delivery
from services.business.providers.sandbox_operation_ledger import (
    KeyReused,
    Kind,
    NoSuchCharge,
    Wanted,
    check_same,
)
from services.business.providers.sandbox_requests import (
    OperationRequest,
    VoidRequest,
    authorize,
    read_body,
    read_list,
)
from services.problems import IdempotencyKeyReused, NotFound
from services.telemetry import logger

if TYPE_CHECKING:
    from services.business.providers.sandbox import Sandbox

log = logger(__name__)


async def create_capture(request: Request) -> Response:
    """POST /charges/{charge_key}/captures: take so much of what was authorised."""
    return await _create(request, "capture")


async def create_refund(request: Request) -> Response:
    """POST /charges/{charge_key}/refunds: give back so much of what was captured."""
    return await _create(request, "refund")


async def create_void(request: Request) -> Response:
    """POST /charges/{charge_key}/voids: let an authorisation go."""
    return await _create(request, "void")


async def _create(request: Request, kind: Kind) -> Response:
    """201 with a new operation, 200 with the one that the key already has."""
    sandbox = _authorized(request)
    wanted = await _wanted(request, kind)
    charge = sandbox.ledger.find(wanted.charge_key)
    if charge is None:
        raise NotFound("no charge with this key ever arrived", charge_key=wanted.charge_key)
    script = sandbox.ledger.script_of(charge.payment_method)
    plays = (script and script.operations) or OPERATIONS_APPROVED
    try:
        known = sandbox.ledger.find_operation(wanted.operation_key)
        if known is not None:
            check_same(known, wanted)
        struck = sandbox.brown_out.strikes()
        delivery = struck or (plays.delivery if known is None else Delivery.PROMPT)
        if not delivery.charges:
            return sandbox.delayed(delivery, None)
        pending_ms = sandbox.brown_out.current().pending_ms
        operation, is_new = await sandbox.ledger.operate(wanted, plays, pending_ms=pending_ms)
    except KeyReused:
        raise IdempotencyKeyReused("operation_key has an operation of another kind") from None
    except NoSuchCharge:
        raise NotFound from None  # never: a charge that was found does not go
    sandbox.told()
    log.debug(kind, operation_key=operation.operation_key, status=operation.status, new=is_new)
    return sandbox.delayed(
        delivery, json_answer(sandbox.as_told(operation), 201 if is_new else 200)
    )


async def _wanted(request: Request, kind: Kind) -> Wanted:
    charge_key: str = request.path_params["charge_key"]
    if kind == "void":
        void = await read_body(request, VoidRequest)
        return Wanted(void.operation_key, charge_key, kind, None)
    body = await read_body(request, OperationRequest)
    return Wanted(body.operation_key, charge_key, kind, body.amount_minor)


async def show_operation(request: Request) -> Response:
    """GET /operations/{operation_key}: the operation, or 404 when its call never arrived."""
    sandbox = _authorized(request)
    struck = sandbox.strikes_lookup()
    if struck is not None and not struck.charges:
        return sandbox.delayed(struck, None)
    operation_key: str = request.path_params["operation_key"]
    operation = sandbox.ledger.find_operation(operation_key)
    if operation is None:
        raise NotFound("no operation with this key ever arrived", operation_key=operation_key)
    return sandbox.delayed(struck or Delivery.PROMPT, json_answer(sandbox.as_told(operation)))


async def list_operations(request: Request) -> Response:
    """GET /operations?since=&cursor=&limit=: all of them, oldest first, for reconciliation."""
    sandbox = _authorized(request)
    wanted = read_list(request)
    operations, following = sandbox.ledger.operations_since(
        wanted.since_ms, after=wanted.after, limit=wanted.limit
    )
    next_cursor = None if following is None else str(following)
    return json_answer({"items": operations, "next_cursor": next_cursor})


def _authorized(request: Request) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    authorize(request, sandbox.secret)
    return sandbox


ROUTES: Final = (
    Route("/charges/{charge_key}/captures", create_capture, methods=["POST"]),
    Route("/charges/{charge_key}/refunds", create_refund, methods=["POST"]),
    Route("/charges/{charge_key}/voids", create_void, methods=["POST"]),
    Route("/operations", list_operations, methods=["GET"]),
    Route("/operations/{operation_key}", show_operation, methods=["GET"]),
)
