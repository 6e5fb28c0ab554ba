"""The server of business: uvicorn round the application, stopped without dropping a request."""

from __future__ import annotations

from typing import Final

import uvicorn

from services import serving
from services.business.app import create_app
from services.child import Child
from services.settings import BusinessSettings
from services.telemetry import configure_logging

# Access uses no connection that was idle for 60 s: closing later than that, business never closes
# one that a request is on its way to.
KEEP_ALIVE_S: Final = 75
BACKLOG: Final = 1024  # connections of access that wait; it has a pool of some tens


def serve(settings: BusinessSettings, child: Child | None = None) -> None:
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
        backlog=BACKLOG,
    )
    serving.serve(config, child, workers=settings.business_workers)
