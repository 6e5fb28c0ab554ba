"""`tercet access`: uvicorn with the protocol and application of this package."""

from __future__ import annotations

from typing import Final, cast

import uvicorn

from services import serving
from services.access.app import Application
from services.access.edge import Edge
from services.access.limits import Limits
from services.access.protocol import AccessProtocol
from services.child import Child
from services.settings import AccessSettings
from services.telemetry import configure_logging

BACKLOG: Final = 4096  # connections the kernel holds for us in a burst; capped by somaxconn


def serve(settings: AccessSettings, child: Child | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then let what is in flight end; blocks."""
    configure_logging("access", settings)
    serving.run(AccessServer(config_of(settings), child), workers=settings.access_workers)


class AccessServer(serving.Server):
    """Ends its connections by their own protocol."""

    def begin_stop(self, *, last: bool) -> None:
        edge = self._edge()
        edge.stopping = True
        edge.readiness.stopping = last

    def close_idle(self) -> None:
        for connection in list(self.server_state.connections):
            cast(AccessProtocol, connection).close_if_idle()

    def _edge(self) -> Edge:
        return cast(type[AccessProtocol], self.config.http).edge


def config_of(settings: AccessSettings, limits: Limits | None = None) -> uvicorn.Config:
    """uvicorn's settings. HTTP/2 and TLS are left to what stands in front."""
    edge = Edge(settings, limits)
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
    )
