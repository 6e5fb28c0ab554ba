"""The server of business: uvicorn round the application, stopped without dropping a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import uvicorn

from services import serving
from services.business.app import Gate, create_app
from services.business.metrics import report_of
from services.business.protocol import BusinessProtocol
from services.business.shop import Shop
from services.child import Child
from services.reports import Report
from services.settings import BusinessSettings
from services.telemetry import configure_logging
from services.watchdog import Watchdog
from services.watched import WatchedServer

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

# Access uses no connection that was idle for 60 s: closing later than that, business never closes
# one that a request is on its way to.
KEEP_ALIVE_S: Final = 75
BACKLOG: Final = 1024  # connections of access that wait; it has a pool of some tens


def serve(settings: BusinessSettings, child: Child | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    configure_logging("business", settings)
    server = BusinessServer(create_app(settings), settings, child)
    serving.run(server, workers=settings.business_workers)


class BusinessServer(WatchedServer):
    """Answers what is held by its protocol, until it stops: from then on the application does."""

    def __init__(self, gate: Gate, settings: BusinessSettings, child: Child | None = None) -> None:
        closing = serving.Closing(cast("ASGI3Application", gate))
        super().__init__(
            config_of(gate, closing, settings),
            child,
            closing,
            host=settings.business_internal_host,
            port=settings.business_internal_port,
        )
        self._gate = gate

    def report(self) -> tuple[Report[Shop], Watchdog]:
        shop = self._gate.shop
        return report_of(shop, self.child), shop.watchdog

    def begin_stop(self, *, last: bool) -> None:
        self._gate.held.close()  # only Closing tells a connection that an answer is its last
        super().begin_stop(last=last)


def config_of(gate: Gate, app: serving.Closing, settings: BusinessSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.business_host,
        port=settings.business_port,
        loop="uvloop",
        http=BusinessProtocol.behind(gate),
        ws="none",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who the client is, access has said in fields of its own
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
