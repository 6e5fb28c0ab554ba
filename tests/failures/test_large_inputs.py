"""E49: what is too large is refused while it comes, at once, and takes no memory.

access runs as a process of its own, so that its memory can be seen.
"""

from __future__ import annotations

import asyncio
import gzip
import select
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final

import psutil
import pytest
import pytest_asyncio

from tests.access.answers import read_head
from tests.access.one_loop import echo
from tests.access.upstream import Seen, Upstream
from tests.failures.access_process import access, children
from tests.faults.figures import record
from tests.faults.waiting import until

MB: Final = 1_048_576
PIECE_BYTES: Final = 65_536
GROWTH_BYTES: Final = 4 * MB
WITHIN_MS: Final = 100
POST: Final = b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def much(piece: bytes, size_bytes: int) -> Iterator[bytes]:
    """The piece again and again."""
    many = piece * (PIECE_BYTES // len(piece))
    return repeat(many, size_bytes // len(many) + 1)


@dataclass(frozen=True)
class Large:
    """How it begins, what it consists of, and how it may be refused."""

    start: bytes
    piece: bytes
    size_bytes: int
    statuses: tuple[int, ...]


def length(size_bytes: int) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % size_bytes


CHUNK: Final = b"1000\r\n" + bytes(0x1000) + b"\r\n"
LARGE: Final = {
    "a header of 64 MB": Large(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y", 64 * MB, (431,)),
    "a name of 64 MB": Large(b"GET / HTTP/1.1\r\nHost: a\r\nX", b"y", 64 * MB, (431,)),
    "10,000 headers": Large(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: yyyy\r\n", 90_000, (431,)),
    "a million headers": Large(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X:\r\n", 4 * MB, (431,)),
    "a url of 1 MB": Large(b"GET /", b"a", MB, (414,)),
    "a query of 64 MB": Large(b"GET /?", b"a=b&", 64 * MB, (414,)),
    "a method of 64 MB": Large(b"", b"G", 64 * MB, (400,)),
    "spaces of 64 MB": Large(b"GET / HTTP/1.1\r\nHost: a\r\nX:", b" ", 64 * MB, (431,)),
    "a body of 64 MB": Large(length(64 * MB), b" ", 64 * MB, (413,)),
    "a body of 64 MB in chunks": Large(CHUNKED, CHUNK, 64 * MB, (413,)),
    "a chunk of 64 MB": Large(CHUNKED + b"4000000\r\n", b" ", 64 * MB, (413,)),
    "chunks of a byte": Large(CHUNKED, b"1;abcdefgh\r\na\r\n", 64 * MB, (400, 413)),
    "a chunk extension of 64 MB": Large(CHUNKED + b"1;", b"a", 64 * MB, (400, 413)),
    "a chunk size of 64 MB": Large(CHUNKED, b"0", 64 * MB, (400, 413)),
    "trailers of 64 MB": Large(CHUNKED + b"0\r\n", b"X: y\r\n", 64 * MB, (400, 431)),
    "JSON 100,000 deep": Large(length(100_000), b"[", 100_000, (413,)),
    "a number of a million digits": Large(length(MB), b"9", MB, (413,)),
}  # fmt: skip


@dataclass(frozen=True)
class Running:
    port: int
    process: psutil.Process
    upstream: Upstream

    @property
    def rss_bytes(self) -> int:
        size_bytes: int = self.process.memory_info().rss
        return size_bytes


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("access")
    async with Upstream(echo) as upstream, access(upstream, folder) as (process, port):
        serving = psutil.Process(next(iter(children(process.pid))))
        one = Running(port, serving, upstream)
        for large in LARGE.values():  # what is made once and kept is not what is measured
            await refused(one, large)
        yield one


def sent(port: int, large: Large) -> tuple[int, float]:
    """Send as fast as it is taken, until there is an answer: its status, and when it came (ms)."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        began_at = time.monotonic()
        client.sendall(large.start)
        with suppress(ConnectionError):  # what was said before an end is still to be read
            for piece in much(large.piece, large.size_bytes):
                client.sendall(piece)
                if select.select([client], [], [], 0)[0]:
                    break
        while b"\r\n\r\n" not in said:
            received = client.recv(65_536)
            assert received, said
            said += received
        took_ms = (time.monotonic() - began_at) * 1000
    answer = read_head(said)
    assert answer is not None
    assert (b"connection", b"close") in answer[1]
    return answer[0], took_ms


async def refused(running: Running, large: Large) -> tuple[int, float, int]:
    """The status, milliseconds until it was there, and by how many bytes the process grew."""
    before_bytes = running.rss_bytes
    status, took_ms = await asyncio.to_thread(sent, running.port, large)
    return status, took_ms, running.rss_bytes - before_bytes


@pytest.mark.parametrize("name", LARGE)
async def test_what_is_too_large_is_refused_while_it_comes(running: Running, name: str) -> None:
    running.upstream.requests.clear()
    before_bytes = running.rss_bytes
    found = [await refused(running, LARGE[name]) for _ in range(3)]
    assert {status for status, _, _ in found} <= set(LARGE[name].statuses)
    assert min(took_ms for _, took_ms, _ in found) < WITHIN_MS  # the machine may be busy
    assert max(grown_bytes for _, _, grown_bytes in found) < GROWTH_BYTES
    assert running.rss_bytes - before_bytes < GROWTH_BYTES
    assert running.upstream.requests == []


async def test_a_compressed_bomb_stays_compressed(running: Running) -> None:
    """access looks into no body, and business takes no coding: it is a body of 64 KB at most."""
    bomb = gzip.compress(bytes(40 * MB), 9)[:65_000]
    before_bytes = running.rss_bytes
    running.upstream.requests.clear()
    head = b"Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(POST + head + bomb)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()
    (seen,) = running.upstream.requests
    assert (seen.body, seen.values(b"content-encoding")) == (bomb, [b"gzip"])
    assert running.rss_bytes - before_bytes < GROWTH_BYTES


async def test_a_large_answer_of_business_is_not_kept(running: Running) -> None:
    async def script(_: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (64 * MB) + bytes(9 * MB)

    running.upstream.script = script
    before_bytes = running.rss_bytes
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"GET /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 502 ")
    writer.transport.abort()
    running.upstream.script = echo
    # Of the 8 MB that are read before it is refused, the allocator may keep what it likes.
    await until(
        lambda: running.rss_bytes - before_bytes < 16 * MB, within_s=5, what="it is forgotten"
    )


@pytest.mark.faults
async def test_all_that_is_too_large_again_and_again(running: Running) -> None:
    """Twenty times each, eight at once."""
    before_bytes = running.rss_bytes
    took_ms: dict[str, float] = {}
    wrong: list[str] = []
    grown_bytes = 0
    for name, large in LARGE.items():
        alone = [await refused(running, large) for _ in range(12)]
        together = await asyncio.gather(*(refused(running, large) for _ in range(8)))
        took_ms[name] = round(statistics.median(took for _, took, _ in alone), 2)
        wrong += [name for status, _, _ in (*alone, *together) if status not in large.statuses]
        grown_bytes = max(grown_bytes, running.rss_bytes - before_bytes)
    passed = not wrong and max(took_ms.values()) <= WITHIN_MS and grown_bytes <= GROWTH_BYTES
    record(49, "large inputs", passed, wrong=wrong, median_ms=took_ms,
           grown_mb=round(grown_bytes / MB, 2))  # fmt: skip
    assert passed
