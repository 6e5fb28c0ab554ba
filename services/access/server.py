"""`tercet access`: uvicorn with the protocol and application of this package."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Final, cast

import uvicorn

from services import serving
from services.access.app import Application
from services.access.edge import Edge
from services.access.limits import Limits
from services.access.metrics import report_of
from services.access.protocol import AccessProtocol
from services.child import Child
from services.reports import Report
from services.settings import AccessSettings
from services.telemetry import configure_logging
from services.watchdog import Watchdog
from services.watched import WatchedServer

# Forward secrecy and authenticated encryption (RFC 9325 4.2); TLS 1.3 has a list of its own.
TLS_1_2_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
# Live streams end one after another within the time that a stop waits for connections.
LIVE_STOP_S: Final = 0.8 * serving.LAST_REQUEST_S
LIVE_RETIRE_S: Final = 0.8 * serving.RETIRE_S
BACKLOG: Final = 4096  # connections the kernel holds for us in a burst; capped by somaxconn


def serve(settings: AccessSettings, child: Child | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then let what is in flight end; blocks."""
    configure_logging("access", settings)
    serving.run(AccessServer(config_of(settings), child), workers=settings.access_workers)


class AccessServer(WatchedServer):
    """Ends its connections by their own protocol, and tells those who watch it how it is."""

    def __init__(self, config: uvicorn.Config, child: Child | None = None) -> None:
        self.edge = cast(type[AccessProtocol], config.http).edge
        settings = self.edge.settings
        super().__init__(
            config, child, host=settings.access_internal_host, port=settings.access_internal_port
        )

    def report(self) -> tuple[Report[Edge], Watchdog]:
        return report_of(self.edge, self.child), self.edge.watchdog

    async def on_tick(self, counter: int) -> bool:
        self.edge.look_at_memory()
        self.edge.askers.look(time.monotonic())
        return await super().on_tick(counter)

    def begin_stop(self, *, last: bool) -> None:
        self.edge.closing = True
        self.edge.readiness.stopping = last
        super().begin_stop(last=last)
        self.edge.live.stop(LIVE_STOP_S if last else LIVE_RETIRE_S)
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def close_idle(self) -> None:
        for connection in list(self.server_state.connections):
            cast(AccessProtocol, connection).close_if_idle()


def config_of(settings: AccessSettings, limits: Limits | None = None) -> uvicorn.Config:
    """uvicorn's settings. HTTP/2 is left to what stands in front."""
    edge = Edge(settings, limits)
    certificate, key = settings.access_tls_certificate, settings.access_tls_key
    return uvicorn.Config(
        Application(edge),
        host=settings.access_host,
        port=settings.access_port,
        loop="uvloop",
        http=AccessProtocol.serving(edge),
        ws="none",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who a client is behind a proxy is decided in forward.py
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=1,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_context_factory=_tls if certificate else None,
    )


def _tls(_: uvicorn.Config, made: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """uvicorn's context without what is only there for clients of before 2015."""
    context = made()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context
