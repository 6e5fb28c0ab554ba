"""The sandbox payment provider: a server of its own that charges and misbehaves by script.

Tercet speaks to it over HTTP as to any provider. GET / documents every behaviour for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import jinja2
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services import serving
from services.business.providers import sandbox_operations
from services.business.providers.sandbox_answers import (
    SandboxProtocol,
    deliver,
    json_answer,
    render,
)
from services.business.providers.sandbox_behaviour import (
    BY_CARD_NUMBER,
    SCRIPTS,
    Behaviour,
    BrownOut,
    Delivery,
    Script,
)
from services.business.providers.sandbox_challenges import (
    challenge_page,
    challenges_url,
    decided_page,
    read_decision,
)
from services.business.providers.sandbox_ledger import Balance, Charge, Ledger, NextAction, Told
from services.business.providers.sandbox_operation_ledger import Operation
from services.business.providers.sandbox_requests import (
    ChargeRequest,
    TokenRequest,
    authorize,
    read_body,
    read_list,
)
from services.business.providers.sandbox_webhooks import BATCH, Planned, Sender, deliveries, rows_of
from services.business.webhook_signature import key_of
from services.problems import (
    FieldError,
    IdempotencyKeyReused,
    InternalError,
    InvalidBody,
    MethodNotAllowed,
    NotFound,
    Problem,
)
from services.settings import ProviderSettings
from services.tasks import end_tasks
from services.telemetry import configure_logging, logger
from services.transport import KeepAliveTransport

PAGE_CHARGES: Final = 50  # the latest charges on the page for people
GRACEFUL_STOP_S: Final = 1  # a charge takes milliseconds; what still runs then hangs by script
KEEP_ALIVE_S: Final = 120  # longer than a caller's pool keeps an idle connection
PAGE_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

log = logger(__name__)

Thing = TypeVar("Thing", bound=Charge | Operation)


@dataclass(slots=True)
class Sandbox:
    """What the routes share: the secret, the ledger and the brown-out being played.

    public_url: where customers reach it, if that is known. sender: none where no webhooks go.
    """

    secret: bytes
    ledger: Ledger
    brown_out: BrownOut
    public_url: str = ""
    sender: Sender | None = None

    def strikes_lookup(self) -> Delivery | None:
        return self.brown_out.strikes() if self.brown_out.current().lookups else None

    def announce(self, told: Sequence[Told]) -> list[dict[str, Any]]:
        """The webhooks of a charge that changes; called in the ledger's writer."""
        if self.sender is None:
            return []
        behaviour = self.brown_out.current()
        planned = [
            Planned(
                one.what.kind if isinstance(one.what, Operation) else "charge",
                one.what.charge_key,
                one.what.status,
                self.as_told(one.what),
                one.from_ms,
            )
            for one in told
        ]
        return rows_of(
            planned,
            behaviour.webhooks,
            delay_ms=behaviour.webhook_delay_ms,
            chance=self.brown_out.chance,
        )

    def as_told(self, what: Thing) -> Thing:
        """A charge or operation as this provider speaks of it, which may not be as it is."""
        behaviour = self.brown_out.current()
        return msgspec.structs.replace(
            what,
            amount_minor=what.amount_minor + behaviour.tells_minor_more,
            currency=behaviour.tells_currency or what.currency,
        )

    def told(self) -> None:
        """There may be webhooks to send."""
        if self.sender is not None:
            self.sender.wake()

    def delayed(self, delivery: Delivery, answer: Response | None) -> Response:
        return deliver(delivery, answer, delay_ms=self.brown_out.current().delay_ms)


async def create_charge(request: Request) -> Response:
    """POST /charges: 201 with a new charge, 200 with the one that the key already has."""
    sandbox = _authorized(request)
    wanted = await read_body(request, ChargeRequest)
    known = sandbox.ledger.find(wanted.charge_key)
    if known is not None:
        _check_same(known, wanted)
    script = _script_of(sandbox, wanted.payment_method)
    struck = sandbox.brown_out.strikes()
    delivery = struck or (script.delivery if known is None else Delivery.PROMPT)
    if not delivery.charges or await _errs_first(sandbox, script, known, wanted.charge_key):
        return sandbox.delayed(delivery if not delivery.charges else Delivery.ERROR, None)
    charge, is_new = await _charge(request, sandbox, wanted, script)
    _check_same(charge, wanted)
    sandbox.told()
    log.debug("charge", charge_key=charge.charge_key, status=charge.status, new=is_new)
    return sandbox.delayed(
        delivery, json_answer(_shown(request, sandbox, charge), 201 if is_new else 200)
    )


