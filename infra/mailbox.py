"""The mailbox of a stack on one's own machine: a real SMTP server, and a page with what came.

It takes mails for anybody and sends none on. What they say opens accounts, so the page is for this
machine alone, and its memory is all that there is of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Final

import jinja2
import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services import serving
from services.settings import MailboxSettings
from services.telemetry import configure_logging, logger

log = logger(__name__)

KEPT: Final = 200  # the newest; of 64 KB each at most
MAIL_BYTES: Final = 65_536
GRACEFUL_STOP_S: Final = 1
PAGE_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
TEMPLATE: Final = Path(__file__).with_name("mailbox.html")


@dataclass(frozen=True)
class Received:
    """A mail as it came. recipients: of the envelope, which is what counts."""

    recipients: list[str]
    sender: str
    subject: str
    body: str
    received_at: str


@dataclass
class Mailbox:
    """The newest mails, and the handler that aiosmtpd gives them to."""

    mails: deque[Received] = field(default_factory=lambda: deque(maxlen=KEPT))

    async def handle_DATA(self, _: SMTP, __: Session, envelope: Envelope) -> str:
        content = envelope.content
        raw = content if isinstance(content, bytes) else str(content).encode()
        message = message_from_bytes(raw, policy=policy.default)
        self.mails.append(
            Received(
                [str(recipient) for recipient in envelope.rcpt_tos],
                str(envelope.mail_from),
                str(message["subject"] or ""),
                _text_of(message),
                datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
        return "250 taken"


def _text_of(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain",))
    try:
        return str(part.get_content()).replace("\r\n", "\n") if part is not None else ""
    except (LookupError, ValueError):  # a character set that there is not
        return ""


def make_app(settings: MailboxSettings, mailbox: Mailbox) -> Starlette:
    """The page, its mails as JSON, and the SMTP server beside it."""
    environment = jinja2.Environment(autoescape=True)
    template = environment.from_string(TEMPLATE.read_text())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        server = await _listen(settings, mailbox)
        try:
            yield
        finally:
            server.close()

    async def page(_: Request) -> Response:
        html = template.render(mails=list(reversed(mailbox.mails)), kept=KEPT)
        return HTMLResponse(html, headers=PAGE_HEADERS)

    async def as_json(request: Request) -> Response:
        """Newest first; ?recipient= of one address."""
        wanted = request.query_params.get("recipient")
        found = [
            vars(mail)
            for mail in reversed(mailbox.mails)
            if wanted is None or wanted in mail.recipients
        ]
        return JSONResponse({"items": found}, headers=PAGE_HEADERS)

    async def live(_: Request) -> Response:
        return PlainTextResponse("live\n", headers=PAGE_HEADERS)

    # A page elsewhere that resolves its name to this machine must not read mails.
    hosts = ["127.0.0.1", "localhost", "[::1]", "::1", "mailbox"]
    return Starlette(
        routes=[Route("/", page), Route("/mails", as_json), Route("/live", live)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        lifespan=lifespan,
    )


async def _listen(settings: MailboxSettings, mailbox: Mailbox) -> asyncio.Server:
    def protocol() -> SMTP:
        return SMTP(
            mailbox, hostname="mailbox", ident="mailbox", data_size_limit=MAIL_BYTES, timeout=30
        )

    loop = asyncio.get_running_loop()
    return await loop.create_server(
        protocol, settings.mailbox_smtp_host, settings.mailbox_smtp_port
    )


def serve(settings: MailboxSettings) -> None:
    """Run the mailbox until SIGTERM or SIGINT."""
    configure_logging("mailbox", settings)
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # it names sender and recipients
    config = uvicorn.Config(
        make_app(settings, Mailbox()),
        host=settings.mailbox_host,
        port=settings.mailbox_port,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_STOP_S,
    )
    serving.serve(config)
