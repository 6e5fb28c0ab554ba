"""Running a server as a process: ready once it listens, and 0 after a stop that was asked for."""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import NoReturn

import uvicorn

from services.telemetry import mark_ready


class Server(uvicorn.Server):
    """uvicorn's server, which says that it is ready once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            mark_ready()


def serve(config: uvicorn.Config) -> None:
    """Serve until SIGTERM or SIGINT, then let what is in flight end; blocks.

    uvicorn raises the signal again once it has stopped, for the handler that was there before.
    That is ours, which also ends a process that is told to stop before uvicorn listens to signals.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    Server(config).run()


def _stop(_: int, __: FrameType | None) -> NoReturn:
    raise SystemExit(0)