async def _charge(
    request: Request, sandbox: Sandbox, wanted: ChargeRequest, script: Script
) -> tuple[Charge, bool]:
    behaviour = sandbox.brown_out.current()
    if not script.challenges:
        return await sandbox.ledger.charge(wanted, script, pending_ms=behaviour.pending_ms)
    return await sandbox.ledger.charge(
        wanted,
        script,
        pending_ms=behaviour.challenge_ms,
        page_url=challenges_url(request, sandbox.public_url),
    )


def _shown(request: Request, sandbox: Sandbox, charge: Charge) -> Charge:
    """A charge as callers are told of it, with what its customer still has to do."""
    script = sandbox.ledger.script_of(charge.payment_method)
    if charge.status == "pending" and script is not None and script.challenges:
        url = challenges_url(request, sandbox.public_url) + charge.charge_id
        charge = msgspec.structs.replace(charge, next_action=NextAction("redirect", url))
    return sandbox.as_told(charge)


async def show_charge(request: Request) -> Response:
    """GET /charges/{charge_key}: the charge, or 404 when a call with that key never arrived."""
    sandbox = _authorized(request)
    struck = sandbox.strikes_lookup()
    if struck is not None and not struck.charges:
        return sandbox.delayed(struck, None)
    charge_key: str = request.path_params["charge_key"]
    charge = sandbox.ledger.find(charge_key)
    if charge is None:
        # The key in the answer tells this 404, which is evidence, from that of a wrong address.
        raise NotFound("no charge with this key ever arrived", charge_key=charge_key)
    answer = json_answer(_shown(request, sandbox, charge))
    return sandbox.delayed(struck or Delivery.PROMPT, answer)


async def list_webhooks(request: Request) -> Response:
    """GET /webhooks?charge_key=: what was told of a charge, and how it was taken."""
    sandbox = _authorized(request)
    charge_key = request.query_params.get("charge_key", "")
    return json_answer({"items": deliveries(sandbox.ledger.reader, charge_key)})


async def show_challenge(request: Request) -> Response:
    """GET /challenges/{charge_id}: the page on which a customer approves or declines."""
    charge = _sandbox(request).ledger.undecided(request.path_params["charge_id"])
    return challenge_page(charge)


async def decide_challenge(request: Request) -> Response:
    """POST /challenges/{charge_id}: what the customer has decided there; only the first counts."""
    sandbox = _sandbox(request)
    charge_id: str = request.path_params["charge_id"]
    outcome = await read_decision(request)
    charge = await sandbox.ledger.decide(charge_id, outcome)
    if charge is None:
        return challenge_page(None)
    sandbox.told()
    log.info("challenge", charge_key=charge.charge_key, outcome=outcome)
    return decided_page(charge)


async def list_charges(request: Request) -> Response:
    """GET /charges?since=&cursor=&limit=: the ledger, oldest first, for reconciliation."""
    sandbox = _authorized(request)
    wanted = read_list(request)
    charges, following = sandbox.ledger.since(
        wanted.since_ms, after=wanted.after, limit=wanted.limit
    )
    next_cursor = None if following is None else str(following)
    return json_answer({"items": charges, "next_cursor": next_cursor})


async def show_balance(request: Request) -> Response:
    """GET /balance: counts and sums by currency and status, of operations also by kind."""
    ledger = _authorized(request).ledger
    balances: list[Balance] = ledger.balance()
    return json_answer({"balances": balances, "operations": ledger.operation_balance()})


async def create_token(request: Request) -> Response:
    """POST /tokens: a payment method for a test card. Numbers that are not in the list are refused,
    so that a real card can not end up here."""
    sandbox = _authorized(request)
    wanted = await read_body(request, TokenRequest)
    script = BY_CARD_NUMBER.get(wanted.card_number.replace(" ", ""))
    if script is None:
        raise _invalid("/card_number", "is not one of the sandbox's test cards")
    return json_answer({"payment_method": await sandbox.ledger.add_token(script)}, 201)


async def put_behaviour(request: Request) -> Response:
    """PUT /behaviour: play a brown-out from now on, or end it."""
    sandbox = _authorized(request)
    behaviour = await read_body(request, Behaviour)
    sandbox.brown_out = BrownOut(behaviour)
    log.info("behaviour", mode=behaviour.mode, share=behaviour.share, for_s=behaviour.for_s)
    return json_answer(behaviour)


async def show_behaviour(request: Request) -> Response:
    return json_answer(_authorized(request).brown_out.current())


