"""A small business as a process, and what is done to it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.failures.access_process import free_port
from tests.faults.waiting import until


class SmallBusiness:
    """One process of tests.failures.small_business."""

    def __init__(self, host: str, port: int, prefix: Sequence[str]) -> None:
        self.url = f"http://{host}:{port}"
        self.host = host
        self.port = port
        self._prefix = prefix
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._prefix,
            *(sys.executable, "-m", "tests.failures.small_business", str(self.port), self.host),
        )
        await until(self._listens, within_s=10, what="the small business listens")

    async def kill(self) -> None:
        """kill -9, and it is gone."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.setblocking(False)
            try:
                async with asyncio.timeout(0.2):
                    await asyncio.get_running_loop().sock_connect(probe, (self.host, self.port))
            except (OSError, TimeoutError):
                return False
            return True


@asynccontextmanager
async def small_business(
    host: str = "127.0.0.1", port: int = 0, prefix: Sequence[str] = ()
) -> AsyncIterator[SmallBusiness]:
    """prefix: a command that runs it somewhere else, such as in a network of its own."""
    business = SmallBusiness(host, port or free_port(), prefix)
    try:
        await business.start()
        yield business
    finally:
        await business.kill()
