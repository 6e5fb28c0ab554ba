"""The server of business: uvicorn round the application, stopped without dropping a request."""

from __future__ import annotations

import socket

import uvicorn

from services.business.app import create_app
from services.settings import BusinessSettings
from services.telemetry import configure_logging, mark_ready

# Access keeps its connections 4 s idle at most: closing later than that, business never closes
# one that a request is on its way to.
KEEP_ALIVE_S = 60
GRACE_S = 3


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            mark_ready()


def serve(settings: BusinessSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    configure_logging("business", settings)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.business_host,
        port=settings.business_port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=1024,
    )
    Server(config).run()