async def show_page(request: Request) -> Response:
    """GET /: every card, token and behaviour, and the latest charges, for people."""
    sandbox = _sandbox(request)
    html = _page_template().render(
        scripts=SCRIPTS,
        behaviour=sandbox.brown_out.current(),
        balances=sandbox.ledger.balance(),
        charges=sandbox.ledger.latest(PAGE_CHARGES),
    )
    return Response(html, media_type="text/html", headers=PAGE_HEADERS)


async def show_live(_: Request) -> Response:
    return json_answer({"status": "live"})


def _sandbox(request: Request) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def _authorized(request: Request) -> Sandbox:
    sandbox = _sandbox(request)
    authorize(request, sandbox.secret)
    return sandbox


def _script_of(sandbox: Sandbox, payment_method: str) -> Script:
    script = sandbox.ledger.script_of(payment_method)
    if script is None:
        raise _invalid("/payment_method", "is not a token of this provider")
    return script


async def _errs_first(
    sandbox: Sandbox, script: Script, known: Charge | None, charge_key: str
) -> bool:
    if not script.errors_first or known is not None:
        return False
    return await sandbox.ledger.count_error(charge_key) <= script.errors_first


def _check_same(charge: Charge, wanted: ChargeRequest) -> None:
    if (charge.amount_minor, charge.currency, charge.payment_method, charge.capture) != (
        wanted.amount_minor,
        wanted.currency,
        wanted.payment_method,
        wanted.capture,
    ):
        raise IdempotencyKeyReused("charge_key has a charge of another amount, currency or method")


def _invalid(field: str, detail: str) -> InvalidBody:
    return InvalidBody(errors=[FieldError(field=field, detail=detail)])


@functools.cache
def _page_template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(loader=loader, autoescape=True).get_template("sandbox.html")


async def _render_problem(_: Request, error: Exception) -> Response:
    return render(error if isinstance(error, Problem) else InternalError())


async def _render_http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = (error.headers if isinstance(error, HTTPException) else None) or {}
    if status == 404:
        return render(NotFound())
    if status == 405:
        return render(MethodNotAllowed(headers=headers))
    return render(InternalError())


@contextlib.asynccontextmanager
async def _sending(settings: ProviderSettings, ledger: Ledger) -> AsyncIterator[Sender | None]:
    """Who sends webhooks while the application runs, if the settings name an address for them."""
    if not settings.webhook_url:
        yield None
        return
    key = key_of(settings.webhook_secret.get_secret_value())
    async with httpx.AsyncClient(
        trust_env=False, follow_redirects=False, transport=KeepAliveTransport(size=BATCH)
    ) as http:
        sender = Sender(
            settings.webhook_url, key, http=http, read=ledger.reader, write=ledger.write
        )
        sending = asyncio.create_task(sender.run())
        try:
            yield sender
        finally:
            await end_tasks(sending)


def make_app(settings: ProviderSettings) -> Starlette:
    """The provider as an ASGI application; its ledger is open while the application runs."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ledger = Ledger(settings.provider_data)
        secret = settings.provider_secret.get_secret_value().encode()
        sandbox = Sandbox(secret, ledger, BrownOut(Behaviour()), settings.provider_public_url)
        app.state.sandbox = sandbox
        async with _sending(settings, ledger) as sandbox.sender:
            ledger.announce = sandbox.announce
            yield
        ledger.close()

    return Starlette(
        lifespan=lifespan,
        exception_handlers={
            Problem: _render_problem,
            HTTPException: _render_http_error,
            Exception: _render_problem,
        },
        routes=[
            Route("/charges", create_charge, methods=["POST"]),
            Route("/charges", list_charges, methods=["GET"]),
            Route("/charges/{charge_key}", show_charge, methods=["GET"]),
            Route("/challenges/{charge_id}", show_challenge, methods=["GET"]),
            Route("/challenges/{charge_id}", decide_challenge, methods=["POST"]),
            Route("/webhooks", list_webhooks, methods=["GET"]),
            Route("/balance", show_balance, methods=["GET"]),
            Route("/tokens", create_token, methods=["POST"]),
            Route("/behaviour", put_behaviour, methods=["PUT"]),
            Route("/behaviour", show_behaviour, methods=["GET"]),
            Route("/", show_page, methods=["GET"]),
            Route("/live", show_live, methods=["GET"]),
            *sandbox_operations.ROUTES,
        ],
    )


def serve(settings: ProviderSettings) -> None:
    """Run the provider until SIGTERM or SIGINT."""
    configure_logging("provider", settings)
    config = uvicorn.Config(
        make_app(settings),
        host=settings.provider_host,
        port=settings.provider_port,
        http=SandboxProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_STOP_S,
    )
    serving.serve(config)
