"""A stack of a load test's own: started by `tercet up`, in a folder that is gone at the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infra.local import secret_files
from infra.local.addresses import free_port
from infra.local.folder import DataFolder, NotRunningError
from infra.local.processes import spawn
from loadtests.access_process import running_access
from loadtests.pinning import Cores
from loadtests.programs import BrokenRunError, Launch, clean_environment
from loadtests.result import PROJECT
from loadtests.scenario import Stack
from loadtests.shop import JSON_HEADERS
from loadtests.sides import scratch
from services.deadline import Deadline
from services.keepalive import Pool

START_S: Final = 180.0  # a database is made and a catalog loaded, on a busy machine
STOP_S: Final = 20.0
POLL_S: Final = 0.1
WORK_MS: Final = 20  # of a scripted request
# A generator is one address and its customers come far oftener than people do.
LIMITS: Final = {"TERCET_CUSTOMER_RATES": "", "TERCET_ADDRESS_RATES": ""}


@dataclass(frozen=True, slots=True)
class Shop:
    """What is loaded. data_dir: of a stack that runs on this machine."""

    url: str
    data_dir: Path | None = None
    alone: Sequence[dict[str, Any]] = field(default=())  # parts, where there is no data folder

    @property
    def folder(self) -> Path:
        """Where all of it lies; BrokenRunError of a shop that is somewhere else."""
        if self.data_dir is None:
            raise BrokenRunError(f"{self.url} does not run on a data folder of this machine")
        return self.data_dir

    def parts(self) -> Sequence[dict[str, Any]]:
        """As its supervisor wrote them last; none where it is no stack of this machine."""
        if self.data_dir is None:
            return self.alone
        parts: list[dict[str, Any]] = DataFolder.at(self.data_dir).read_state().get("parts", [])
        return parts

    @property
    def operator_token(self) -> str | None:
        given = os.environ.get("TERCET_OPERATOR_TOKEN")
        if given or self.data_dir is None:
            return given
        return secret_files.read_secret(DataFolder.at(self.data_dir).secrets, "operator_token")


def running_shop(url: str | None, data_dir: Path) -> Shop:
    """The stack that runs on a data folder, or an address; NotRunningError where neither is.

    An address that was given may be anywhere: then only parts of a local stack with the same
    address are measured.
    """
    try:
        state = DataFolder.at(data_dir).running_state()
    except NotRunningError:
        if url is None:
            raise
        return Shop(url)
    if url is None or url.rstrip("/") == state["url"]:
        return Shop(str(state["url"]), data_dir)
    return Shop(url)


@asynccontextmanager
async def own_shop(
    stack: Stack, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Shop]:
    """What a scenario wants to have: a whole stack, or access before a scripted business."""
    with scratch() as folder:
        settings = {**LIMITS, **stack.environment, **(environment or {})}
        starting = (
            _before_script(stack.capacity, folder, settings)
            if stack.capacity
            else _whole(stack, folder, settings)
        )
        async with starting as shop:
            yield shop


@asynccontextmanager
async def _whole(stack: Stack, folder: Path, settings: Mapping[str, str]) -> AsyncIterator[Shop]:
    data, log = DataFolder.at(folder / "data"), folder / "up.log"
    command = [sys.executable, "-m", "infra.cli", "up", "--port", "0", "--data-dir", str(data.root)]
    command += ["--products", str(stack.products), "--standbys", str(stack.standbys)]
    process = spawn(
        command,
        environment={**clean_environment(), **settings},
        log_file=log,
        cwd=PROJECT,
        death_signal=signal.SIGTERM,
    )
    try:
        deadline = asyncio.get_running_loop().time() + START_S
        while not (state := data.read_state()) or state["phase"] != "ready":
            if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                said = log.read_text(errors="replace")[-2000:]
                raise BrokenRunError(f"the stack did not start: {said}")
            await asyncio.sleep(POLL_S)
        yield Shop(str(state["url"]), data.root)
    finally:
        process.terminate()
        for _ in range(round(STOP_S / POLL_S)):
            if process.poll() is not None:
                break
            await asyncio.sleep(POLL_S)
        else:
            process.kill()
        process.wait()


@asynccontextmanager
async def _before_script(
    capacity: int, folder: Path, settings: Mapping[str, str]
) -> AsyncIterator[Shop]:
    """So many requests a second by requests of 20 ms, as many at once as that takes."""
    port = free_port()
    command = [sys.executable, "-m", "loadtests.peers.scripted", str(port)]
    behind = Launch(command, port, ready_path="")  # it closes no connection, as asking would need
    async with running_access(behind, Cores(None, None), folder, settings) as access:
        await script(port, {"at_once": max(1, capacity * WORK_MS // 1000), "latency_ms": WORK_MS})
        yield Shop(access.url(""), alone=[{"name": "access", "pid": access.pid}])


async def script(port: int, changes: Mapping[str, float]) -> None:
    pool = Pool("127.0.0.1", port, size=1)
    try:
        body = json.dumps(changes).encode()
        deadline = Deadline.after(5.0)
        await pool.request(b"POST", b"/scripted", [JSON_HEADERS], body, deadline=deadline)
    finally:
        await pool.aclose()
