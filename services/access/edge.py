"""One access process: what its connections share, and where a request goes from here."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from services.access.admission import Admission
from services.access.buckets import Connections
from services.access.client_address import Networks
from services.access.counts import Counts
from services.access.fields import answer_fields
from services.access.forward import Forwarder
from services.access.framing import path_of
from services.access.health import Readiness
from services.access.limits import Limits
from services.access.pages import Pages
from services.access.routes import LOCAL, Route, route_of
from services.access.tag_stream import TagStream
from services.access.timers import Wheel
from services.access.tracing import names_of
from services.problems import InternalError, NotFound, Problem
from services.settings import AccessSettings
from services.telemetry import logger, request_id_var

if TYPE_CHECKING:
    from services.access.passage import Passage
    from services.access.protocol import AccessProtocol
    from services.access.reader import Reader

log = logger(__name__)


class Edge:
    """Made before the event loop runs; nothing in it needs one until the first connection."""

    def __init__(self, settings: AccessSettings, limits: Limits | None = None) -> None:
        self.settings = settings
        self.limits = limits or Limits(
            body_bytes=settings.body_limit_bytes,
            keep_alive_s=settings.keep_alive_s,
            request_s=settings.access_timeout_ms / 1000,
        )
        self.stopping = False  # set once: every answer from then on is its connection's last
        self.wheel = Wheel()
        self.readers: list[Reader] = []
        self.counts = Counts()
        self.proxies = Networks(
            _listed(settings.trusted_proxies), field=settings.proxy_header.encode()
        )
        self.connections = Connections(
            limit=settings.connection_limit,
            limit_by_address=settings.connection_limit_by_address,
            exempt=Networks(
                [*_listed(settings.trusted_proxies), *_listed(settings.unlimited_networks)]
            ),
        )
        self.admission = Admission(
            {
                Route.PAGE: settings.page_pool_size,
                Route.CHECKOUT: settings.checkout_pool_size,
                Route.PAYMENT: settings.payment_pool_size,
                Route.OTHER: settings.other_pool_size,
            }
        )
        self.forwarder = Forwarder(settings, self.admission, self.proxies)
        self.readiness = Readiness(self.forwarder.control)
        self.tag_stream = TagStream(settings)
        self.pages = Pages(
            memory_bytes=settings.page_memory_bytes,
            fetch=self.forwarder.fetch_page,
            verified_since=self.tag_stream.verified_since,
        )

    async def start(self) -> None:
        """Begin what runs beside the connections; called within the event loop."""
        secret = self.settings.internal_secret.get_secret_value().encode()
        self.tag_stream.start(self.pages, self.forwarder.control, secret)

    async def aclose(self) -> None:
        """Let what has begun end, then end everything."""
        self.stopping = self.readiness.stopping = True
        await self.forwarder.aclose()
        await self.pages.aclose()
        await self.tag_stream.aclose()
        self.wheel.stop()

    def serve(self, passage: Passage, connection: AccessProtocol) -> None:
        """Have a whole request answered that no held page answers."""
        try:
            self._serve(passage, connection)
        except Exception:
            log.exception("bug", target=passage.target.decode("latin-1"))
            self.forwarder.give_up(passage)
            connection.refuse(passage, InternalError())

    def _serve(self, passage: Passage, connection: AccessProtocol) -> None:
        path = path_of(passage.target)
        if path in LOCAL or path == "*":
            connection.run_app(passage, path)
            return
        route = route_of(passage.method, path)
        if route is None:
            passage.request_id = names_of(passage.headers)[0]
            connection.refuse(passage, NotFound())
        elif route is Route.PAGE and self.pages.is_page(passage.target):
            passage.request_id, _, _ = names_of(passage.headers)
            passage.route = route
            passage.task = asyncio.get_running_loop().create_task(self._page(passage, connection))
        else:
            self.forwarder.start(passage, route)

    async def _page(self, passage: Passage, connection: AccessProtocol) -> None:
        request_id_var.set(passage.request_id.decode())
        try:
            found = await self.pages.obtain(
                passage.method,
                passage.target,
                passage.accept_encoding,
                passage.if_none_match,
                not passage.keep_alive,
                passage.deadline,
            )
        except Problem as problem:
            connection.refuse(passage, problem)
        except Exception:
            log.exception("bug", target=passage.target.decode("latin-1"))
            connection.refuse(passage, InternalError())
        else:
            if isinstance(found, bytes):
                connection.send_ready(passage, found)
            elif found is not None:
                fields = answer_fields(found, to_head=False)
                connection.answer(passage, found.status, fields, found.body)
            else:
                passage.task = None
                self.forwarder.start(passage, Route.PAGE)

    def answered(self, passage: Passage, status: int, size_bytes: int) -> None:
        """Count an answer that was made for one request."""
        route = passage.route
        if route is None:
            self.counts.unknown.add(status)
        else:
            tally = self.counts.by_route[route]
            tally.forwarded(status, time.monotonic() - passage.started_at)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
