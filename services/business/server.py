"""The server of business: uvicorn round the application, stopped without dropping a request."""

from __future__ import annotations

from typing import Final

import uvicorn

from services import serving
from services.business.app import create_app
from services.settings import BusinessSettings
from services.telemetry import configure_logging

# Access uses no connection that was idle for 60 s: closing later than that, business never closes
# one that a request is on its way to.
KEEP_ALIVE_S: Final = 75
GRACE_S: Final = 1  # of the 3 s that a stop may take; payments that have begun get the rest


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
    serving.serve(config)
