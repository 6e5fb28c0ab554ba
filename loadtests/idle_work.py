"""What 10,000 connections cost that are open and silent: memory each, and the speed of the rest."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from loadtests import peers
from loadtests.access_process import require_held, running_access
from loadtests.comparison import OURS, Measure, rate_row, ratio_row, take_turns
from loadtests.measure import Figures, Load
from loadtests.peers import UnavailableError
from loadtests.pinning import on_core
from loadtests.programs import BrokenRunError, Program, ask, running
from loadtests.result import PROJECT, Aim, Row
from loadtests.sides import Bench, scratch
from loadtests.targets import HELD_TARGET, HELLO_TARGET

LIMIT_BYTES: Final = 4096
WITHIN_LIMIT: Final = Aim("at most", 1.0)
OPEN_AIM: Final = Aim("at least", 0.85)
MEMORY_AIMS: Final = {"node": Aim("at most", 0.5), "go": Aim("at most", 0.3)}
WARM_REQUESTS: Final = 50  # so that what is loaded or compiled on first use does not count
OPEN_S: Final = 90.0


async def idle(bench: Bench) -> list[Row]:
    """Each side started anew in each round; the connections have made one request each."""
    bytes_each: dict[str, list[float]] = {OURS: []}
    speeds: dict[str, list[Figures]] = {"with": [], "without": []}
    absent: dict[str, str] = {}
    for number in range(bench.rounds):
        await _access_round(bench, bytes_each[OURS], speeds, backwards=bool(number % 2))
        for peer in bench.among(list(MEMORY_AIMS)):
            try:
                each = await _peer_round(bench, peer)
            except UnavailableError as error:
                if peer.key not in absent:
                    print(f"skipped: {peer.name}: {error}", flush=True)
                absent[peer.key] = str(error)
            else:
                bytes_each.setdefault(peer.name, []).append(each)
    return _rows(bench, bytes_each, speeds, absent)


def _rows(
    bench: Bench,
    bytes_each: dict[str, list[float]],
    speeds: dict[str, list[Figures]],
    absent: dict[str, str],
) -> list[Row]:
    work = f"memory of an idle connection, of {bench.idle_connections}"
    ours = bytes_each[OURS]
    limit = [float(LIMIT_BYTES)] * len(ours)
    rows = [ratio_row(work, "bytes", ours, "limit", limit, aim=WITHIN_LIMIT)]
    for peer in bench.among(list(MEMORY_AIMS)):
        aim = MEMORY_AIMS.get(peer.key)
        if peer.key in absent:
            value = round(statistics.median(ours), 3)
            rows.append(Row(work, value, "bytes", peer.name, aim=aim, note=absent[peer.key]))
        else:
            rows.append(ratio_row(work, "bytes", ours, peer.name, bytes_each[peer.name], aim=aim))
    work = f"held page, keep-alive, c={bench.connections}, {bench.idle_connections} idle beside"
    rows.append(
        rate_row(work, speeds["with"], "access without them", speeds["without"], aim=OPEN_AIM)
    )
    return rows


async def _access_round(
    bench: Bench, bytes_each: list[float], speeds: dict[str, list[Figures]], *, backwards: bool
) -> None:
    load = Load(HELD_TARGET, bench.connections)
    with scratch() as folder:
        behind = await peers.PYTHON.launch(folder)
        cores, settings = bench.meter.cores, bench.settings
        async with running_access(behind, cores, folder, settings) as access:
            await require_held(access, HELD_TARGET)
            bytes_each.append(await _memory_each(bench, access, HELD_TARGET))

            async def beside() -> Figures:
                async with _open(bench, access, HELD_TARGET):
                    return await bench.meter.measure(access, load)

            async def alone() -> Figures:
                return await bench.meter.measure(access, load)

            sides: dict[str, Measure] = {"with": beside, "without": alone}
            order = dict(reversed(sides.items())) if backwards else sides
            for name, figures in (await take_turns(order, 1)).items():
                speeds[name] += figures


async def _peer_round(bench: Bench, peer: peers.Peer) -> float:
    with scratch() as folder:
        launch = await peer.launch(folder)
        log_file = folder / f"{peer.key}.log"
        async with running(launch, bench.meter.cores.server, log_file) as server:
            return await _memory_each(bench, server, HELLO_TARGET)


async def _memory_each(bench: Bench, server: Program, target: str) -> float:
    """What the server's memory grows by for each connection, in bytes."""
    for _ in range(WARM_REQUESTS):
        await ask(server, target)
    await asyncio.sleep(bench.settle_s)
    before_bytes = server.memory_bytes()
    async with _open(bench, server, target):
        await asyncio.sleep(bench.settle_s)
        grown_bytes = server.memory_bytes() - before_bytes
    return max(grown_bytes, 1) / bench.idle_connections


@asynccontextmanager
async def _open(bench: Bench, server: Program, target: str) -> AsyncIterator[None]:
    """The connections, open for the length of the block; BrokenRunError if the server closed any.

    A process of its own holds them, so that waiting for them keeps nobody else from working.
    """
    command = [sys.executable, "-m", "loadtests.idle", "--url", server.url(target)]
    command += ["--connections", str(bench.idle_connections)]
    with on_core(bench.meter.cores.generator):
        holder = await _spawn(command)
    try:
        async with asyncio.timeout(OPEN_S):
            if holder.stdout is None or await holder.stdout.readline() != b"open\n":
                _, err = await holder.communicate(b"")
                raise BrokenRunError(f"idle connections: {err.decode()[-500:]}")
        yield
        open_at_end, _ = await holder.communicate(b"")
        if int(open_at_end) != bench.idle_connections:
            closed = bench.idle_connections - int(open_at_end)
            raise BrokenRunError(f"{closed} idle connections were closed by {server.url(target)}")
    finally:
        if holder.returncode is None:
            holder.kill()
            await holder.wait()


async def _spawn(command: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,  # ends with this process, and the holder with it
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=PROJECT,
    )
