"""Servers to load: real processes that can be paused."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

START_S = 15.0


@dataclass
class SmallShop:
    """A running small shop."""

    process: asyncio.subprocess.Process
    url: str

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


StartShop = Callable[..., AbstractAsyncContextManager[SmallShop]]


@pytest.fixture(scope="session")
def start_shop() -> StartShop:
    @asynccontextmanager
    async def start(*options: str) -> AsyncIterator[SmallShop]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.loadtests.small_shop", *options),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                port = int(await process.stdout.readline())
            yield SmallShop(process, f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            await process.wait()

    return start
