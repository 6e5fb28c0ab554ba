"""A server with a second port, on which it tells those who watch it how it is."""

from __future__ import annotations

import socket
from typing import Any, Final

import uvicorn

from services import serving
from services.child import Child
from services.internal import InternalServer
from services.reports import Report
from services.watchdog import Watchdog

INTERNAL_BACKLOG: Final = 16


class WatchedServer(serving.Server):
    """Says each second what it has counted, and answers GET /metrics for all its processes.

    port: of /metrics, shared by all processes; 0: none.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        child: Child | None = None,
        closing: serving.Closing | None = None,
        *,
        host: str,
        port: int,
    ) -> None:
        super().__init__(config, child, closing)
        self._internal_address = (host, port)
        self._internal_listeners: list[socket.socket] = []

    def report(self) -> tuple[Report[Any], Watchdog]:
        """What it says about itself, and what watches its loop; asked for once it has started."""
        raise NotImplementedError

    def listen(self) -> list[socket.socket]:
        host, port = self._internal_address
        if port:
            self._internal_listeners = self.bound("internal", host, port, INTERNAL_BACKLOG)
        return super().listen()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._report, self._watchdog = self.report()
        self._internal = InternalServer(self._report.text)
        self._watchdog.start()
        await self._internal.listen(self._internal_listeners)

    def on_second(self) -> None:
        super().on_second()
        self._report.publish()

    def begin_stop(self, *, last: bool) -> None:
        super().begin_stop(last=last)
        if not last:
            self._internal.close()  # another process answers there

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._watchdog.stop()
        self._internal.close()
        self._report.publish()  # the last word
