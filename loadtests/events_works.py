"""What `make bench-events` measures: taking events on one core, counting them, and losing none."""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from infra.local.addresses import LOOPBACK, free_port
from infra.local.servers import INFRA, valkey_server
from loadtests.comparison import ratio_row
from loadtests.data_stack import DataStack
from loadtests.event_posts import batch, event, request_of
from loadtests.payments_goods import prove
from loadtests.pinning import Cores
from loadtests.programs import BrokenRunError, Launch, Program, output_of, running
from loadtests.result import NO_PEER, Aim, Row
from loadtests.usage import Usage, UsageMeter

EVENTS_A_CORE: Final = 50_000  # what is aimed for, of access and its log on one core
PEER: Final = "Starlette, pydantic, redis-py, an XADD a request"
PARTS: Final = ("access", "worker-rollups", "events")
PROBE_EVERY_S: Final = 0.1
COUNTED_WITHIN_S: Final = 120.0
ANSWER_S: Final = 10.0
SENDERS: Final = 8
RETRY_S: Final = 0.05
SEEN: Final = "select count(*) from seen_events where event_id = any($1::uuid[])"
VISIBLE: Final = "select exists (select from search_hours where query = $1)"
TAKEN: Final = "select coalesce(sum(taken), 0)::bigint from event_totals"


@dataclass(frozen=True)
class Bench:
    """What every work needs to know. whole: the stack on the server's core, and its access."""

    cores: Cores
    rounds: int
    seconds: float
    soak_s: float
    connections: int
    batch: int
    folder: Path
    whole: Callable[[], Any]


class Taken(NamedTuple):
    """events_per_s by the generator's count; cpu_us of server and log together, for an event."""

    events_per_s: float
    p99_ms: float
    cpu_us: float


@asynccontextmanager
async def _side(bench: Bench, name: str, command: list[str], environment: dict[str, str]) -> Any:
    """A server and a log of its own with the options of the stack's, both on the server's core."""
    async with AsyncExitStack() as stack:
        log_port, port = free_port(), free_port()
        data = bench.folder / f"{name}-log"
        data.mkdir()
        options = ["--bind", LOOPBACK, "--port", str(log_port), "--dir", str(data)]
        # Nobody counts meanwhile, and the stream is not bounded: it has to hold what comes.
        options += ["--maxmemory", "0"]
        launch = Launch(
            [str(valkey_server()), str(INFRA / "valkey" / "events.conf"), *options],
            log_port,
            ready_path="",
        )
        log = await stack.enter_async_context(
            running(launch, bench.cores.server, bench.folder / f"{name}-log.out")
        )
        url = f"redis://{LOOPBACK}:{log_port}/0"
        filled = [part.format(port=port, log=url) for part in command]
        given = {key: value.format(port=port, log=url) for key, value in environment.items()}
        launch = Launch(filled, port, given, ready_path="/live")
        server = await stack.enter_async_context(
            running(launch, bench.cores.server, bench.folder / f"{name}.out")
        )
        yield server, log


def _ours(bench: Bench) -> Any:
    environment = {
        "TERCET_ACCESS_HOST": LOOPBACK,
        "TERCET_ACCESS_PORT": "{port}",
        "TERCET_BUSINESS_URL": f"http://{LOOPBACK}:1",
        "TERCET_VALKEY_URL": f"redis://{LOOPBACK}:1/0",
        "TERCET_EVENTS_URL": "{log}",
        "TERCET_INTERNAL_SECRET": secrets.token_urlsafe(32),
        "TERCET_COOKIE_SECRET": secrets.token_urlsafe(32),
        "TERCET_LOG_LEVEL": "ERROR",
    }
    return _side(bench, "access", [sys.executable, "-m", "infra.process", "access"], environment)


def _usual(bench: Bench) -> Any:
    command = [sys.executable, "-m", "loadtests.peers.usual.beacons"]
    return _side(bench, "usual", [*command, "--port", "{port}", "--log", "{log}"], {})


