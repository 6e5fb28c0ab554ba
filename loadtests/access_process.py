"""The access tier of a benchmark: the real process, in its normal state, before a stand-in.

Normal state: Valkey runs and a heartbeat arrives on the tag stream, so that what access holds
counts as verified; every limit is on.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from infra.local.addresses import LOOPBACK, free_port
from infra.local.servers import valkey_server
from loadtests.heartbeat import beating
from loadtests.peers import address_of
from loadtests.pinning import Cores
from loadtests.programs import BrokenRunError, Launch, Program, ask, running

HELD_S: Final = 10.0  # the first heartbeats take a second
POLL_S: Final = 0.1
# All limits are on, for this machine's own address too, and above what one client does here:
# it has all the connections, those that idle included.
LIMITS: Final[Mapping[str, str]] = {
    "TERCET_UNLIMITED_NETWORKS": "",
    "TERCET_CONNECTION_LIMIT": "15000",
    "TERCET_CONNECTION_LIMIT_BY_ADDRESS": "15000",
}


def access_launch(upstream: str, valkey_port: int, settings: Mapping[str, str]) -> Launch:
    """`tercet access` with what it has to know, and settings that a run gave it."""
    port = free_port()
    environment = {
        "TERCET_ACCESS_HOST": LOOPBACK,
        "TERCET_ACCESS_PORT": str(port),
        "TERCET_BUSINESS_URL": f"http://{upstream}",
        "TERCET_VALKEY_URL": f"redis://{LOOPBACK}:{valkey_port}/0",
        "TERCET_INTERNAL_SECRET": secrets.token_urlsafe(32),
        "TERCET_COOKIE_SECRET": secrets.token_urlsafe(32),
        "TERCET_LOG_LEVEL": "WARNING",
        **LIMITS,
        **settings,
    }
    command = [sys.executable, "-m", "infra.process", "access"]
    return Launch(command, port, environment, ready_path="/ready")


@asynccontextmanager
async def running_access(
    behind: Launch,
    cores: Cores,
    folder: Path,
    settings: Mapping[str, str],
    *,
    behind_core: int | None = None,
) -> AsyncIterator[Program]:
    """access on the server's core; what it stands before and Valkey on the generator's.

    behind_core: another one for what it stands before.
    """
    core = cores.generator if behind_core is None else behind_core
    async with AsyncExitStack() as stack:
        valkey_port = await stack.enter_async_context(running_valkey(cores, folder))
        await stack.enter_async_context(running(behind, core, folder / "behind.log"))
        launch = access_launch(address_of(behind), valkey_port, settings)
        access = running(launch, cores.server, folder / "access.log")
        yield await stack.enter_async_context(access)


@asynccontextmanager
async def running_valkey(cores: Cores, folder: Path) -> AsyncIterator[int]:
    """A Valkey that keeps nothing, with a heartbeat on its tag stream."""
    port = free_port()
    options = {"bind": LOOPBACK, "port": str(port), "save": "", "appendonly": "no"}
    command = [str(valkey_server())]
    for name, value in options.items():
        command += [f"--{name}", value]
    launch = Launch(command, port, ready_path="")
    async with running(launch, cores.generator, folder / "valkey.log"):
        valkey = Redis(host=LOOPBACK, port=port)
        try:
            async with beating(valkey):
                yield port
        finally:
            await valkey.aclose()


async def require_held(
    access: Program, target: str, *, held: bool = True, within_s: float = HELD_S
) -> None:
    """Return once access answers that page from memory (or: without), else BrokenRunError."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        status, head, body = await ask(access, target)
        hit = "hit" in head.get("cache-status", "")
        if status == 200 and hit is held:
            return
        if asyncio.get_running_loop().time() > deadline:
            state = "a hit" if hit else "no hit"
            raise BrokenRunError(f"{target}: {status} with {len(body)} bytes, {state} in memory")
        await asyncio.sleep(POLL_S)
