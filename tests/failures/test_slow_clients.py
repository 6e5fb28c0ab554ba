"""E46 and E47: clients that send or read slowly, or not at all, cost nobody else anything.

The short forms have limits of half a second; the long ones those of production.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from services.access.limits import Limits
from tests.access.answers import replies
from tests.access.conftest import request
from tests.access.one_loop import HELD, PAGE, OneLoop, Wire, echo, one_loop, page
from tests.access.upstream import Seen, Upstream, answer
from tests.failures.access_process import access, children
from tests.failures.swarm import Swarm
from tests.faults.figures import record
from tests.faults.waiting import until

LIMIT_S: Final = 0.5
BODY_LIMIT_S: Final = 0.9
SHORT: Final = Limits(
    head_s=LIMIT_S, body_s=BODY_LIMIT_S, write_s=LIMIT_S, linger_s=LIMIT_S, keep_alive_s=LIMIT_S
)
# The wheel looks ten times a second, and the test shares the machine.
LATER_S: Final = 1.0
ALLOWED_S: Final = BODY_LIMIT_S + LATER_S
DRIP_S: Final = 0.05
MB: Final = 1_048_576
LARGE: Final = b"/large"
LARGE_HELD: Final = b"/products/large"
LARGE_BYTES: Final = 300_000
HEAD: Final = b"GET /here HTTP/1.1\r\nHost: a\r\nX: "
BODY: Final = b"POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n"
CHUNKS: Final = b"POST /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
# What a client begins with, what it goes on dripping, and whether it is told that it is late.
WAYS: Final = {
    "nothing": (b"", b"", False),
    "empty lines": (b"", b"\r\n", False),
    "a stalled request line": (b"GET /he", b"", True),
    "a stalled head": (HEAD, b"", True),
    "a dripping head": (HEAD, b"y", True),
    "dripping fields": (HEAD + b"\r\n", b"Y: z\r\n", True),
    "a stalled body": (BODY + b"ab", b"", True),
    "a dripping body": (BODY, b"a", True),
    "a stalled chunk": (CHUNKS + b"4\r\nab", b"", True),
    "dripping chunks": (CHUNKS, b"1\r\na\r\n", True),
    "a dripping chunk extension": (CHUNKS + b"1;", b"a", True),
    "dripping trailers": (CHUNKS + b"0\r\n", b"Y: z\r\n", True),
    "a head behind an answer": (request("/live") + HEAD, b"y", True),
    "silence after an answer": (request("/live"), b"", False),
    "empty lines after an answer": (request("/live"), b"\r\n", False),
}


async def business(seen: Seen) -> bytes:
    if seen.target == LARGE:
        return answer(bytes(LARGE_BYTES))
    if seen.target == LARGE_HELD:
        return page(bytes(LARGE_BYTES))
    return await echo(seen)


@pytest.fixture(scope="module")
def lab() -> Iterator[OneLoop]:
    with one_loop(limits=SHORT) as lab:
        lab.upstream.script = business
        yield lab


async def drip(wire: Wire, data: bytes) -> None:
    while not wire.ended and not wire.transport.is_closing():
        wire.transport.write(data)
        await asyncio.sleep(DRIP_S)


async def ended_after_s(lab: OneLoop, start: bytes, dripped: bytes) -> tuple[float, bytes]:
    """Seconds until the server ended the connection, and what it said."""
    wire = await lab.connect()
    began_at = time.monotonic()
    wire.transport.write(start)
    task = asyncio.create_task(drip(wire, dripped)) if dripped else None
    over = await wire.until(lambda: wire.ended, within_s=ALLOWED_S + 0.5)
    took_s = time.monotonic() - began_at
    if task is not None:
        task.cancel()
    wire.transport.abort()
    assert over, f"never ended: {bytes(wire.received)!r}"
    return took_s, bytes(wire.received)


def test_whoever_is_slow_to_ask_is_told_so_and_cut(lab: OneLoop) -> None:
    """All ways at once: fifteen, three connections each."""

    async def all_of_them() -> dict[str, list[tuple[float, bytes]]]:
        names = [name for name in WAYS for _ in range(3)]
        ended = await asyncio.gather(*(ended_after_s(lab, *WAYS[name][:2]) for name in names))
        found: dict[str, list[tuple[float, bytes]]] = {}
        for name, one in zip(names, ended, strict=True):
            found.setdefault(name, []).append(one)
        return found

    lab.passed_on()
    for name, ended in lab.do(all_of_them()).items():
        limit_s = BODY_LIMIT_S if WAYS[name][0].startswith((BODY, CHUNKS)) else LIMIT_S
        for took_s, said in ended:
            assert limit_s * 0.9 < took_s < limit_s + LATER_S, f"{name}: {took_s}"
            found, left = replies(said)
            assert left == b""
            late = [reply.status for reply in found if reply.status != 200]
            assert late == ([408] if WAYS[name][2] else []), name
    assert lab.passed_on() == []


def test_a_third_request_that_stays_half_is_cut_too(lab: OneLoop) -> None:
    async def both() -> tuple[tuple[float, bytes], tuple[float, bytes]]:
        asked = request("/here") * 2
        return await asyncio.gather(
            ended_after_s(lab, asked + HEAD, b""), ended_after_s(lab, asked + BODY + b"a", b"")
        )

    for took_s, said in lab.do(both()):
        assert took_s < ALLOWED_S
        assert [reply.status for reply in replies(said)[0]] == [200, 200, 408]


def test_others_are_served_while_many_are_slow(lab: OneLoop) -> None:
    async def beside() -> int:
        slow = [
            asyncio.create_task(ended_after_s(lab, *WAYS[name][:2]))
            for name in WAYS
            for _ in range(10)
        ]
        served = 0
        while not all(task.done() for task in slow):
            assert await lab.talked([request("/here", "connection: close")])
            served += 1
        await asyncio.gather(*slow)
        return served

    assert lab.do(beside()) > 100


# Those who do not read


def open_at(port: int, process: psutil.Process) -> int:
    """Connections that the server has: a client that is cut need not notice. Takes a while."""
    found = process.net_connections("tcp")
    return sum(c.laddr.port == port and c.status != psutil.CONN_LISTEN for c in found)


async def unread(lab: OneLoop, data: bytes) -> tuple[float, int]:
    """Send and read nothing: seconds until the server has no connection, growth of memory."""
    process = psutil.Process()
    wire = await lab.connect()
    wire.transport.pause_reading()
    before_bytes = process.memory_info().rss
    grown_bytes = 0
    began_at = time.monotonic()
    while open_at(lab.port, process) and time.monotonic() - began_at < 5:
        if wire.transport.get_write_buffer_size() == 0:
            wire.transport.write(data)
        grown_bytes = max(grown_bytes, process.memory_info().rss - before_bytes)
        await asyncio.sleep(0.05)
    took_s = time.monotonic() - began_at
    wire.transport.abort()
    return took_s, grown_bytes


@pytest.mark.parametrize("target", [LARGE, LARGE_HELD], ids=bytes.decode)
def test_a_flood_whose_answers_nobody_reads_is_cut_and_stays_small(
    lab: OneLoop, target: bytes
) -> None:
    if target != LARGE:
        lab.hold_a_page(target)
    asked = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    lab.passed_on()
    took_s, grown_bytes = lab.do(unread(lab, asked * 1000))
    # Time begins when nothing more fits into what the kernel holds for both sides.
    assert LIMIT_S * 0.9 < took_s < ALLOWED_S + 1
    assert grown_bytes < 16 * MB  # of both sides, which are one process here
    assert len(lab.passed_on()) < 100  # not one by one into memory


def test_a_flood_that_is_read_is_answered_to_its_end(lab: OneLoop) -> None:
    """A client may be as fast as it can be: bounds are no refusal."""
    lab.hold_a_page()
    asked = b"GET " + HELD + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    received = lab.talk([asked * 20_000 + last])
    assert received.count(PAGE) == 20_000
    assert received.endswith(b"/last")


def test_a_slow_reader_of_a_large_answer_is_cut(lab: OneLoop) -> None:
    """A byte now and then is no progress: what the kernel holds takes hours at that speed."""

    async def conversation() -> float:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", lab.port))
            await loop.sock_sendall(client, request(LARGE.decode()) * 40)
            began_at = time.monotonic()
            while open_at(lab.port, psutil.Process()) and time.monotonic() - began_at < 5:
                await loop.sock_recv(client, 1024)
                await asyncio.sleep(DRIP_S)
            return time.monotonic() - began_at

    assert LIMIT_S * 0.9 < lab.do(conversation()) < ALLOWED_S + 1


# The long forms, on access as it is run


@pytest.mark.faults
async def test_two_thousand_slow_clients_are_cut_and_others_hardly_notice(tmp_path: Path) -> None:
    """E46: idle, stalled and dripping a byte a second, from a process of their own."""
    connections = 2_000
    settings = {"TERCET_CONNECTION_LIMIT": "4000", "TERCET_CONNECTION_LIMIT_BY_ADDRESS": "4000"}
    async with (
        Upstream(business) as upstream,
        access(upstream, tmp_path, **settings) as (_, port),
        Swarm(port, request("/here"), 4) as swarm,
    ):
        await until(lambda: swarm.answered > 1000, within_s=20, what="it is warm")
        alone_ms = await p99_ms(swarm)
        attack = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.failures.slow_attack", str(port), str(connections)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert attack.stdout is not None
        assert await attack.stdout.readline() == b"begun\n"
        beside_ms = await p99_ms(swarm)
        longest_s, open_after = map(float, (await attack.stdout.read()).split())
        assert await attack.wait() == 0
        alone_ms = max(alone_ms, await p99_ms(swarm))
    passed = longest_s <= 11 and open_after == 0 and beside_ms <= 2 * alone_ms and not swarm.lost
    record(46, "slow heads", passed, connections=connections, longest_s=longest_s,
           open_after=int(open_after), p99_alone_ms=alone_ms, p99_beside_ms=beside_ms,
           lost=len(swarm.lost))  # fmt: skip
    assert passed


async def p99_ms(swarm: Swarm) -> float:
    """Of 5 s."""
    swarm.latencies_s.clear()
    await asyncio.sleep(5)
    return round(statistics.quantiles(swarm.latencies_s, n=100)[98] * 1000, 3)


@pytest.mark.faults
async def test_slow_bodies_and_slow_readers_are_cut_in_twenty_seconds(tmp_path: Path) -> None:
    """E47: 50 of each kind. A reader's time runs from when nothing more fits into its way."""
    each = 50
    settings = {"TERCET_CONNECTION_LIMIT": "4000", "TERCET_CONNECTION_LIMIT_BY_ADDRESS": "4000"}
    async with (
        Upstream(business) as upstream,
        access(upstream, tmp_path, **settings) as (
            process,
            port,
        ),
    ):
        serving = psutil.Process(next(iter(children(process.pid))))
        before_bytes = serving.memory_info().rss
        bodies = [asyncio.create_task(_dripped_body(port)) for _ in range(each)]
        writers = [await _unread(port, upstream) for _ in range(each)]
        began_at = full_at = time.monotonic()
        grown_bytes = asked = 0
        while open_at(port, serving) and time.monotonic() - began_at < 60:
            if len(upstream.requests) > asked:
                full_at, asked = time.monotonic(), len(upstream.requests)
            grown_bytes = max(grown_bytes, serving.memory_info().rss - before_bytes)
            await asyncio.sleep(0.1)
        readers_s = round(time.monotonic() - full_at, 2)
        bodies_s = max(await asyncio.gather(*bodies))
        for writer in writers:
            writer.transport.abort()
    each_mb = grown_bytes / (2 * each) / MB
    passed = bodies_s <= 21 and readers_s <= 22 and each_mb <= 1
    record(47, "slow bodies and readers", passed, connections=2 * each, longest_body_s=bodies_s,
           longest_reader_s=readers_s, grown_mb_each=round(each_mb, 3))  # fmt: skip
    assert passed


async def _dripped_body(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began_at = time.monotonic()
    writer.write(BODY)
    answered = asyncio.create_task(reader.read())
    while not answered.done():
        writer.write(b"a")
        await asyncio.wait([answered], timeout=1)
    assert b" 408 " in await answered
    writer.transport.abort()
    return round(time.monotonic() - began_at, 2)


async def _unread(port: int, upstream: Upstream) -> asyncio.StreamWriter:
    """Ask for 12 MB and read none of it, one client after the other: at once they were refused."""
    asked = len(upstream.requests)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request(LARGE.decode()) * 40)
    await until(lambda: len(upstream.requests) > asked + 5, within_s=5, what="it is answered")
    return writer
