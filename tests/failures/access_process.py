"""Access as it is run, a parent with its children, and what is done to them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.access.conftest import COOKIE_SECRET, SECRET
from tests.access.upstream import Upstream
from tests.faults.waiting import until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def access(
    upstream: Upstream, folder: Path, **settings: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The parent's process, and the port, once all children are ready."""
    port = free_port()
    (folder / "ready").unlink(missing_ok=True)
    environment = os.environ | {
        "TERCET_INTERNAL_SECRET": SECRET,
        "TERCET_COOKIE_SECRET": COOKIE_SECRET,
        "TERCET_BUSINESS_URL": upstream.url,
        "TERCET_ACCESS_PORT": str(port),
        "TERCET_PAGE_POOL_SIZE": "64",
        "TERCET_READY_FILE": str(folder / "ready"),
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.process", "access"),
        env=environment,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until((folder / "ready").exists, within_s=20, what="access is ready")
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def children(parent_pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(parent_pid).children()}


async def rolled(parent_pid: int, within_s: float = 30) -> None:
    """SIGHUP, until every child is another one than before."""
    before = children(parent_pid)
    os.kill(parent_pid, signal.SIGHUP)

    def replaced() -> bool:
        now = children(parent_pid)
        return len(now) == len(before) and not now & before

    await until(replaced, within_s=within_s, what="every child is replaced")
