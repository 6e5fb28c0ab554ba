"""The access log: whole lines, no line twice, and no request that waits for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from services.access.access_log import PATH_BYTES, WAITING_LINES, AccessLog, network_of
from tests.faults.waiting import until


class Sink:
    """What the log writes to; it takes nothing while the gate is closed."""

    def __init__(self) -> None:
        self.data = b""
        self.gate = threading.Event()
        self.gate.set()

    def write(self, data: bytes) -> None:
        self.gate.wait(20)
        self.data += data

    def lines(self) -> list[dict[str, object]]:
        assert self.data.endswith(b"\n") or not self.data
        return [orjson.loads(line) for line in self.data.split(b"\n")[:-1]]


@asynccontextmanager
async def logging_to(sink: Sink, share: float = 1.0) -> AsyncIterator[AccessLog]:
    log = AccessLog(share, sink.write)
    try:
        yield log
    finally:
        sink.gate.set()
        await log.aclose()


def write(log: AccessLog, target: bytes, **changes: str) -> None:
    values = {"client": "203.0.113.77", "request_id": "r1", "cache": "tercet; hit", **changes}
    log.write(
        "GET", target, 200, 1234, 0.0015, "page", values["cache"], values["request_id"],
        values["client"],
    )  # fmt: skip


async def test_a_line_tells_the_request_but_neither_its_query_nor_the_whole_address() -> None:
    sink = Sink()
    async with logging_to(sink) as log:
        write(log, b"/products/a?token=s3cret")
        await until(lambda: bool(sink.data), within_s=5, what="written without being asked")
    (line,) = sink.lines()
    assert str(line.pop("timestamp")).endswith("+00:00")
    assert line == {
        "event": "request",
        "method": "GET",
        "path": "/products/a",
        "status": 200,
        "size_bytes": 1234,
        "duration_ms": 1.5,
        "route": "page",
        "cache": "tercet; hit",
        "request_id": "r1",
        "client": "203.0.113.0",
    }
    assert log.written_total == 1


@pytest.mark.parametrize("field", ["target", "cache", "request_id", "client"])
async def test_no_field_can_make_a_second_line(field: str) -> None:
    evil = 'a\r\n{"event":"request","status":200}\n\x00\x85\u2028'
    sink = Sink()
    async with logging_to(sink) as log:
        write(log, evil.encode(), **({} if field == "target" else {field: evil}))
    assert len(sink.lines()) == sink.data.count(b"\n") == 1
    assert sink.data.count(b"\r") == 0


async def test_a_reader_that_takes_nothing_costs_lines_and_not_time() -> None:
    sink = Sink()
    async with logging_to(sink) as log:
        sink.gate.clear()
        write(log, b"/products/a?token=s3cret")
        await until(lambda: not log._lines, within_s=5, what="the thread waits for the reader")
        for _ in range(WAITING_LINES + 7):
            write(log, b"/" + b"a" * 8_000)
        assert log.dropped_total == 7
        sink.gate.set()
        await until(lambda: log.written_total == 1 + WAITING_LINES, within_s=5, what="written")
        write(log, b"/after")
    lines = sink.lines()
    assert len(lines) == WAITING_LINES + 2
    assert lines[-1]["path"] == "/after"
    assert all(len(str(line["path"])) <= PATH_BYTES for line in lines)


async def test_what_can_not_be_written_is_counted() -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    log = AccessLog(1.0, full)
    write(log, b"/a")
    await log.aclose()
    assert (log.written_total, log.dropped_total) == (0, 1)


def test_a_share_of_the_requests_is_sampled() -> None:
    async def sampled(share: float) -> int:
        log = AccessLog(share)
        return sum(log.sample() for _ in range(10_000))

    assert asyncio.run(sampled(0.0)) == 0
    assert asyncio.run(sampled(1.0)) == 10_000
    assert 800 < asyncio.run(sampled(0.1)) < 1_200


def test_a_process_ends_though_nobody_reads_its_log() -> None:
    program = """
import asyncio
from services.access.access_log import AccessLog
async def main():
    log = AccessLog(1.0)
    for _ in range(2000):
        log.write("GET", b"/" + b"a" * 900, 200, 1, 0.1, "page", "", "", "")
    await log.aclose()
asyncio.run(main())
"""
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=writing, timeout=20, check=False
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("not an address", ""),
        ("", ""),
    ],
)
def test_an_address_is_cut_to_its_network(client: str, network: str) -> None:
    assert network_of(client) == network
