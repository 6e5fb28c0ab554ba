"""Business inside the test's process, in a thread of its own, on a real port."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httpx
import uvicorn

from services.business.app import Gate, create_app
from services.business.server import config_of
from services.serving import Closing
from services.settings import BusinessSettings
from tests.faults.proxy import FaultProxy
from tests.faults.waiting import until
from tests.shopping import http_client


@dataclass
class ServedBusiness:
    """http: a client of it, as access is one. loop: what it runs on, in its thread."""

    gate: Gate
    http: httpx.AsyncClient
    loop: asyncio.AbstractEventLoop


@asynccontextmanager
async def served_business(settings: BusinessSettings) -> AsyncIterator[ServedBusiness]:
    """With the loop and protocol that it has in production."""
    listener = socket.create_server(("127.0.0.1", 0))
    gate = create_app(settings)
    closing = Closing(cast("uvicorn._types.ASGI3Application", gate))
    server = uvicorn.Server(config_of(gate, closing, settings))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    secret = settings.internal_secret.get_secret_value()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        await until(lambda: server.started, within_s=20, what="business listens")
        async with http_client(url, **{"x-internal-secret": secret}) as http:
            yield ServedBusiness(gate, http, server.servers[0].get_loop())
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


def proxy_before(url: str) -> FaultProxy:
    """A proxy, not started yet, before the server that a DSN or URL names."""
    place = urlsplit(url)
    return FaultProxy(str(place.hostname), int(place.port or 0))


def by_way_of(proxy: FaultProxy, url: str) -> str:
    """The same URL with the proxy's address in place of the server's; without TLS."""
    place = urlsplit(url)
    there = place.netloc.replace(f"{place.hostname}:{place.port}", f"{proxy.host}:{proxy.port}")
    moved = place._replace(netloc=there)
    if place.scheme.startswith("postgres"):
        moved = moved._replace(query="&".join(filter(None, [place.query, "sslmode=disable"])))
    return moved.geturl()
