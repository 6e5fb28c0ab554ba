"""`tercet access` as a process: ready, stopped, refused."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.access.conftest import SECRET, Access, Client, request
from tests.access.upstream import Seen, Upstream, answer
from tests.faults.waiting import until

SERVE = """
from services.access.server import serve
from services.settings import AccessSettings, load
serve(load(AccessSettings))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def process(
    upstream: Upstream, port: int, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = os.environ | {
        "TERCET_INTERNAL_SECRET": SECRET,
        "TERCET_BUSINESS_URL": upstream.url,
        "TERCET_ACCESS_PORT": str(port),
        "TERCET_READY_FILE": str(folder / "ready"),
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE), env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def ready(folder: Path) -> None:
    await until((folder / "ready").exists, within_s=20, what="access is ready")


async def connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


async def test_a_stop_ends_what_is_in_flight_and_refuses_what_is_new(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def script(_: Seen) -> bytes:
        await gate.wait()
        return answer(b"to the end")

    port = free_port()
    async with Upstream(script) as upstream, process(upstream, port, tmp_path) as child:
        await ready(tmp_path)
        idle, busy, half = [await connect(port) for _ in range(3)]
        await idle.send(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.writer.write(request("/products/a"))
        half.writer.write(b"GET /live HTTP/1.1\r\nHost: a\r\n")
        await until(lambda: len(upstream.requests) == 1, within_s=5, what="in flight")

        stopped_at = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert await idle.ended() == b""

        half.writer.write(b"\r\n")
        response = await half.answer()
        assert (response.status, response.headers["connection"]) == (200, "close")
        gate.set()
        response = await busy.answer()
        assert (response.body, response.headers["connection"]) == (b"to the end", "close")

        assert await child.wait() == 0
        assert time.monotonic() - stopped_at < 3
        for client in (idle, busy, half):
            await client.close()


async def test_a_stop_does_not_wait_for_ever_and_is_honest_about_a_payment(tmp_path: Path) -> None:
    async def silence(_: Seen) -> bytes:
        await asyncio.Event().wait()
        return b""

    port = free_port()
    async with Upstream(silence) as upstream, process(upstream, port, tmp_path) as child:
        await ready(tmp_path)
        page, payment, entry = [await connect(port) for _ in range(3)]
        page.writer.write(request("/products/a"))
        payment.writer.write(request("/orders/1/payments", "Idempotency-Key: a", method="POST"))
        entry.writer.write(request("/operator/stock", method="POST"))
        await until(lambda: len(upstream.requests) == 3, within_s=5, what="in flight")
        stopped_at = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert (await page.answer()).status == 503
        for client, advice in ((payment, b"the same Idempotency-Key"), (entry, b"look before")):
            response = await client.answer()
            assert response.status == 504
            assert b"It may have happened" in response.body
            assert advice in response.body
        assert await child.wait() == 0
        assert time.monotonic() - stopped_at < 3
        for client in (page, payment, entry):
            await client.close()


async def test_a_stop_lets_a_payment_that_has_begun_end(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def script(_: Seen) -> bytes:
        await gate.wait()
        return answer()

    port = free_port()
    async with Upstream(script) as upstream, process(upstream, port, tmp_path) as child:
        await ready(tmp_path)
        client = await connect(port)
        client.writer.write(request("/orders/1/payments", method="POST"))
        await until(lambda: len(upstream.requests) == 1, within_s=5, what="begun")
        client.writer.transport.abort()
        child.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)  # time in which a payment that is not waited for would be cut
        assert upstream.open
        gate.set()
        assert await child.wait() == 0


async def test_a_taken_port_is_said_and_ends_the_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with Upstream() as upstream, process(upstream, port, tmp_path) as child:
            _, errors = await child.communicate()
            assert child.returncode not in (0, None)
            assert b"address already in use" in errors
            assert not (tmp_path / "ready").exists()


async def test_connections_are_counted_down_to_none(access: Access) -> None:
    clients = [await access.connect() for _ in range(20)]
    for client in clients:
        await client.send(request("/x"))
        await client.close()
    connections = access.server.server_state.connections
    await until(lambda: not connections, within_s=5, what="all gone")
