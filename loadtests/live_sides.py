"""Servers of event streams for a benchmark, and the clients that listen to them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from infra.local.addresses import LOOPBACK
from loadtests import peers
from loadtests.access_process import access_launch, running_valkey
from loadtests.peers import address_of
from loadtests.pinning import Cores, on_core
from loadtests.programs import BrokenRunError, Program, running
from loadtests.result import PROJECT
from services.data.live import LiveState, write_state

SLUG: Final = "red-shirt"
TARGET: Final = f"/live?products={SLUG}"
TOPIC: Final = f"product:{SLUG}"
# What a product with six variants looks like there.
STATE: Final = (
    b'{"topic":"product:red-shirt","slug":"red-shirt","variants":['
    + b",".join(
        b'{"variant_id":"018cc297-8880-7768-ac98-29149001177%d","price":{"amount_minor":1999,'
        b'"currency":"USD"},"compare_at":null,"band":"in_stock","available":%d}' % (number, number)
        for number in range(6)
    )
    + b"]}"
)
OPEN_S: Final = 90.0
ROUND_S: Final = 60.0


@dataclass(frozen=True)
class Told:
    """Milliseconds from the telling until half, 99 of 100 and all clients had it."""

    half_ms: float
    most_ms: float
    all_ms: float


@dataclass
class Clients:
    """Open connections in a process of their own."""

    process: asyncio.subprocess.Process
    opened_a_second: float

    async def round(self, tell: Callable[[], Awaitable[object]]) -> Told:
        """Tell something, and when it has arrived."""
        if self.process.stdin is None:
            raise BrokenRunError("the clients have no control")
        self.process.stdin.write(b"round\n")
        await self._line()  # they listen now
        began_at = time.monotonic()
        await tell()
        moments = json.loads(await self._line())
        return Told(*((moments[name] - began_at) * 1000 for name in ("half", "most", "all")))

    async def _line(self) -> bytes:
        if self.process.stdout is None:
            raise BrokenRunError("the clients can not be heard")
        async with asyncio.timeout(ROUND_S):
            line = await self.process.stdout.readline()
        if not line:
            _, err = await self.process.communicate()
            raise BrokenRunError(f"listening clients: {err.decode()[-500:]}")
        return line


@asynccontextmanager
async def listening(
    url: str, connections: int, core: int | None, *, first: int = 0
) -> AsyncIterator[Clients]:
    """So many clients, from when all are open. BrokenRunError if the server closed any."""
    command = [sys.executable, "-m", "loadtests.listeners", "--url", url]
    command += ["--connections", str(connections), "--first-address", str(first)]
    with on_core(core):
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,  # ends with this process, and the clients with it
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=PROJECT,
        )
    try:
        clients = Clients(process, 0.0)
        async with asyncio.timeout(OPEN_S):
            said: dict[str, Any] = json.loads(await clients._line())
        clients.opened_a_second = said["open"] / said["seconds"]
        yield clients
        at_end, _ = await process.communicate(b"")
        if int(at_end) != connections:
            raise BrokenRunError(f"{connections - int(at_end)} streams were closed by {url}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass(frozen=True)
class Side:
    """A server of streams: how everybody who listens is told something, and its own page."""

    program: Program
    tell: Callable[[], Awaitable[object]]


@asynccontextmanager
async def access_side(
    cores: Cores, folder: Path, settings: Mapping[str, str]
) -> AsyncIterator[Side]:
    """access on the server's core; told by an entry of the stream in Valkey."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(running_valkey(cores, folder))
        behind = await peers.PYTHON.launch(folder)
        await stack.enter_async_context(running(behind, cores.generator, folder / "behind.log"))
        launch = access_launch(address_of(behind), port, settings)
        program = await stack.enter_async_context(
            running(launch, cores.server, folder / "access.log")
        )
        valkey = Redis(host=LOOPBACK, port=port)
        stack.push_async_callback(valkey.aclose)

        async def tell() -> None:
            await write_state(valkey, LiveState(TOPIC, "product", STATE, TOPIC))

        yield Side(program, tell)


@asynccontextmanager
async def node_side(cores: Cores, folder: Path) -> AsyncIterator[Side]:
    """Node's own server, as its documentation has it; told by a POST."""
    launch = await peers.NODE_EVENTS.launch(folder)
    async with running(launch, cores.server, folder / "node.log") as program:

        async def tell() -> None:
            reader, writer = await asyncio.open_connection(LOOPBACK, program.port)
            head = f"POST /tell HTTP/1.1\r\nHost: a\r\nContent-Length: {len(STATE)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + STATE)
            await reader.read()
            writer.close()

        yield Side(program, tell)