async def take(bench: Bench) -> list[Row]:
    """Batches taken and acknowledged, by turns: server and log share one core."""
    figures: dict[str, list[Taken]] = {"ours": [], "usual": []}
    async with _ours(bench) as ours, _usual(bench) as usual:
        sides = {"ours": ours, "usual": usual}
        for server, _ in sides.values():  # not measured
            await _posted(bench, server, min(1.0, bench.seconds))
        for number in range(bench.rounds):
            names = list(sides)
            for name in reversed(names) if number % 2 else names:
                figures[name].append(await _measured(bench, *sides[name]))
    our, their = figures["ours"], figures["usual"]
    work = f"events taken in batches of {bench.batch}, log on the same core"
    rates = [one.events_per_s for one in our]
    return [
        ratio_row(work, "events/s", rates, PEER, [one.events_per_s for one in their], aim=None),
        ratio_row(
            f"{work}, against the aim",
            "events/s",
            rates,
            f"{EVENTS_A_CORE} events/s, a figure and no server",
            [float(EVENTS_A_CORE)] * len(rates),
            aim=Aim("at least", 1.0),
        ),
        ratio_row(
            f"{work}, p99 of a batch",
            "ms",
            [one.p99_ms for one in our],
            PEER,
            [one.p99_ms for one in their],
            aim=None,
        ),
        ratio_row(
            f"{work}, CPU of server and log",
            "us each",
            [one.cpu_us for one in our],
            PEER,
            [one.cpu_us for one in their],
            aim=None,
        ),
    ]


async def _measured(bench: Bench, server: Program, log: Program) -> Taken:
    cpu_s = server.cpu_s() + log.cpu_s()
    outcome = await _posted(bench, server, bench.seconds)
    events = outcome["answers"] * bench.batch
    if not events or outcome["errors"]:
        raise BrokenRunError(f"events were not taken: {outcome['errors']}")
    cpu_us = (server.cpu_s() + log.cpu_s() - cpu_s) / events * 1e6
    return Taken(events / outcome["seconds"], outcome["p99_ms"], cpu_us)


async def _posted(bench: Bench, server: Program, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "loadtests.event_posts", "--url", server.url("/events")]
    command += ["--connections", str(bench.connections), "--seconds", str(seconds)]
    command += ["--batch", str(bench.batch)]
    outcome: dict[str, Any] = json.loads(await output_of(command, bench.cores.generator))
    return outcome


async def count(bench: Bench) -> list[Row]:
    """From an event to its window, memory over a soak, how much one worker counts, and kills."""
    async with bench.whole() as (stack, access), stack.owner() as owner:
        soaked = await _soak(bench, stack, access, owner)
        drained = await _drain(bench, access, owner)
        lost = await _kills(bench, stack, access, owner)
        await prove(stack)
    return [*soaked, *drained, *lost]


Owner: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def _soak(bench: Bench, stack: DataStack, access: Program, owner: Owner) -> list[Row]:
    """A steady load, with probes: a query that nobody has searched for, until it is counted."""
    slugs = [row[0] for row in await owner.fetch("select slug from products limit 100")]
    ended = asyncio.Event()
    load = asyncio.create_task(_steady(bench, access, slugs, ended))
    await asyncio.sleep(bench.soak_s / 4)  # partitions are made, pools and sketches filled
    before, seen_ms = _memory(stack), list[float]()
    until = time.monotonic() + bench.soak_s
    async with _connected(access) as ask:
        while time.monotonic() < until:
            seen_ms.append(await _probe(ask, owner))
            await asyncio.sleep(PROBE_EVERY_S * random.random())
    after = _memory(stack)
    ended.set()
    await load
    seen_ms.sort()
    p99 = seen_ms[min(len(seen_ms) - 1, int(len(seen_ms) * 0.99))]
    rows = [
        ratio_row(
            f"from sending an event to its window in PostgreSQL, p99 of {len(seen_ms)}",
            "ms",
            [p99],
            "2 s, a figure and no server",
            [2000.0],
            aim=Aim("at most", 1.0),
        ),
        Row("the same, median", round(statistics.median(seen_ms), 1), "ms", note=NO_PEER),
    ]
    for name in PARTS:
        note = f"{before[name] / 2**20:.1f} MB after a quarter of {bench.soak_s:.0f} s of load"
        value = round(after[name] / 2**20, 1)
        rows.append(Row(f"memory of {name} at the end of the soak", value, "MB", note=note))
    return rows


def _memory(stack: DataStack) -> dict[str, int]:
    parts = [each for each in stack.folder.running_state()["parts"] if each["name"] in PARTS]
    usage: list[Usage] = UsageMeter(parts).read()
    return {each.name: each.memory_bytes for each in usage}


async def _steady(bench: Bench, access: Program, slugs: list[str], ended: asyncio.Event) -> None:
    """Twenty batches a second, each made anew: no event comes twice."""
    async with _connected(access) as ask:
        while not ended.is_set():
            request = request_of(_host(access), batch(bench.batch, slugs), random.randrange(100))
            await ask(request)
            await asyncio.sleep(0.05)


