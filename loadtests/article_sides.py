"""The article's seven servers and the whole of Tercet, all running, measured one after another."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil

from infra.local.addresses import free_port
from infra.local.folder import DataFolder
from loadtests.access_process import LIMITS, require_held
from loadtests.article_loads import Load
from loadtests.measure import Watch
from loadtests.peers import PAGE_PATH, Peer, UnavailableError
from loadtests.pinning import Cores
from loadtests.programs import BrokenRunError, Launch, Program, ask, running
from loadtests.readings import Reading, Run, Tool, take
from loadtests.shop import page_target
from loadtests.usage import UsageMeter

OURS: Final = "Tercet"
START_S: Final = 180.0  # a database is made and a catalog loaded, all on one core
STOP_S: Final = 20.0
POLL_S: Final = 0.1
WANTED_BYTES: Final = 1024  # of the page; products of the samples have between 1.3 and 4.7 KB
PAGE: Final = "page"
HELLO: Final = "hello"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server."""

    reading: Reading
    cpu_us: float  # of the server, for each answer
    memory_bytes: int
    idle: float  # share of its core
    stack_cpu_us: float | None = None  # of all of Tercet, for each answer
    stack_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What is measured of a side when it is its turn."""

    load: Load
    body: str  # HELLO or PAGE
    tool: Tool
    seconds: float
    warm_up_s: float


@dataclass(frozen=True, slots=True)
class Side:
    """A running server and where its "hello" and its page are."""

    name: str
    program: Program
    paths: dict[str, str]


@dataclass(frozen=True, slots=True)
class Shop:
    """A whole stack, and the process of it that answers held pages."""

    folder: DataFolder
    access: Program
    target: str
    page: bytes
    is_own: bool  # started here; another one stays on its cores

    def move(self, core: int | None) -> None:
        """All of it to a core: to that of the servers when it is its turn, else out of the way.

        Its databases and workers take about a tenth of a core while nobody asks for anything.
        """
        if core is None or not self.is_own:
            return
        for part in self.folder.running_state()["parts"]:
            with suppress(psutil.Error):
                process = psutil.Process(part["pid"])
                for member in (process, *process.children(recursive=True)):
                    _pin(member.pid, core)


def _pin(pid: int, core: int) -> None:
    """With all its threads; those that end meanwhile need no core."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                os.sched_setaffinity(int(task.name), {core})


@dataclass
class Sides:
    """All that can be had, until the end of the block."""

    cores: Cores
    folder: Path
    products: int
    data_dir: Path | None  # of a running stack to use instead of a new one
    sides: list[Side] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    shop: Shop | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Sides:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, peers: Sequence[Peer]) -> None:
        """Build and start everybody; who can not be had is in `absent`, with the reason."""
        launches: dict[Peer, Launch] = {}
        for peer in peers:  # all are compiled before the stack is there, whose page they answer
            try:
                launches[peer] = await peer.launch(self.folder, page=b"")
            except UnavailableError as error:
                self.absent[peer.name] = str(error)
                print(f"skipped: {peer.name}: {error}", flush=True)
        print("starting the stack", flush=True)
        shop = await self._stack.enter_async_context(self._running_shop())
        self.shop = shop
        for peer in launches:
            launch = await peer.launch(self.folder, page=shop.page)
            log_file = self.folder / f"{peer.key}.log"
            program = await self._stack.enter_async_context(
                running(launch, self.cores.server, log_file)
            )
            await _require_same(program, shop.page)
            self.sides.append(Side(peer.name, program, {HELLO: "/", PAGE: PAGE_PATH}))
        self.sides.append(Side(OURS, shop.access, {PAGE: shop.target}))

    async def measure(self, side: Side, turn: Turn) -> Sample:
        """Warm up by our own loop, then one run. Nobody but this side works on the core."""
        shop = self.shop if side.name == OURS else None
        if shop is None:
            return await self._sample(side, turn, [])
        shop.move(self.cores.server)
        try:
            await require_held(side.program, side.paths[turn.body])
            return await self._sample(side, turn, shop.folder.running_state()["parts"])
        finally:
            shop.move(self.cores.generator)

    async def _sample(self, side: Side, turn: Turn, parts: Sequence[dict[str, Any]]) -> Sample:
        url, load = side.program.url(side.paths[turn.body]), turn.load
        run = Run(
            url, load.connections, load.close, turn.seconds, self.cores.generator, self.folder
        )
        if turn.warm_up_s:
            await take("own", replace(run, seconds=turn.warm_up_s))
        usage, watch = UsageMeter(parts), Watch(side.program, self.cores.server)
        reading = await take(turn.tool, run)
        cpu_s, idle, _ = watch.read(reading.seconds)
        stack = usage.read()
        return Sample(
            reading,
            cpu_s * 1e6 / reading.answers,
            side.program.memory_bytes(),
            idle,
            sum(part.cpu_s or 0.0 for part in stack) * 1e6 / reading.answers if stack else None,
            sum(part.memory_bytes for part in stack) if stack else None,
        )

    @asynccontextmanager
    async def _running_shop(self) -> AsyncIterator[Shop]:
        """`tercet up` with its default settings but for limits that one client would hit."""
        if self.data_dir is not None:
            yield await _shop(DataFolder.at(self.data_dir), is_own=False)
            return
        port, data = free_port(), DataFolder.at(self.folder / "data")
        command = [sys.executable, "-m", "infra.cli", "up", "--port", str(port)]
        command += ["--data-dir", str(data.root), "--products", str(self.products)]
        launch = Launch(
            command,
            port,
            {"TERCET_LOG_LEVEL": "WARNING", **LIMITS},
            ready_path="/ready",
            ready_within_s=START_S,
            stop_within_s=STOP_S,
        )
        async with running(launch, self.cores.server, self.folder / "up.log"):
            async with asyncio.timeout(START_S):
                while data.read_state()["phase"] != "ready":  # noqa: ASYNC110  # another process says it
                    await asyncio.sleep(POLL_S)
            shop = await _shop(data, is_own=True)
            shop.move(self.cores.generator)
            yield shop


async def _shop(data: DataFolder, *, is_own: bool) -> Shop:
    state = data.running_state()
    parts = {part["name"]: part["pid"] for part in state["parts"]}
    access = Program(int(parts["access"]), urlsplit(state["url"]).port or 80)
    target, page = await _page_nearest(access, WANTED_BYTES)
    return Shop(data, access, target, page, is_own)


async def _page_nearest(access: Program, size_bytes: int) -> tuple[str, bytes]:
    """The product page whose size is the nearest to that, among the first of the list."""
    status, _, body = await ask(access, "/products")
    if status != 200:
        raise BrokenRunError(f"/products answers {status}: {body[:200]!r}")
    pages: dict[str, bytes] = {}
    for item in json.loads(body)["items"]:
        target = page_target(item["slug"])
        status, _, pages[target] = await ask(access, target)
        if status != 200:
            raise BrokenRunError(f"{target} answers {status}")
    target = min(pages, key=lambda known: abs(len(pages[known]) - size_bytes))
    return target, pages[target]


async def _require_same(program: Program, page: bytes) -> None:
    status, _, body = await ask(program, PAGE_PATH)
    if (status, body) != (200, page):
        raise BrokenRunError(f"{program.url(PAGE_PATH)} answers {status} and another page")
