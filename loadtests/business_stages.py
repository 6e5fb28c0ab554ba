"""What a held page costs business, stage by stage: its own code, driven without a socket.

A real shop is opened on a running stack, and the protocol of business is given the head of a
request again and again, with a transport that drops what is written. Of each pair of runs one goes
a stage further than the other: the difference is that stage. What a server does besides, which is
to wait for its sockets, to read and to write, is the rest of what it takes in all.

python -m loadtests.business_stages --target /products/SLUG prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import statistics
import sys
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import uvicorn
import uvloop
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from infra.local.folder import DataFolder
from loadtests.answers import request_bytes
from loadtests.programs import BrokenRunError
from services import serving
from services.business.app import Gate, create_app
from services.business.held import Fields, HeldPages, Target
from services.business.protocol import BusinessProtocol
from services.business.server import config_of
from services.data.cache import Found
from services.data.pages import Page
from services.settings import BusinessSettings, load
from services.telemetry import configure_logging

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

WITHIN_S: Final = 5.0
HEARD_S: Final = 2.5  # by then the tag stream has been heard for as long as a page must be young
ROUNDS: Final = 60
REQUESTS: Final = 500  # a round: short, so that the loop hears the heartbeat of the tag stream


class Transport(asyncio.Transport):
    """Takes everything and remembers the last of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written = data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Cut(HeldPages):
    """Knows what `whole` knows, and an answer that it gives instead of going on."""

    def __init__(self, whole: HeldPages, answer: bytes) -> None:
        super().__init__()
        self._targets, self._answer = whole._targets, answer


class CutBeforeLookUp(Cut):
    def answer(self, method: bytes, target: bytes, fields: Fields, first: bytes) -> bytes | None:
        return self._answer


class CutBeforeRender(Cut):
    def render(
        self, method: bytes, known: Target, found: Found[Page], fields: Fields, first: bytes
    ) -> bytes:
        return self._answer


class Driver:
    """Protocols that go further and further, on one gate and one shop."""

    def __init__(self, gate: Gate, config: uvicorn.Config) -> None:
        self._gate, self._config = gate, config
        self._state = ServerState()
        date = formatdate(usegmt=True).encode()
        self._state.default_headers = [(b"date", date)]

    async def answer(self, request: bytes) -> bytes:
        """What is answered by memory, after the routes have answered once."""
        protocol, transport = self.protocol(self._gate)
        protocol.data_received(request)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*self._state.tasks)
        routed, transport.written = transport.written, b""
        protocol.data_received(request)
        if not transport.written.startswith(b"HTTP/1.1 200 "):
            raise BrokenRunError(f"not answered from memory: {routed[:300]!r}")
        return transport.written

    def protocol(self, gate: Gate) -> tuple[BusinessProtocol, Transport]:
        transport = Transport()
        protocol = BusinessProtocol.behind(gate)(
            config=self._config, server_state=self._state, app_state={}
        )
        protocol.connection_made(transport)
        return protocol, transport

    def stages(self, answer: bytes) -> dict[str, BusinessProtocol]:
        """Each one does what the one before does, and what it is named after."""
        held = self._gate.held
        gates = {
            "HTTP server: parsing, connection": self._cut(CutBeforeLookUp(held, answer)),
            "gate: secret": self._cut(CutBeforeLookUp(held, answer)),
            "cache: target, deadline, position, look-up": self._cut(CutBeforeRender(held, answer)),
            "rendering": self._gate,
        }
        first = next(iter(gates.values()))
        first.lets_in = lambda headers: True  # type: ignore[method-assign]  # cut here
        return {name: self.protocol(gate)[0] for name, gate in gates.items()}

    def _cut(self, held: HeldPages) -> Gate:
        gate = copy.copy(self._gate)
        gate.held = held
        return gate


async def measure(request: bytes, settings: BusinessSettings) -> dict[str, float]:
    """CPU microseconds of each stage: the median of the rounds' differences."""
    gate = create_app(settings)
    config = config_of(gate, serving.Closing(cast("ASGI3Application", gate)), settings)
    config.load()
    lifespan = LifespanOn(config)
    await lifespan.startup()
    try:
        driver = Driver(gate, config)
        await asyncio.sleep(HEARD_S)
        stages = driver.stages(await driver.answer(request))
        rounds: dict[str, list[float]] = {name: [] for name in stages}
        for _ in range(ROUNDS):
            before_us = 0.0
            for name, protocol in stages.items():
                took_us = _time(protocol, request)
                rounds[name].append(took_us - before_us)
                before_us = took_us
            await asyncio.sleep(0.001)  # the tag stream is heard
        await driver.answer(request)  # still from memory
    finally:
        await lifespan.shutdown()
    return {name: statistics.median(values) for name, values in rounds.items()}


def _time(protocol: BusinessProtocol, request: bytes) -> float:
    """CPU microseconds for one request."""
    receive = protocol.data_received
    began_ns = time.process_time_ns()
    for _ in range(REQUESTS):
        receive(request)
    return (time.process_time_ns() - began_ns) / 1000 / REQUESTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.business_stages")
    parser.add_argument("--data-dir", type=Path, default=Path(".tercet"), help="a running stack's")
    parser.add_argument("--target", required=True, help="of a page: /products/SLUG")
    options = parser.parse_args()
    os.environ.update(DataFolder.at(options.data_dir).running_state()["environment"])
    os.environ["TERCET_LOG_LEVEL"] = "WARNING"
    settings = load(BusinessSettings)
    configure_logging("business", settings)
    secret = settings.internal_secret.get_secret_value()
    # What access sends with a request for a page.
    lines = [
        *("accept: */*", f"x-internal-secret: {secret}", "x-request-id: " + "0" * 32),
        *(f"traceparent: 00-{'1' * 32}-{'2' * 16}-00", "x-deadline-ms: 4990"),
    ]
    request = request_bytes("shop.example", options.target, lines=lines)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(request, settings))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
