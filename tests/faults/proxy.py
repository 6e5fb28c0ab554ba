"""A TCP proxy that makes network faults: for tests, and by hand as `python -m tests.faults.proxy`.

It stands between two parts and does to each direction what its toxics say; they can be changed
while connections are open. A receiver that does not read stops its sender, as without a proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import partial
from typing import Any

from tests.faults.link import READ_BYTES, Link, Pump, Stream, Tally, reset
from tests.faults.toxics import Toxics


class Accept(StrEnum):
    """What becomes of new connections."""

    FORWARD = "forward"
    HALF_OPEN = "half_open"  # accepted and read, never answered; the server never hears of them
    RESET = "reset"  # accepted and reset at once
    REFUSE = "refuse"  # nobody listens


class Direction(StrEnum):
    """The way that bytes go."""

    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


@dataclass(frozen=True, slots=True)
class Counts:
    """What has come by since the proxy was started."""

    connections_total: int
    connections_open: int
    bytes_to_server: int
    bytes_to_client: int
    dropped_to_server: int
    dropped_to_client: int
    in_flight_bytes: int


class FaultProxy:
    """A proxy before one server: `async with FaultProxy(host, port) as proxy`.

    The same seed gives the n-th connection the same jitter.
    """

    def __init__(
        self, server_host: str, server_port: int, *, seed: int = 0, listen_port: int = 0
    ) -> None:
        self.host = "127.0.0.1"
        self.port = listen_port
        self._server = (server_host, server_port)
        self._seed = seed
        self._toxics = dict.fromkeys(Direction, Toxics())
        self._tallies = {direction: Tally() for direction in Direction}
        self._accept = Accept.FORWARD
        self._listener: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._connections_total = 0

    async def __aenter__(self) -> FaultProxy:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and reset what is open."""
        self._stop_listening()
        ending = dict(self._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for writer in ending.values():
            reset(writer)  # also of a task that was cancelled before its first step

    def set(self, direction: Direction | None = None, **toxics: Any) -> None:
        """Give one direction, or both, these toxics in place of what it had; none: healthy."""
        changed = Toxics.of(toxics)
        for one in Direction if direction is None else (direction,):
            self._toxics[one] = changed

    async def accept(self, accept: Accept) -> None:
        """Decide about new connections from now on; those that are open go on."""
        self._accept = accept
        if accept is Accept.REFUSE:
            self._stop_listening()
        elif self._listener is None:
            await self._listen()

    def point_to(self, server_host: str, server_port: int) -> None:
        """Give new connections another server, as a moved service does; open ones go on."""
        self._server = (server_host, server_port)

    def reset_all(self) -> None:
        """Reset every open connection on both sides, now."""
        for link in list(self._links):
            link.reset()

    def counts(self) -> Counts:
        to_server, to_client = (self._tallies[direction] for direction in Direction)
        return Counts(
            connections_total=self._connections_total,
            connections_open=len(self._tasks),
            bytes_to_server=to_server.passed_bytes,
            bytes_to_client=to_client.passed_bytes,
            dropped_to_server=to_server.dropped_bytes,
            dropped_to_client=to_client.dropped_bytes,
            in_flight_bytes=sum(link.in_flight_bytes for link in self._links),
        )

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._take, self.host, self.port, limit=READ_BYTES
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Known from the moment it is accepted: the proxy may close before its first step."""
        self._connections_total += 1
        task = asyncio.create_task(self._serve_or_reset((reader, writer)))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve_or_reset(self, client: Stream) -> None:
        try:
            await self._serve(client)
        except (asyncio.CancelledError, OSError):  # the proxy closes, or the server is not there
            reset(client[1])

    async def _serve(self, client: Stream) -> None:
        if self._accept is Accept.RESET:
            reset(client[1])
        elif self._accept is Accept.HALF_OPEN:
            while data := await client[0].read(READ_BYTES):
                self._tallies[Direction.TO_SERVER].dropped_bytes += len(data)
            client[1].close()
        else:
            dice = random.Random(f"{self._seed}/{self._connections_total}")
            server = await asyncio.open_connection(*self._server, limit=READ_BYTES)
            link = Link(
                client,
                server,
                self._pump(Direction.TO_SERVER, client, server, dice),
                self._pump(Direction.TO_CLIENT, server, client, dice),
            )
            self._links.add(link)
            try:
                await link.run()
            finally:
                self._links.discard(link)

    def _pump(
        self, direction: Direction, source: Stream, sink: Stream, dice: random.Random
    ) -> Pump:
        return Pump(
            source[0],
            sink[1],
            toxics=partial(self._toxics.__getitem__, direction),
            tally=self._tallies[direction],
            dice=random.Random(dice.random()),
        )


# By hand: python -m tests.faults.proxy --to 127.0.0.1:8081 --latency-ms 100 --direction to_client
# then lines of JSON on standard input change it: {"set": {"drop": true}, "direction": "to_server"},
# {"accept": "half_open"}, {"reset": true}, {"counts": true}; each is answered with the counts.


async def _obey(proxy: FaultProxy, command: dict[str, Any]) -> None:
    direction = command.get("direction")
    if "set" in command:
        proxy.set(None if direction is None else Direction(direction), **command["set"])
    if "accept" in command:
        await proxy.accept(Accept(command["accept"]))
    if command.get("reset"):
        proxy.reset_all()


async def _answer(proxy: FaultProxy, line: str) -> dict[str, Any]:
    try:
        await _obey(proxy, json.loads(line))
    except (ValueError, TypeError, AttributeError) as error:
        return {"error": str(error)}
    return asdict(proxy.counts())


async def _run(options: argparse.Namespace) -> None:
    host, _, port = options.to.rpartition(":")
    toxics = {field.name: getattr(options, field.name) for field in fields(Toxics)}
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with FaultProxy(host, int(port), seed=options.seed, listen_port=options.port) as proxy:
        proxy.set(options.direction, **toxics)
        await proxy.accept(options.accept)
        print(json.dumps({"listening": f"{proxy.host}:{proxy.port}"}), flush=True)  # noqa: T201
        obeying = asyncio.create_task(_obey_lines(proxy, lines))
        await stopped.wait()
        obeying.cancel()


async def _obey_lines(proxy: FaultProxy, lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        print(json.dumps(await _answer(proxy, line.decode())), flush=True)  # noqa: T201


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.proxy", description=__doc__)
    parser.add_argument("--to", required=True, help="the server, HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0: any free port")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--direction", type=Direction, choices=list(Direction))
    parser.add_argument("--accept", type=Accept, choices=list(Accept), default=Accept.FORWARD)
    for field in fields(Toxics):
        name = "--" + field.name.replace("_", "-")
        if field.name == "drop":
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=float if field.name.endswith("_ms") else int)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_run(_options()))
