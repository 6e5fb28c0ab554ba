"""A balance over small servers, and what those do that are not well."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.addresses import Addresses
from services.balance import Balance
from services.connections import Connections
from services.deadline import Deadline
from services.keepalive import Response
from tests.access.upstream import Script, Seen, Upstream, answer

PROBES = (b"/live", b"/ready")


class Gate:
    """A script that holds each request until it is let through; probes are answered at once."""

    def __init__(self) -> None:
        self.held: list[asyncio.Event] = []

    async def __call__(self, seen: Seen) -> bytes:
        if seen.target not in PROBES:
            event = asyncio.Event()
            self.held.append(event)
            await event.wait()
        return answer()

    def open(self) -> None:
        while self.held:
            self.held.pop().set()


async def never(_: Seen) -> None:
    await asyncio.Event().wait()


def closing(*, but: tuple[bytes, ...] = ()) -> Script:
    """Ends the connection at each request but these."""

    async def script(seen: Seen) -> bytes | None:
        return answer() if seen.target in but else None

    return script


@asynccontextmanager
async def balance_over(
    *upstreams: Upstream, size: int = 8, **more: Any
) -> AsyncIterator[tuple[Balance, Addresses]]:
    addresses = Addresses(upstream.url for upstream in upstreams)
    balance = Balance(addresses, size=size, **more)
    try:
        yield balance, addresses
    finally:
        await balance.aclose()
        await addresses.aclose()


async def get(balance: Balance, target: bytes = b"/", seconds: float = 5.0) -> Response:
    return await balance.request(b"GET", target, deadline=Deadline.after(seconds))


async def post(balance: Balance, seconds: float = 5.0) -> Response:
    return await balance.request(b"POST", b"/", body=b"{}", deadline=Deadline.after(seconds))


def own(upstream: Upstream) -> list[Seen]:
    """The requests that were no probes."""
    return [seen for seen in upstream.requests if seen.target not in PROBES]


def part_of(balance: Balance, upstream: Upstream) -> Connections:
    return next(part for part in balance.parts if part.address.port == upstream.port)


def unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def asked(upstream: Upstream) -> list[Seen]:
    return [seen for seen in upstream.requests if seen.target in PROBES]


async def traffic(balance: Balance) -> None:
    while True:
        await get(balance)
        await asyncio.sleep(0.005)
