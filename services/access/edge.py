"""One access process: what its connections share, and where a request goes from here."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from services.access.access_log import AccessLog
from services.access.admission import Admission
from services.access.allowances import Allowances
from services.access.askers import Askers
from services.access.beacons import Beacons
from services.access.buckets import Connections
from services.access.client_address import Networks, client_of
from services.access.counts import UNKNOWN, Counts
from services.access.fields import answer_fields, field_line
from services.access.forward import Forwarder
from services.access.framing import path_of
from services.access.health import Readiness
from services.access.limits import Limits
from services.access.live import Live
from services.access.live_door import Door
from services.access.live_request import asks_for_stream
from services.access.memory import HELD_PART, Memory, give_back
from services.access.pages import Pages
from services.access.passage import Passage, Request
from services.access.routes import LIVE, LOCAL, Route, known_routes, learn_route
from services.access.tag_stream import TagStream
from services.access.timers import Wheel
from services.access.tracing import names_of
from services.exchange import Headers
from services.problems import InternalError, NotFound, Overloaded, Problem
from services.settings import AccessSettings
from services.telemetry import logger, request_id_var
from services.watchdog import Watchdog

if TYPE_CHECKING:
    from services.access.protocol import AccessProtocol
    from services.access.reader import Reader

log = logger(__name__)

PAGE: Final = Route.PAGE
BEACON: Final = Route.BEACON


class Edge:
    """Made before the event loop runs; nothing in it needs one until the first connection."""

    def __init__(self, settings: AccessSettings, limits: Limits | None = None) -> None:
        self.settings = settings
        self.limits = limits or Limits(
            body_bytes=settings.body_limit_bytes,
            keep_alive_s=settings.keep_alive_s,
            request_s=settings.access_timeout_ms / 1000,
        )
        self.closing = False  # every answer is its connection's last: a stop, or little memory
        self.memory = Memory(settings.access_memory_limit_bytes)
        self.log = AccessLog(settings.access_log_sample)
        self.wheel = Wheel()
        self.readers: list[Reader] = []
        self.default_headers: Headers = []
        self.default_lines = b""
        self.counts = Counts()
        self.watchdog = Watchdog()
        self.proxies = Networks(
            _listed(settings.trusted_proxies), field=settings.proxy_header.encode()
        )
        self.unlimited = Networks(
            [*_listed(settings.trusted_proxies), *_listed(settings.unlimited_networks)]
        )
        self.connections = Connections(
            limit=settings.connection_limit,
            limit_by_address=settings.connection_limit_by_address,
            exempt=self.unlimited,
        )
        self.askers = Askers()
        self.admission = Admission(
            {
                Route.PAGE: settings.page_pool_size,
                Route.CHECKOUT: settings.checkout_pool_size,
                Route.PAYMENT: settings.payment_pool_size,
                Route.LOGIN: settings.login_pool_size,
                Route.OTHER: settings.other_pool_size,
            },
            # A short connection asks once, and is no client any more.
            clients=lambda: min(self.askers.count, self.connections.open),
        )
        self.allowances = Allowances.of(settings)
        self.tag_stream = TagStream(settings)
        self.forwarder = Forwarder(
            settings, self.admission, self.allowances, self.proxies, self.tag_stream
        )
        self.beacons = Beacons(settings, self.admission, self.allowances, self.proxies, self.memory)
        self.readiness = Readiness(self.forwarder.control)
        self.pages = Pages(
            memory_bytes=settings.page_memory_bytes,
            fetch=self.forwarder.fetch_page,
            verified_since=self.tag_stream.verified_since,
            pressed=lambda: self.admission.is_pressed(Route.PAGE),
        )
        self.live = Live(self)
        self.live_door = Door(self, self.live)

    async def start(self) -> None:
        """Begin what runs beside the connections; called within the event loop."""
        secret = self.settings.internal_secret.get_secret_value().encode()
        forwarder = self.forwarder
        self.tag_stream.start(self.pages, forwarder.control, secret, forwarder.identities)
        self.allowances.start()
        self.live.start()

    async def aclose(self) -> None:
        """Let what has begun end, then end everything."""
        self.closing = self.readiness.stopping = True
        await self.beacons.aclose()
        await self.live.aclose()
        await self.forwarder.aclose()
        await self.pages.aclose()
        await self.tag_stream.aclose()
        await self.allowances.aclose()
        self.wheel.stop()
        await self.log.aclose()

    def look_at_memory(self) -> None:
        """Ten times a second: near the limit, give up what costs memory (see memory.py)."""
        memory, pages = self.memory, self.pages
        changed = memory.look()
        if memory.pressure > 1:
            self.live.shed()
        if memory.rising:
            pages.bound(min(pages.memory_bytes, pages.bytes_held) // HELD_PART)
            give_back()
        elif changed and not memory.pressure:
            pages.bound(self.settings.page_memory_bytes)
        self.closing = memory.pressure > 0

    def serve(self, passage: Passage, connection: AccessProtocol) -> None:
        """Have a whole request answered that no held page answers."""
        try:
            target = passage.target
            route = known_routes.get((passage.method, target))
            if route is None or self.memory.pressure > 1:
                self._serve(passage, connection)
            elif route is PAGE and not passage.body and self.pages.is_page(target):
                self._obtain(passage, connection)
            elif route is BEACON:
                self.beacons.start(passage, connection)
            else:
                self.forwarder.start(passage, route)
        except Exception:
            log.exception("bug", target=passage.target.decode("latin-1"))
            self.forwarder.give_up(passage)
            connection.refuse(passage, InternalError())

    def _serve(self, passage: Passage, connection: AccessProtocol) -> None:
        """The same where it is not known yet whose the path is, or memory is short."""
        path = path_of(passage.target)
        if path == LIVE and asks_for_stream(passage.target, passage.headers):
            passage.route = Route.LIVE
            passage.request_id = names_of(passage.headers)[0]
            self.live_door.begin(passage, connection)
            return
        if path in LOCAL or path == "*":
            connection.run_app(passage, path)
            return
        route = learn_route(passage.method, passage.target, path)
        if route is None:
            passage.request_id = names_of(passage.headers)[0]
            connection.refuse(passage, NotFound())
        elif self.memory.pressure > 1:
            passage.request_id = names_of(passage.headers)[0]
            self.counts.out_of_memory_total += 1
            connection.refuse(passage, Overloaded("Nothing was done; try again.", retry_after_s=2))
        elif route is PAGE and not passage.body and self.pages.is_page(passage.target):
            self._obtain(passage, connection)
        elif route is BEACON:
            self.beacons.start(passage, connection)
        else:
            self.forwarder.start(passage, route)

    def _obtain(self, passage: Passage, connection: AccessProtocol) -> None:
        """Have a page fetched, or wait for one that is."""
        passage.request_id, _, _ = names_of(passage.headers)
        passage.route = PAGE
        passage.task = asyncio.get_running_loop().create_task(self._page(passage, connection))

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
                now = time.monotonic()
                self.answered(passage, status_of(found), len(found), now, "fetched")
            elif found is not None:
                passage.request_id = found.header(b"x-request-id") or passage.request_id
                fields = answer_fields(found, to_head=False)
                connection.answer(passage, found.status, fields, found.body)
            else:
                passage.task = None
                self.forwarder.start(passage, Route.PAGE)

    def take_defaults(self, headers: Headers) -> bytes:
        """uvicorn's default headers as lines. It makes a new list each second, for Date."""
        self.default_lines = b"".join([field_line(field) for field in headers])
        self.default_headers = headers
        return self.default_lines

    def answered(
        self, passage: Passage, status: int, size_bytes: int, now: float, cache: str = ""
    ) -> None:
        """Count an answer that was made for one request, or waited for its page."""
        route = passage.route
        took_s = now - passage.started_at
        if route is None:
            self.counts.unknown.add(status)
        elif passage.admitted_at or cache:
            self.counts.by_route[route].forwarded(status, took_s)
        else:
            self.counts.by_route[route].add(status)
        if self.log.share:
            name = UNKNOWN if route is None else route.value
            address = passage.client.address if passage.client is not None else ""
            self.log_request(passage, status, size_bytes, took_s, name, cache, address)

    def log_request(  # noqa: PLR0917  # as AccessLog.write
        self,
        request: Request,
        status: int,
        size_bytes: int,
        took_s: float,
        route: str,
        cache: str,
        address: str,
    ) -> None:
        """Write a request to the access log, if it is one of the sample."""
        if not self.log.sample():
            return
        request_id = request.request_id.decode() if isinstance(request, Passage) else ""
        client = client_of(address, request.headers, self.proxies)
        method = request.method.decode()
        self.log.write(
            method, request.target, status, size_bytes, took_s, route, cache, request_id, client
        )

    def log_held(self, request: Request, page: bytes, address: str) -> None:
        """The same of one that was answered with a page from memory."""
        size_bytes = len(page) - page.index(b"\r\n\r\n") - 4
        self.log_request(
            request, status_of(page), size_bytes, 0.0, Route.PAGE.value, "hit", address
        )


def status_of(page: bytes) -> int:
    """The status of a whole answer: HTTP/1.1 200 OK."""
    return int(page[9:12])


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
