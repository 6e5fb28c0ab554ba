"""services/transport.py: the httpx API over our pools, its errors and its timeouts."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.deadline import Deadline
from services.keepalive import AnswerLimits
from services.transport import KeepAliveTransport
from tests.access.upstream import Seen, Upstream, always, answer
from tests.faults.waiting import until


@pytest.fixture
async def transport() -> AsyncIterator[KeepAliveTransport]:
    async with KeepAliveTransport() as transport:
        yield transport


def client_of(transport: KeepAliveTransport, **more: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, **more)  # type: ignore[arg-type]


async def silence(_: Seen) -> bytes:
    await asyncio.Event().wait()
    return b""


async def test_an_answer_is_what_the_server_said(transport: KeepAliveTransport) -> None:
    async with Upstream(always(answer(b'{"a":1}', 201, etag='"x"'))) as upstream:
        response = await client_of(transport).post(upstream.url + "/a%20b?c=d", json={"q": 1})
        assert (response.status_code, response.json()) == (201, {"a": 1})
        assert response.headers["etag"] == '"x"'
        assert response.http_version == "HTTP/1.1"
        seen = upstream.requests[0]
        assert (seen.method, seen.target, seen.body) == (b"POST", b"/a%20b?c=d", b'{"q":1}')
        assert seen.values(b"content-length") == [b"7"]
        assert seen.values(b"host") == [b"127.0.0.1:%d" % upstream.port]
        assert seen.values(b"connection") == []


async def test_a_host_header_of_the_callers_own_is_sent(transport: KeepAliveTransport) -> None:
    async with Upstream() as upstream:
        await client_of(transport).get(upstream.url, headers={"host": "shop.example"})
        assert upstream.requests[0].values(b"host") == [b"shop.example"]


async def test_an_encoded_answer_is_decoded_by_httpx(transport: KeepAliveTransport) -> None:
    data = answer(gzip.compress(b"plain"), content_encoding="gzip")
    async with Upstream(always(data)) as upstream:
        assert (await client_of(transport).get(upstream.url)).text == "plain"


async def test_each_origin_has_a_pool_and_keeps_its_connection(
    transport: KeepAliveTransport,
) -> None:
    async with Upstream() as one, Upstream() as other, client_of(transport) as client:
        for _ in range(3):
            await client.get(one.url)
            await client.get(other.url)
        assert (one.connections, other.connections) == (1, 1)
        assert len(transport.pools) == 2


async def test_bodies_are_streamed_both_ways(transport: KeepAliveTransport) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with Upstream(always(answer(bytes(200_000)))) as upstream:
        async with client_of(transport).stream("POST", upstream.url, content=body()) as response:
            assert sum([len(chunk) async for chunk in response.aiter_bytes()]) == 200_000
        assert upstream.requests[0].body == b"onetwo"
        assert upstream.requests[0].header(b"transfer-encoding") == b"chunked"


async def test_a_multipart_upload_keeps_its_length(transport: KeepAliveTransport) -> None:
    async with Upstream() as upstream:
        await client_of(transport).post(upstream.url, files={"file": b"x" * 1000})
        seen = upstream.requests[0]
        assert seen.header(b"content-length") == b"%d" % len(seen.body)


async def test_a_redirect_is_followed_over_the_same_connection(
    transport: KeepAliveTransport,
) -> None:
    async def script(seen: Seen) -> bytes:
        return answer(b"", 302, location="/there") if seen.target == b"/" else answer(b"there")

    async with Upstream(script) as upstream:
        response = await client_of(transport, follow_redirects=True).get(upstream.url)
        assert response.text == "there"
        assert upstream.connections == 1


async def test_nobody_listening_is_connect_error(transport: KeepAliveTransport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(httpx.ConnectError):
            await client_of(transport).get(f"http://127.0.0.1:{unused.getsockname()[1]}/")


async def test_no_connection_in_time_is_connect_timeout(transport: KeepAliveTransport) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # the backlog is full: the next SYN is dropped
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        timeout = httpx.Timeout(5, connect=0.1)
        with pytest.raises(httpx.ConnectTimeout):
            await client_of(transport, timeout=timeout).get(f"http://127.0.0.1:{port}/")
        for filler in fillers:
            filler.close()


async def test_no_free_connection_in_time_is_pool_timeout() -> None:
    async with KeepAliveTransport(size=1) as transport, Upstream(silence) as upstream:
        client = client_of(transport, timeout=httpx.Timeout(5, pool=0.05))
        first = asyncio.create_task(client.get(upstream.url))
        await until(lambda: len(upstream.requests) == 1, within_s=5, what="the first is there")
        with pytest.raises(httpx.PoolTimeout):
            await client.get(upstream.url)
        first.cancel()


async def test_silence_is_read_timeout(transport: KeepAliveTransport) -> None:
    async with Upstream(silence) as upstream:
        client = client_of(transport, timeout=httpx.Timeout(5, read=0.05))
        with pytest.raises(httpx.ReadTimeout):
            await client.post(upstream.url)


async def test_silence_inside_a_body_is_read_timeout(transport: KeepAliveTransport) -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"
    async with Upstream(always(data)) as upstream:
        client = client_of(transport, timeout=httpx.Timeout(5, read=0.05))
        with pytest.raises(httpx.ReadTimeout):
            await client.get(upstream.url)


async def test_a_timeout_of_one_request_wins_over_the_clients(
    transport: KeepAliveTransport,
) -> None:
    async with Upstream(silence) as upstream:
        client = client_of(transport, timeout=None)
        with pytest.raises(httpx.ReadTimeout):
            async with asyncio.timeout(5):
                await client.get(upstream.url, timeout=0.05)


async def test_a_deadline_ends_a_request_without_timeouts(transport: KeepAliveTransport) -> None:
    async with Upstream(silence) as upstream:
        client = client_of(transport, timeout=None)
        with pytest.raises(httpx.ReadTimeout):
            async with asyncio.timeout(5):
                await client.get(upstream.url, extensions={"deadline": Deadline.after(0.05)})


async def test_a_server_that_does_not_read_is_write_timeout(
    transport: KeepAliveTransport,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = client_of(transport, timeout=httpx.Timeout(10, write=0.1))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(httpx.WriteTimeout):
            await client.post(url, content=bytes(32 * 1_048_576))


async def test_a_server_that_leaves_without_a_word_is_remote_protocol_error(
    transport: KeepAliveTransport,
) -> None:
    async with Upstream(always(b"HTTP/1.1 200 OK\r\nconnection: close\r\nx")) as upstream:
        with pytest.raises(httpx.RemoteProtocolError):
            await client_of(transport).post(upstream.url)


async def test_a_reset_is_read_error(transport: KeepAliveTransport) -> None:
    async def reset(_: Seen) -> None:
        listener = next(iter(upstream.open))._transport.get_extra_info("socket")
        # An abortive close: RST in place of FIN.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with Upstream(reset) as upstream:
        with pytest.raises(httpx.ReadError):
            await client_of(transport).post(upstream.url)


async def test_a_reset_while_sending_is_write_error(transport: KeepAliveTransport) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await until(lambda: bool(upstream.open), within_s=5, what="the server has it")
        for connection in list(upstream.open):
            connection.close()
        while True:
            yield bytes(65_536)
            await asyncio.sleep(0)

    async with Upstream() as upstream:
        with pytest.raises(httpx.WriteError):
            await client_of(transport).post(upstream.url, content=body())


@pytest.mark.parametrize("length", [3, 5])
async def test_a_body_of_another_length_than_said_is_not_said_to_be_unsent(
    transport: KeepAliveTransport, length: int
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abcd"

    async with Upstream() as upstream:
        with pytest.raises(httpx.WriteError):
            headers = {"content-length": str(length)}
            await client_of(transport).post(upstream.url, content=body(), headers=headers)


@pytest.mark.parametrize("data", [b"hello\r\n\r\n", b"HTTP/1.1 101 X\r\nupgrade: y\r\n\r\n"])
async def test_what_is_not_http_is_remote_protocol_error(
    transport: KeepAliveTransport, data: bytes
) -> None:
    async with Upstream(always(data)) as upstream:
        with pytest.raises(httpx.RemoteProtocolError):
            await client_of(transport).get(upstream.url)


async def test_an_answer_beyond_the_limit_is_remote_protocol_error() -> None:
    limits = AnswerLimits(body_bytes=1000)
    async with KeepAliveTransport(limits=limits) as transport, Upstream() as upstream:
        upstream.script = always(answer(bytes(1001)))
        with pytest.raises(httpx.RemoteProtocolError):
            await client_of(transport).get(upstream.url)


async def test_a_header_with_a_line_break_is_local_protocol_error(
    transport: KeepAliveTransport,
) -> None:
    async with Upstream() as upstream:
        with pytest.raises(httpx.LocalProtocolError):
            await client_of(transport).get(upstream.url, headers={"x-a": "b\r\nx-c: d"})
        assert upstream.connections == 0


async def test_other_schemes_are_unsupported(transport: KeepAliveTransport) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await client_of(transport).get("ftp://127.0.0.1/")


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and its key; the standard library can not make one."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is needed to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True)
    return paths


def _server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_https_verifies_the_server_and_keeps_the_connection(
    certificate: tuple[Path, Path],
) -> None:
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    async with (
        Upstream(tls=_server_tls(certificate)) as upstream,
        KeepAliveTransport(tls=trust) as transport,
    ):
        for _ in range(3):
            response = await client_of(transport).get(f"https://localhost:{upstream.port}/")
            assert response.text == "ok"
        assert upstream.connections == 1


async def test_a_certificate_nobody_trusts_is_connect_error(
    certificate: tuple[Path, Path], transport: KeepAliveTransport
) -> None:
    async with Upstream(tls=_server_tls(certificate)) as upstream:
        with pytest.raises(httpx.ConnectError):
            await client_of(transport).get(f"https://localhost:{upstream.port}/")
        assert upstream.requests == []


async def test_a_certificate_for_another_name_is_connect_error(
    certificate: tuple[Path, Path],
) -> None:
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    async with (
        Upstream(tls=_server_tls(certificate)) as upstream,
        KeepAliveTransport(tls=trust) as transport,
    ):
        with pytest.raises(httpx.ConnectError):
            await client_of(transport).get(f"https://127.0.0.1:{upstream.port}/")