async def _probe(ask: Callable[[bytes], Awaitable[int]], owner: Owner) -> float:
    """Milliseconds from sending a search to its query being in the table."""
    query = f"probe {uuid4().hex}"
    made = event("search", []) | {"query": query, "results": 1}
    began_at = time.monotonic()
    if await ask(request_of("probe", [made])) != 202:
        raise BrokenRunError("a probe was not taken")
    while not await owner.fetchval(VISIBLE, query):
        if time.monotonic() - began_at > ANSWER_S:
            raise BrokenRunError(f"an event was not counted within {ANSWER_S:.0f} s")
        await asyncio.sleep(0.01)
    return (time.monotonic() - began_at) * 1000


async def _drain(bench: Bench, access: Program, owner: Owner) -> list[Row]:
    """How fast one worker counts what has gathered, all of the stack on one core."""
    slugs = [row[0] for row in await owner.fetch("select slug from products limit 100")]
    before = int(await owner.fetchval(TAKEN))
    sent = 0
    began_at = time.monotonic()

    async def send() -> None:
        nonlocal sent
        async with _connected(access) as ask:
            while time.monotonic() - began_at < bench.seconds:
                events = batch(bench.batch, slugs)
                request = request_of(_host(access), events, random.randrange(100))
                sent += bench.batch * (await ask(request) == 202)

    await asyncio.gather(*(send() for _ in range(SENDERS)))
    await _until_counted(owner, TAKEN, lambda taken: taken >= before + sent)
    rate = sent / (time.monotonic() - began_at)
    note = f"{NO_PEER}; every event with an id of its own, the whole stack on one core"
    return [Row("events sent and counted by one worker", round(rate), "events/s", note=note)]


async def _kills(bench: Bench, stack: DataStack, access: Program, owner: Owner) -> list[Row]:
    """SIGKILL of the log and of the worker, twice each, while eight clients send."""
    acknowledged: list[UUID] = []
    ended = asyncio.Event()
    senders = [
        asyncio.create_task(_insist(access, bench.batch, acknowledged, ended))
        for _ in range(SENDERS)
    ]
    for name in ("events", "worker-rollups", "events", "worker-rollups"):
        await asyncio.sleep(bench.seconds / 2)
        _kill(stack, name)
    await asyncio.sleep(bench.seconds)
    ended.set()
    await asyncio.gather(*senders)
    try:
        await _until_counted(owner, SEEN, lambda seen: seen == len(acknowledged), acknowledged)
    except BrokenRunError:
        seen = int(await owner.fetchval(SEEN, acknowledged))
        lost = len(acknowledged) - seen
    else:
        lost = 0
    note = "the log and the worker each killed twice (SIGKILL) while they were sent"
    return [
        Row("events acknowledged in that time", len(acknowledged), "events", note=note),
        Row("of those lost", lost, "events", note="counted by their ids in PostgreSQL"),
    ]


async def _insist(
    access: Program, size: int, acknowledged: list[UUID], ended: asyncio.Event
) -> None:
    """Send batches, each once; what is not acknowledged is nobody's loss."""
    while not ended.is_set():
        with suppress(OSError, EOFError, TimeoutError):
            async with _connected(access) as ask:
                while not ended.is_set():
                    ids = [uuid4() for _ in range(size)]
                    events = [event("view", ["a-lamp"], number) for number in ids]
                    if await ask(request_of(_host(access), events)) == 202:
                        acknowledged += ids
                    else:
                        await asyncio.sleep(RETRY_S)


def _kill(stack: DataStack, name: str) -> None:
    pids = {part["name"]: part["pid"] for part in stack.folder.running_state()["parts"]}
    if pids[name] is not None:
        os.kill(pids[name], signal.SIGKILL)


async def _until_counted(
    owner: Owner, sql: str, done: Callable[[int], bool], *arguments: object
) -> None:
    give_up_at = time.monotonic() + COUNTED_WITHIN_S
    while not done(int(await owner.fetchval(sql, *arguments))):
        if time.monotonic() > give_up_at:
            raise BrokenRunError(f"not counted within {COUNTED_WITHIN_S:.0f} s")
        await asyncio.sleep(0.05)


def _host(access: Program) -> str:
    return f"{LOOPBACK}:{access.port}"


@asynccontextmanager
async def _connected(access: Program) -> AsyncIterator[Callable[[bytes], Awaitable[int]]]:
    """A connection that sends a request and returns the status of its answer."""
    reader, writer = await asyncio.open_connection(LOOPBACK, access.port)

    async def ask(request: bytes) -> int:
        async with asyncio.timeout(ANSWER_S):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            await reader.readexactly(length)
        return int(head.split(b" ")[1])

    try:
        yield ask
    finally:
        writer.close()


WORKS: Final = {"take": take, "count": count}
