"""E51: clients that leave in the middle, politely or not, leave nothing behind."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import pytest
import pytest_asyncio

from tests.access.conftest import request
from tests.access.upstream import Seen, Upstream, answer
from tests.failures.access_process import access, children
from tests.faults.figures import record
from tests.faults.waiting import until

WITHIN_S: Final = 5.0
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets the connection
SLOW: Final = b"/slow"
POST: Final = b"POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
CHUNKS: Final = b"POST /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab"
# What a client has sent when it leaves.
MOMENTS: Final = {
    "before a byte": b"",
    "in the request line": b"GET /he",
    "in the head": b"GET /here HTTP/1.1\r\nHost: a\r\nX: y",
    "before the body": POST,
    "in the body": POST + b"a" * 500,
    "in a chunk": CHUNKS,
    "while business works": request("/slow"),
    "while a page is fetched": request("/products/slow"),
    "with requests waiting": request("/slow") * 20,
    "with a payment waiting": request("/orders/1/payments", method="POST", body=b"{}"),
    "in a request behind another": request("/slow") + POST + b"a" * 10,
    "after an answer": request("/live"),
    "after a refusal": b"nonsense\r\n\r\n",
    "before a large answer is read": request("/large"),
}
WAYS: Final = ("close", "reset", "half")


@dataclass(frozen=True)
class Running:
    port: int
    process: psutil.Process
    upstream: Upstream

    def files(self) -> int:
        """Open files, without connections to business: those are kept."""
        found = self.process.net_connections("tcp")
        kept = sum(bool(c.raddr) and c.raddr.port == self.upstream.port for c in found)
        count: int = self.process.num_fds()
        return count - kept

    def clients(self) -> int:
        found = self.process.net_connections("tcp")
        return sum(c.laddr.port == self.port and c.status != psutil.CONN_LISTEN for c in found)


async def business(seen: Seen) -> bytes:
    if b"slow" in seen.target or b"payments" in seen.target:
        await asyncio.sleep(0.5)  # what a client does not wait for
    return answer(bytes(3_000_000) if seen.target == b"/large" else b"ok")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("access")
    async with Upstream(business) as upstream, access(upstream, folder) as (process, port):
        yield Running(port, psutil.Process(next(iter(children(process.pid)))), upstream)


async def leave(port: int, data: bytes, way: str) -> None:
    """Connect, send, and leave in this way once the server may have read it."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    with client, suppress(ConnectionError):
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, data)
        await asyncio.sleep(random.random() * 0.05)
        if way == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif way == "half":
            client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(WITHIN_S):
                while await loop.sock_recv(client, 65_536):
                    pass


async def left(running: Running, each: int) -> dict[str, float]:
    """Have `each` clients leave at each moment in each way; what is left of them, and for long."""
    await settled(running)
    files = running.files()
    leaving = [(data, way) for data in MOMENTS.values() for way in WAYS] * each
    random.Random(51).shuffle(leaving)
    for start in range(0, len(leaving), 200):
        some = leaving[start : start + 200]
        await asyncio.gather(*(leave(running.port, data, way) for data, way in some))
    took_s = await until(lambda: not running.clients(), within_s=WITHIN_S, what="all have left")
    return {
        "clients": len(leaving),
        "gone_after_s": round(took_s, 2),
        "files_more": running.files() - files,
    }


async def settled(running: Running) -> None:
    await until(lambda: not running.clients(), within_s=WITHIN_S, what="nobody is there")


async def test_whoever_leaves_in_the_middle_leaves_nothing_behind(running: Running) -> None:
    found = await left(running, 3)
    assert found["files_more"] <= 0
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request("/here", "connection: close"))
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")  # and it works on as before
    writer.close()
    await writer.wait_closed()


async def test_what_nobody_waits_for_is_not_begun(running: Running) -> None:
    """Of twenty requests in a row the client stays for none: business gets the first alone."""
    await settled(running)
    running.upstream.requests.clear()
    await leave(running.port, request("/slow?alone") * 20, "reset")
    await settled(running)
    await asyncio.sleep(0.7)  # longer than business takes: a second one would have come
    assert [seen.target for seen in running.upstream.requests] == [b"/slow?alone"]


async def test_a_payment_that_has_begun_goes_on_without_its_client(running: Running) -> None:
    await settled(running)
    running.upstream.requests.clear()
    ended = 0

    async def script(_: Seen) -> bytes:
        nonlocal ended
        await asyncio.sleep(0.2)
        ended += 1
        return answer()

    running.upstream.script = script
    pay = request("/orders/1/payments", "idempotency-key: k", method="POST", body=b"{}")
    await leave(running.port, pay, "reset")
    await until(lambda: ended == 1, within_s=WITHIN_S, what="business has ended it")
    running.upstream.script = business


@pytest.mark.faults
async def test_thousands_of_clients_leave_in_the_middle(running: Running) -> None:
    before_bytes = running.process.memory_info().rss
    found = await left(running, 100)
    grown_mb = (running.process.memory_info().rss - before_bytes) / 1_048_576
    passed = found["files_more"] <= 0 and found["gone_after_s"] <= WITHIN_S
    record(51, "clients that leave", passed, grown_mb=round(grown_mb, 1), **found)
    assert passed
