"""Can be blocked, and is watched: `python -m tests.failures.blocking_server PORT INTERNAL_PORT`.

Two processes under the parent that business and access have. GET /block/SECONDS blocks the event
loop of the one that takes it; everything else is answered at once.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import uvicorn

from services import serving
from services.child import Child
from services.parent import Parent
from services.reports import Report
from services.settings import ProcessSettings
from services.telemetry import configure_logging
from services.watchdog import LOOP, Watchdog, Watched
from services.watched import WatchedServer


class Subject:
    def __init__(self) -> None:
        self.watchdog = Watchdog()


def a_driver_that_does_not_await(seconds: float) -> None:
    time.sleep(seconds)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"].startswith("/block/"):
        a_driver_that_does_not_await(float(scope["path"].removeprefix("/block/")))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})


class BlockingServer(WatchedServer):
    def report(self) -> tuple[Report[Watched], Watchdog]:
        subject = Subject()
        return Report("blocking", subject, LOOP, self.child), subject.watchdog


def serve(child: Child) -> int:
    configure_logging("blocking", ProcessSettings())
    config = uvicorn.Config(app, port=int(sys.argv[1]), lifespan="off", log_config=None)
    server = BlockingServer(config, child, host="127.0.0.1", port=int(sys.argv[2]))
    serving.run(server, workers=2)
    return 0


if __name__ == "__main__":
    sys.exit(Parent("blocking", serve).run())
