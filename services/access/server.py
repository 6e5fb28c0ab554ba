"""`tercet access`: uvicorn with the protocol and application of this package."""

from __future__ import annotations

from typing import Final

import uvicorn

from services import serving
from services.access.app import Application
from services.access.protocol import AccessProtocol
from services.child import Child
from services.settings import AccessSettings
from services.telemetry import configure_logging

BACKLOG: Final = 4096  # connections the kernel holds for us in a burst; capped by somaxconn


def serve(settings: AccessSettings, child: Child | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then let what is in flight end; blocks."""
    configure_logging("access", settings)
    if child is not None:
        child.want(settings.access_workers)
    serving.serve(config_of(settings), child)


def config_of(settings: AccessSettings) -> uvicorn.Config:
    """uvicorn's settings. HTTP/2 and TLS are left to what stands in front."""
    protocol = AccessProtocol.limited_to(
        body_limit_bytes=settings.body_limit_bytes,
        timeout_s=settings.access_timeout_ms / 1000,
    )
    return uvicorn.Config(
        Application(settings),
        host=settings.access_host,
        port=settings.access_port,
        loop="uvloop",
        http=protocol,
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
