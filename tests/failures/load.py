"""A steady load on a client of ours, and when which request went wrong."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from services.client import Client
from services.deadline import Deadline
from services.exchange import ExchangeError


@dataclass(frozen=True, slots=True)
class Outcome:
    method: bytes
    began_at: float
    ended_at: float
    error: ExchangeError | None


class Load:
    """`async with Load(client, gets=8, posts=8) as load`: that many loops of request and answer."""

    def __init__(
        self, client: Client, *, gets: int, posts: int = 0, pause_s: float = 0.0, wait_s: float = 5
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._client = client
        self._methods = [b"GET"] * gets + [b"POST"] * posts
        self._pause_s = pause_s
        self._wait_s = wait_s
        self._stopping = False

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._loop(method)) for method in self._methods]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def errors(self, method: bytes | None = None) -> list[Outcome]:
        return [one for one in self.of(method) if one.error is not None]

    def of(self, method: bytes | None = None) -> list[Outcome]:
        return [one for one in self.outcomes if method in (None, one.method)]

    async def _loop(self, method: bytes) -> None:
        body = b"{}" if method == b"POST" else b""
        while not self._stopping:
            began_at, error = time.monotonic(), None
            try:
                await self._client.request(
                    method, b"/work", body=body, deadline=Deadline.after(self._wait_s)
                )
            except ExchangeError as failure:
                error = failure
            self.outcomes.append(Outcome(method, began_at, time.monotonic(), error))
            await asyncio.sleep(self._pause_s)
