"""What `make bench-live` measures: open streams, what telling them takes, and pages beside."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.local.addresses import LOOPBACK, free_port
from loadtests import peers
from loadtests.access_process import require_held
from loadtests.comparison import Measure, p99_row, rate_row, ratio_row, take_turns
from loadtests.live_sides import TARGET, Clients, Side, Told, access_side, listening, node_side
from loadtests.measure import Figures, Load, Meter
from loadtests.peers import UnavailableError
from loadtests.posts import post_bytes
from loadtests.programs import BrokenRunError, Launch, Program, ask, running
from loadtests.result import NO_PEER, Aim, Row
from loadtests.shop import page_target
from loadtests.sides import scratch
from loadtests.targets import HELD_TARGET

LIMIT_BYTES: Final = 8192
LIMIT_MS: Final = 500.0
WITHIN_LIMIT: Final = Aim("at most", 1.0)
BESIDE_AIM: Final = Aim("at least", 0.8)
WARM_REQUESTS: Final = 50
TELL_EVERY_S: Final = 1.0
ROUNDS_A_SIDE: Final = 5  # tellings of one opening
MANY_FILES: Final = 500  # of a process, besides its clients'
MANY_TELLINGS: Final = 3
STACK_S: Final = 180.0
STACK_STOP_S: Final = 20.0
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Bench:
    """What every work needs to know. streams: of one server; many: of all servers of the last."""

    meter: Meter
    rounds: int
    connections: int
    streams: int
    many: int
    files: int
    settle_s: float

    @property
    def settings(self) -> dict[str, str]:
        limit = str(self.files - MANY_FILES)
        return {
            "TERCET_CONNECTION_LIMIT": limit,
            "TERCET_CONNECTION_LIMIT_BY_ADDRESS": limit,
            "TERCET_LIVE_LIMIT": limit,
            "TERCET_LIVE_LIMIT_BY_ADDRESS": limit,
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """One server with its streams: memory of each, how quickly they opened, what telling took."""

    bytes_each: float
    opened_a_second: float
    told: Told


async def streams(bench: Bench) -> list[Row]:
    """access and Node by turns, each started anew in each round."""
    ours: list[Kept] = []
    theirs: list[Kept] = []
    absent = ""
    cores = bench.meter.cores
    for _ in range(bench.rounds):
        with scratch() as folder:
            async with access_side(cores, folder, bench.settings) as side:
                await require_held(side.program, HELD_TARGET)
                ours.append(await _kept(bench, side))
            try:
                async with node_side(cores, folder) as side:
                    theirs.append(await _kept(bench, side))
            except UnavailableError as error:
                absent = str(error)
                print(f"skipped: {peers.NODE_EVENTS.name}: {error}", flush=True)
    return _rows_of_streams(bench, ours, theirs, absent)


async def _kept(bench: Bench, side: Side) -> Kept:
    for _ in range(WARM_REQUESTS):
        await ask(side.program, "/")
    await asyncio.sleep(bench.settle_s)
    before_bytes = side.program.memory_bytes()
    url = side.program.url(TARGET)
    async with listening(url, bench.streams, bench.meter.cores.generator) as clients:
        await asyncio.sleep(bench.settle_s)
        grown_bytes = side.program.memory_bytes() - before_bytes
        told = [await clients.round(side.tell) for _ in range(ROUNDS_A_SIDE)]
        return Kept(max(grown_bytes, 1) / bench.streams, clients.opened_a_second, _median(told))


def _median(told: Sequence[Told]) -> Told:
    return Told(
        *(
            statistics.median(getattr(one, name) for one in told)
            for name in ("half_ms", "most_ms", "all_ms")
        )
    )


def _rows_of_streams(
    bench: Bench, ours: Sequence[Kept], theirs: Sequence[Kept], absent: str
) -> list[Row]:
    name, count = peers.NODE_EVENTS.name, bench.streams
    memory = f"memory of a live stream, of {count}"
    limit = [float(LIMIT_BYTES)] * len(ours)
    bytes_each = [one.bytes_each for one in ours]
    rows = [ratio_row(memory, "bytes", bytes_each, "limit", limit, aim=WITHIN_LIMIT)]
    figures: list[tuple[str, str, Callable[[Kept], float]]] = [
        (memory, "bytes", lambda kept: kept.bytes_each),
        (f"one state to {count} streams, p50", "ms", lambda kept: kept.told.half_ms),
        (f"one state to {count} streams, p99", "ms", lambda kept: kept.told.most_ms),
        (f"one state to {count} streams, all", "ms", lambda kept: kept.told.all_ms),
        (f"{count} streams being opened", "a second", lambda kept: kept.opened_a_second),
    ]
    for work, unit, figure in figures:
        our = [figure(one) for one in ours]
        if theirs:
            their = [figure(one) for one in theirs]
            rows.append(ratio_row(work, unit, our, name, their, aim=None))
        else:
            value = round(statistics.median(our), 3)
            rows.append(Row(work, value, unit, name, note=absent or NO_PEER))
    return rows


async def pages(bench: Bench) -> list[Row]:
    """The held page with streams open, silent and told a state each second, and without them."""
    load = Load(HELD_TARGET, bench.connections)
    cores, meter = bench.meter.cores, bench.meter
    figures: dict[str, list[Figures]] = {"silent": [], "told": [], "without": []}
    with scratch() as folder:
        async with access_side(cores, folder, bench.settings) as side:
            await require_held(side.program, HELD_TARGET)
            url = side.program.url(TARGET)

            async def alone() -> Figures:
                return await meter.measure(side.program, load)

            async def silent() -> Figures:
                async with listening(url, bench.streams, cores.generator):
                    return await meter.measure(side.program, load)

            async def told() -> Figures:
                async with (
                    listening(url, bench.streams, cores.generator) as clients,
                    _telling(clients, side),
                ):
                    return await meter.measure(side.program, load)

            sides: dict[str, Measure] = {"silent": silent, "told": told, "without": alone}
            for name, found in (await take_turns(sides, bench.rounds)).items():
                figures[name] += found
    rows: list[Row] = []
    for name, means in (("silent", "silent"), ("told", "each told a state a second")):
        work = f"held page, c={bench.connections}, {bench.streams} streams beside, {means}"
        aim = BESIDE_AIM if name == "silent" else None
        rows.append(rate_row(work, figures[name], "access without", figures["without"], aim=aim))
        rows.append(p99_row(work, figures[name], "access without", figures["without"], aim=None))
    return rows


@asynccontextmanager
async def _telling(clients: Clients, side: Side) -> AsyncIterator[None]:
    """A state each second, to the end of the block; the last is waited for."""
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            began_at = time.monotonic()
            await clients.round(side.tell)
            await asyncio.sleep(max(0.0, TELL_EVERY_S - (time.monotonic() - began_at)))

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        over.set()
        await task


async def change(bench: Bench) -> list[Row]:
    """From an order that is sent to its stock at every client, through the whole stack."""
    cores = bench.meter.cores
    told: list[Told] = []
    with scratch() as folder:
        async with _whole_stack(bench, folder) as shop:
            slug, variant_id = await _a_product(shop)
            url = shop.url(f"/live?products={slug}")
            async with listening(url, bench.streams, cores.generator) as clients:
                for number in range(bench.rounds * ROUNDS_A_SIDE):
                    told.append(
                        await clients.round(lambda n=number: _order(shop, variant_id, n))  # type: ignore[misc]
                    )
                    await asyncio.sleep(bench.settle_s)
    work = f"from an order being sent to its stock at {bench.streams} streams"
    limit = [LIMIT_MS] * len(told)
    return [
        ratio_row(f"{work}, p50", "ms", [one.half_ms for one in told], "limit", limit, aim=None),
        ratio_row(
            f"{work}, p99", "ms", [one.most_ms for one in told], "limit", limit, aim=WITHIN_LIMIT
        ),
        ratio_row(f"{work}, all", "ms", [one.all_ms for one in told], "limit", limit, aim=None),
    ]


@asynccontextmanager
async def _whole_stack(bench: Bench, folder: Path) -> AsyncIterator[Program]:
    port = free_port()
    command = [sys.executable, "-m", "infra.cli", "up", "--port", str(port)]
    command += ["--data-dir", str(folder / "data"), "--products", "10"]
    environment = {
        "TERCET_LOG_LEVEL": "WARNING",
        "TERCET_CUSTOMER_RATES": "",
        **bench.settings,
    }
    launch = Launch(
        command, port, environment, ready_path="/ready", ready_within_s=STACK_S,
        stop_within_s=STACK_STOP_S,
    )  # fmt: skip
    async with running(launch, bench.meter.cores.server, folder / "up.log") as shop:
        yield shop


async def _a_product(shop: Program) -> tuple[str, str]:
    """One with enough in stock, and its variant."""
    async with asyncio.timeout(STACK_S):
        while True:
            status, _, body = await ask(shop, "/products")
            items = json.loads(body)["items"] if status == 200 else []
            for item in items:
                status, _, body = await ask(shop, f"{page_target(item['slug'])}/stock")
                for variant in json.loads(body).get("variants", []) if status == 200 else []:
                    if variant["available"] >= 50:
                        return item["slug"], variant["variant_id"]
            await asyncio.sleep(POLL_S)


async def _order(shop: Program, variant_id: str, number: int) -> None:
    body = json.dumps({"lines": [{"variant_id": variant_id, "quantity": 1}]}).encode()
    reader, writer = await asyncio.open_connection(LOOPBACK, shop.port)
    lines = [f"Idempotency-Key: bench-live-{number}-{time.monotonic_ns()}"]
    host = f"{LOOPBACK}:{shop.port}"
    writer.write(post_bytes(host, "/orders", body, lines, close=True))
    answer = await reader.readuntil(b"\r\n")
    writer.close()
    if b" 201 " not in answer:
        raise BrokenRunError(f"an order was not placed: {answer!r}")


async def many(bench: Bench) -> list[Row]:
    """As many streams as were asked for, over as many processes as the limit of files takes.

    Each process of access has its clients, from addresses of their own, in another process.
    """
    each = bench.files - 2 * MANY_FILES
    processes = -(-bench.many // each)
    cores, note = bench.meter.cores, f"{NO_PEER}; {processes} processes of access on one core"
    bytes_each: list[float] = []
    told: list[Told] = []
    reached = 0
    with scratch() as folder:
        async with AsyncExitStack() as stack:
            crowds: list[tuple[Side, Clients]] = []
            try:
                for number in range(processes):
                    own = folder / str(number)
                    own.mkdir()
                    side = await stack.enter_async_context(access_side(cores, own, bench.settings))
                    await require_held(side.program, HELD_TARGET)
                    count = min(each, bench.many - reached)
                    before_bytes = side.program.memory_bytes()
                    clients = await stack.enter_async_context(
                        listening(side.program.url(TARGET), count, cores.generator, first=number)
                    )
                    crowds.append((side, clients))
                    reached += count
                    grown_bytes = side.program.memory_bytes() - before_bytes
                    bytes_each.append(grown_bytes / count)
            except (BrokenRunError, TimeoutError, OSError) as error:
                note += f"; stopped at {reached}: {error}"
            for _ in range(MANY_TELLINGS):
                all_told = await asyncio.gather(
                    *(clients.round(side.tell) for side, clients in crowds)
                )
                told.append(max(all_told, key=lambda one: one.most_ms))
    return [
        Row(f"streams open at once, of {bench.many} tried", reached, "streams", note=note),
        Row(f"memory of each of {reached}", statistics.median(bytes_each), "bytes", note=note),
        Row(f"one state to {reached} streams, p99", _median(told).most_ms, "ms", note=note),
    ]


WORKS: Final[dict[str, Callable[[Bench], Awaitable[list[Row]]]]] = {
    "streams": streams,
    "pages": pages,
    "change": change,
    "many": many,
}
