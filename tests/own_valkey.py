"""A Valkey of a test's own, which may be killed and comes back empty."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.asyncio import Redis

from infra.local.addresses import LOOPBACK, free_port
from infra.local.servers import valkey_server
from services.data.live import LiveState, write_state
from services.live_stream import STREAM
from services.valkey import LOST
from tests.faults.waiting import until

START_TIMEOUT_S: Final = 20.0


class OwnValkey:
    """`url` stays the same however often it is started."""

    def __init__(self) -> None:
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://{LOOPBACK}:{self._port}/0"
        self.client = Redis(host=LOOPBACK, port=self._port)

    async def start(self) -> None:
        options = {"bind": LOOPBACK, "port": str(self._port), "save": "", "appendonly": "no"}
        command = [str(valkey_server())]
        for name, value in options.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        await until(self._answers, within_s=START_TIMEOUT_S, what="a Valkey answers")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    async def tell(self, topic: str, data: bytes | None = None, *, event: str = "product") -> bytes:
        """Write a state as the worker does; returns its data."""
        data = data or b'{"topic":"%b","number":"%b"}' % (topic.encode(), _name())
        await write_state(self.client, LiveState(topic, event, data, topic))
        return data

    async def end(self) -> bytes:
        """The id of the last entry."""
        newest: Any = await self.client.xrevrange(STREAM, count=1)
        return bytes(newest[0][0])

    async def _answers(self) -> bool:
        try:
            return bool(await self.client.time())
        except LOST:
            return False


def _name() -> bytes:
    return secrets.token_hex(4).encode()


@asynccontextmanager
async def own_valkey() -> AsyncIterator[OwnValkey]:
    valkey = OwnValkey()
    await valkey.start()
    try:
        yield valkey
    finally:
        await valkey.client.aclose()
        valkey.kill()
