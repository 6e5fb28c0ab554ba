"""`tercet access` as a process: ready, stopped, refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from tests.access.conftest import COOKIE_SECRET, SECRET, Access, Client, request
from tests.access.upstream import Seen, Upstream, answer
from tests.failures.access_process import free_port
from tests.faults.waiting import until


@asynccontextmanager
async def process(
    upstream: Upstream, port: int, folder: Path, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = os.environ | {
        "TERCET_INTERNAL_SECRET": SECRET,
        "TERCET_COOKIE_SECRET": COOKIE_SECRET,
        "TERCET_BUSINESS_URL": upstream.url,
        "TERCET_ACCESS_PORT": str(port),
        "TERCET_READY_FILE": str(folder / "ready"),
        **settings,
    }
    environment = {name: value for name, value in environment.items() if value}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.process", "access"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def ready(child: asyncio.subprocess.Process, folder: Path) -> None:
    """Wait until it serves; what it said is in the failure if it ended instead."""

    async def is_ready() -> bool:
        if child.returncode is not None:
            raise AssertionError((await child.communicate())[1].decode())
        return (folder / "ready").exists()

    await until(is_ready, within_s=20, what="access is ready")


async def connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


async def test_a_stop_ends_what_is_in_flight_and_refuses_what_is_new(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def script(_: Seen) -> bytes:
        await gate.wait()
        return answer(b"to the end")

    port = free_port()
    async with Upstream(script) as upstream, process(upstream, port, tmp_path) as child:
        await ready(child, tmp_path)
        idle, busy, half, silent = [await connect(port) for _ in range(4)]
        await idle.send(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.writer.write(request("/products/a"))
        half.writer.write(b"GET /live HTTP/1.1\r\nHost: a\r\n")
        await until(lambda: len(upstream.requests) == 1, within_s=5, what="in flight")

        stopped_at = time.monotonic()
        child.send_signal(signal.SIGTERM)

        async def is_stopping() -> bool:
            client = await connect(port)
            answer = await client.send(request("/ready"))
            await client.close()
            return (answer.status, answer.headers.get("connection")) == (503, "close")

        await until(is_stopping, within_s=2, what="it says that it stops, and still accepts")
        half.writer.write(b"\r\n")
        response = await half.answer()
        assert (response.status, response.headers["connection"]) == (200, "close")
        response = await idle.send(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (response.status, response.headers["connection"]) == (200, "close")
        gate.set()
        response = await busy.answer()
        assert (response.body, response.headers["connection"]) == (b"to the end", "close")
        assert await silent.ended() == b""

        assert await child.wait() == 0
        assert time.monotonic() - stopped_at < 3
        for client in (idle, busy, half, silent):
            await client.close()


async def test_a_stop_does_not_wait_for_ever_and_is_honest_about_a_payment(tmp_path: Path) -> None:
    async def silence(_: Seen) -> bytes:
        await asyncio.Event().wait()
        return b""

    port = free_port()
    async with Upstream(silence) as upstream, process(upstream, port, tmp_path) as child:
        await ready(child, tmp_path)
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
        await ready(child, tmp_path)
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


async def test_the_access_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    port = free_port()
    settings = {"TERCET_ACCESS_LOG_SAMPLE": "1"}
    async with Upstream() as upstream, process(upstream, port, tmp_path, **settings) as parent:
        await ready(parent, tmp_path)
        client = await connect(port)
        for target in ("/x?token=secret", "/internal/a%22b"):
            await client.send(request(target))
        await client.close()
        parent.send_signal(signal.SIGTERM)
        said, _ = await parent.communicate()
    first, second = map(json.loads, said.splitlines())
    assert (first["path"], first["status"], first["route"]) == ("/x", 200, "other")
    assert (first["client"], first["size_bytes"], len(first["request_id"])) == ("127.0.0.0", 2, 32)
    assert (second["path"], second["status"]) == ("/internal/a%22b", 404)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def write_certificate(folder: Path, authority: trustme.CA) -> dict[str, str]:
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return {
        "TERCET_ACCESS_TLS_CERTIFICATE": str(certificate),
        "TERCET_ACCESS_TLS_KEY": str(key),
    }


async def test_access_speaks_tls_from_1_2_on_and_a_restart_takes_new_certificates_and_secrets(
    tmp_path: Path, authority: trustme.CA
) -> None:
    settings = write_certificate(tmp_path, authority)
    secret = tmp_path / "tercet_internal_secret"
    secret.write_text(SECRET)
    settings |= {"TERCET_SECRETS_DIR": str(tmp_path), "TERCET_INTERNAL_SECRET": ""}
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def tls(context: ssl.SSLContext) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    port = free_port()
    async with Upstream() as upstream, process(upstream, port, tmp_path, **settings) as parent:
        await ready(parent, tmp_path)
        client = await tls(context)
        assert (await client.send(request("/x"))).status == 200
        assert upstream.requests[0].header(b"x-forwarded-proto") == b"https"
        first = client.writer.get_extra_info("peercert")["serialNumber"]

        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1):
            older = ssl.create_default_context()
            authority.configure_trust(older)
            older.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of 1.1, which is the point
                older.minimum_version, older.maximum_version = ssl.TLSVersion.TLSv1, newest
            if newest == ssl.TLSVersion.TLSv1_2:
                other = await tls(older)
                assert other.writer.get_extra_info("cipher")[0].startswith("ECDHE-")
                await other.close()
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await tls(older)

        write_certificate(tmp_path, authority)
        secret.write_text(SECRET[::-1])
        parent.send_signal(signal.SIGHUP)

        async def is_new() -> bool:
            fresh = await tls(context)
            try:
                serial = fresh.writer.get_extra_info("peercert")["serialNumber"]
                return (await fresh.send(request("/x"))).status == 200 and serial != first
            finally:
                await fresh.close()

        await until(is_new, within_s=20, what="the new certificate is shown")
        assert upstream.requests[-1].header(b"x-internal-secret") == SECRET[::-1].encode()
        await client.close()
