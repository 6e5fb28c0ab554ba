"""access, what stands behind it and its clients in one event loop of the kind used in production.

In one loop a piece that is written is read before the next one is, so a stream arrives exactly
as it was cut. Tests here are plain functions: the loop runs only while one of them talks.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import uvicorn
import uvloop

from services.access.edge import Edge
from services.access.limits import Limits
from services.access.protocol import AccessProtocol
from services.access.server import config_of
from tests.access.conftest import settings_for
from tests.access.upstream import Seen, Upstream, answer
from tests.faults.waiting import until

T = TypeVar("T")
WITHIN_S: Final = 5.0  # for an answer that takes a millisecond: a hang, not a slow machine
RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # no port stays in TIME_WAIT after thousands


HELD: Final = b"/products/held"  # the one page that access may hold
PAGE: Final = b'{"slug":"held","text":"' + b"word " * 40 + b'"}'
PAGES: Final = (
    b'{"pages":[{"path":"/products/{slug}","query":[]},{"path":"/products","query":["limit"]},'
    b'{"path":"/categories","query":[]}]}'
)
# What access asks business on its own account.
ITS_OWN: Final = frozenset((b"/internal/pages", b"/ready"))


def page(body: bytes) -> bytes:
    """An answer that may be held."""
    return answer(
        body,
        content_type="application/json",
        cache_control="public, s-maxage=60",
        etag='"1"',
        cache_tag="held",
        x_internal_position="1",
    )


async def echo(seen: Seen) -> bytes:
    """Business' part for most tests: what was asked for is the answer."""
    if seen.target == HELD and seen.method in (b"GET", b"HEAD"):
        said = page(PAGE)
    else:
        said = answer(seen.target)
    return said if seen.method != b"HEAD" else said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


class Wire(asyncio.Protocol):
    """One client connection: what was received, and whether the server has ended it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.reset = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        own: socket.socket = transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._changed.set()
        return True  # this side may still send

    def connection_lost(self, exc: Exception | None) -> None:
        self.reset = exc is not None
        self.ended = True
        self._changed.set()

    async def until(self, condition: Callable[[], bool], *, within_s: float = WITHIN_S) -> bool:
        """Whether the condition came true of what is received; False when it takes too long."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Each piece arrives alone; what is left when the server has ended is not sent."""
        for piece in pieces:
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            await turn()


async def turn() -> None:
    """What was written before this is received after it, by a server in this loop."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@dataclass
class OneLoop:
    """`talk` from plain code; `do` what has to run in the loop."""

    runner: asyncio.Runner
    port: int
    upstream: Upstream
    edge: Edge

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    async def connect(self, port: int | None = None) -> Wire:
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(Wire, "127.0.0.1", port or self.port)
        return wire

    def talk(self, pieces: Iterable[bytes]) -> bytes:
        """Send pieces on a connection of their own; all that came until the server ended it."""
        return self.do(self.talked(pieces))

    async def talked(self, pieces: Iterable[bytes], port: int | None = None) -> bytes:
        wire = await self.connect(port)
        try:
            await wire.send(pieces)
            assert await wire.until(lambda: wire.ended), f"not ended: {bytes(wire.received)!r}"
            return bytes(wire.received)
        finally:
            wire.transport.abort()

    def passed_on(self) -> list[Seen]:
        """What business got of clients since the last time."""
        seen = [one for one in self.upstream.requests if one.target not in ITS_OWN]
        self.upstream.requests.clear()
        return seen

    def hold_a_page(self, target: bytes = HELD) -> None:
        """Have it in memory, for the second that a page is held without word of purges."""
        ask = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n"
        deadline = time.monotonic() + WITHIN_S
        while True:
            self.passed_on()
            self.talk([ask + b"\r\n" + ask + b"Connection: close\r\n\r\n"])
            if len(self.passed_on()) < 2:
                return
            assert time.monotonic() < deadline, "the page was fetched every time"


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: the signals are the test run's."""

    def capture_signals(self) -> Any:
        return nullcontext()


async def started(config: uvicorn.Config) -> tuple[uvicorn.Server, asyncio.Task[None], int]:
    """A server of this loop, its task and its port."""
    server = QuietServer(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started, within_s=10, what="the server listens")
    return server, task, listener.getsockname()[1]


@contextmanager
def serving(runner: asyncio.Runner, config: uvicorn.Config) -> Iterator[int]:
    """A server on a port of its own until the block ends."""
    server, task, port = runner.run(started(config))
    try:
        yield port
    finally:
        server.should_exit = True
        runner.run(asyncio.wait_for(task, 10))


@contextmanager
def one_loop(
    business: uvicorn.Config | None = None, *, limits: Limits | None = None, **changes: object
) -> Iterator[OneLoop]:
    """access as it is configured in production, before a recording upstream.

    business: a server to stand behind access instead.
    """
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        upstream = Upstream(echo, pages=PAGES)
        runner.run(upstream.listen(0))
        stack.callback(lambda: runner.run(upstream.stop()))
        url = upstream.url
        if business is not None:
            url = f"http://127.0.0.1:{stack.enter_context(serving(runner, business))}"
        config = config_of(settings_for(url, **changes), limits)
        edge = cast(type[AccessProtocol], config.http).edge
        yield OneLoop(runner, stack.enter_context(serving(runner, config)), upstream, edge)
