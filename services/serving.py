"""Running a server as a process: ready once it listens, stopped without losing a request.

Every Python server measured loses requests at a stop: it resets what waits to be accepted, and
closes connections on which a request is on its way (docs/decisions/0012-stopping-without-loss.md).
"""

from __future__ import annotations

import asyncio
import resource
import select
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import uvicorn

from services import listener
from services.child import Child
from services.problems import Unavailable
from services.telemetry import logger, mark_ready

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

log = logger(__name__)

# A stop takes at most 3 s: 0.1 until uvicorn sees the signal, then these, 0.1 of uvicorn's own,
# ANSWER_S for what is in flight, and 0.7 for payments that have begun (access/forward.py).
LAST_REQUEST_S: Final = 0.5  # for each connection's next request, whose answer says close
HANDSHAKE_S: Final = 0.2  # a round trip: for who has begun to connect
FIRST_REQUEST_S: Final = 0.1  # for who has just been accepted
ANSWER_S: Final = 0.8
# One that has a successor has more time: nobody waits for it.
RETIRE_S: Final = 1.0
POLL_S: Final = 0.01

DESCRIPTORS: Final = 1_048_576  # the most that a kernel gives by default (fs.nr_open)


class Closing:
    """An application that can be told to end each connection with its next answer."""

    def __init__(self, app: ASGI3Application) -> None:
        self._app = app
        self.stopping = False
        self.last = False  # stopping, and nobody takes over: not ready for more

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def closing(event: ASGISendEvent) -> None:
            if self.stopping and event["type"] == "http.response.start":
                event["headers"] = [*event.get("headers", ()), (b"connection", b"close")]
            await send(event)

        if self.last and scope["path"] == "/ready":
            await _not_ready(closing)
        else:
            await self._app(scope, receive, closing)


class Server(uvicorn.Server):
    """uvicorn's server, which says that it is ready once it listens, and stops without loss."""

    def __init__(
        self,
        config: uvicorn.Config,
        child: Child | None = None,
        closing: Closing | None = None,
    ) -> None:
        super().__init__(config)
        # uvicorn gives it to wait_for, which takes a part of a second as well.
        config.timeout_graceful_shutdown = ANSWER_S  # type: ignore[assignment]
        self.child = child
        self._closing = closing

    def listen(self) -> list[socket.socket]:
        """The sockets to serve on; may raise ListenError."""
        return self.bound("public", self.config.host, self.config.port, self.config.backlog)

    def bound(self, name: str, host: str, port: int, backlog: int) -> list[socket.socket]:
        """Listening sockets that, with a parent, all its processes share under that name."""
        if self.child is None:
            return listener.listen(host, port, backlog)
        return self.child.listen(name, host, port, backlog)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            mark_ready()
            if self.child is not None:
                self.child.ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            self.on_second()
        return await super().on_tick(counter)

    def on_second(self) -> None:
        """What is done once a second while it serves."""
        if self.child is not None:
            self.child.beat()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.child is not None and sig == signal.SIGINT:
            return  # a terminal sends it to everybody; the parent says what is to be done
        super().handle_exit(sig, frame)

    # The stop

    def begin_stop(self, *, last: bool) -> None:
        """From now on each answer is its connection's last; last: nobody takes over."""
        if self._closing is not None:
            self._closing.stopping, self._closing.last = True, last

    def close_idle(self) -> None:
        """Close the connections on which nothing is unanswered or half read."""
        # uvicorn does it in the next step.

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer whatever has been sent, then end.

        Connections stay open for one more request each; whoever connects is served while nobody
        else would, up to the last one in the listening queue.
        """
        last = self.child is None or self.child.is_last()
        self.begin_stop(last=last)
        listeners = self._listeners(sockets)
        if last:
            await self._until_gone(LAST_REQUEST_S)
            listener.hold_back_new(listeners)
            await asyncio.sleep(HANDSHAKE_S)
            self._stop_listening(sockets)
            await self._until_gone(FIRST_REQUEST_S)
        else:
            self._stop_listening(sockets)  # the socket itself goes on, in another process
            await self._until_gone(RETIRE_S)
        await self._read_what_came()
        self.close_idle()
        await super().shutdown(sockets)

    def _listeners(self, sockets: list[socket.socket] | None) -> Sequence[Any]:
        if sockets is not None:
            return sockets
        return [each for server in self.servers for each in server.sockets or ()]

    def _stop_listening(self, sockets: list[socket.socket] | None) -> None:
        for server in self.servers:
            server.close()
        listener.close(sockets or ())

    async def _until_gone(self, limit_s: float) -> None:
        """Wait until every connection has ended, for so long at most. uvicorn tells nobody."""
        give_up_at = time.monotonic() + limit_s
        while self.server_state.connections and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    async def _read_what_came(self) -> None:
        """Let the loop read what the kernel already has: closing would destroy it."""
        for _ in range(5):  # each turn reads every connection that has something
            if not any(map(_has_unread, list(self.server_state.connections))):
                return
            await asyncio.sleep(0)


def serve(config: uvicorn.Config, child: Child | None = None, *, workers: int = 1) -> None:
    """Serve until SIGTERM or SIGINT, then let what is in flight end; blocks.

    workers: how many such processes the parent is to run.

    uvicorn raises the signal again once it has stopped, for the handler that was there before.
    That is ours, which also ends a process that is told to stop before uvicorn listens to signals.
    """
    closing = Closing(cast("ASGI3Application", config.app))
    config.app = closing
    run(Server(config, child, closing), workers=workers)


def run(server: Server, *, workers: int = 1) -> None:
    """Listen where the config says, with a parent on its sockets, and serve until told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    _allow_descriptors()
    try:
        sockets = server.listen()
    except listener.ListenError as error:
        log.error("not started", reason=str(error))
        raise SystemExit(uvicorn.config.STARTUP_FAILURE) from None
    if server.child is not None:
        server.child.want(workers)
    server.run(sockets)


def _allow_descriptors() -> None:
    """As many as the system lets us have: each connection takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _has_unread(connection: Any) -> bool:
    transport = connection.transport
    if transport is None or transport.is_closing():
        return False
    descriptor = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return False
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    return bool(readable.poll(0))


async def _not_ready(send: ASGISendCallable) -> None:
    problem = Unavailable("This server is stopping.", retry_after_s=1)
    headers = [(name.encode(), value.encode()) for name, value in problem.headers().items()]
    await send(
        {"type": "http.response.start", "status": 503, "headers": headers, "trailers": False}
    )
    await send({"type": "http.response.body", "body": problem.body(), "more_body": False})


def _stop(_: int, __: FrameType | None) -> NoReturn:
    raise SystemExit(0)
