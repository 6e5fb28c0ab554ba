"""A running access in front of a recorded upstream."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import uvicorn
from pydantic import SecretStr

from services.access.limits import Limits
from services.access.server import config_of
from services.settings import AccessSettings
from tests.access.upstream import Upstream, always, answer
from tests.faults.waiting import until

SECRET = secrets.token_urlsafe(32)
COOKIE_SECRET = secrets.token_urlsafe(32)


@dataclass
class Access:
    """access on a port of its own, and the upstream behind it."""

    port: int
    upstream: Upstream
    server: uvicorn.Server

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def send(self, data: bytes) -> Answer:
        """Send raw bytes on a connection of their own and read one answer."""
        client = await self.connect()
        try:
            return await client.send(data)
        finally:
            await client.close()

    async def get(self, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
        return await self.send(request(path, *lines, method=method, body=body))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    names: list[str]


def request(path: str, *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "host: shop.example", *lines]
    if body or method == "POST":
        head.append(f"content-length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


class Client:
    """A raw client: what it sends is what is written in the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await self.answer(head=data.startswith(b"HEAD "))

    async def answer(self, *, head: bool = False) -> Answer:
        async with asyncio.timeout(10):
            section = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = section.decode("latin-1").split("\r\n")[:-2]
            names = [line.partition(": ")[0] for line in lines]
            headers = dict(line.partition(": ")[::2] for line in lines)
            status = int(status_line.split()[1])
            length = 0 if head or status < 200 else int(headers.get("content-length", 0))
            body = await self.reader.readexactly(length)
        return Answer(status, headers, body, names)

    async def ended(self) -> bytes:
        """What still comes until the server closes."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def settings_for(url: str, **changes: object) -> AccessSettings:
    values: dict[str, object] = {
        "internal_secret": SecretStr(SECRET),
        "cookie_secret": SecretStr(COOKIE_SECRET),
        "business_url": url,
        "access_port": 0,
        "page_pool_size": 4,
        "payment_pool_size": 4,
    }
    return AccessSettings.model_validate(values | changes)


@asynccontextmanager
async def running(
    upstream: Upstream, *, limits: Limits | None = None, **changes: object
) -> AsyncIterator[Access]:
    """access in a thread with the loop and protocol it has in production."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config_of(settings_for(upstream.url, **changes), limits))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        await until(lambda: server.started, within_s=10, what="access listens")
        yield Access(listener.getsockname()[1], upstream, server)
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


@pytest.fixture(scope="session")
async def one_access() -> AsyncIterator[Access]:
    async with Upstream() as upstream, running(upstream) as access:
        yield access


@pytest.fixture
async def access(one_access: Access) -> Access:
    """The access all tests share that need no settings of their own; its upstream is as new."""
    one_access.upstream.script = always(answer())
    one_access.upstream.requests.clear()
    return one_access
