"""Keep-alive clients that never pause, and count what they lose while a server stops."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field

from tests.access.conftest import Answer, Client

# A connection that is refused has lost nothing: no request was on it.
REFUSED = (ConnectionRefusedError,)


@dataclass
class Swarm:
    """`clients` loops of request and answer. A request that was sent and has no answer is lost."""

    port: int
    data: bytes
    clients: int = 50
    go_on_when_refused: bool = False
    answered: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    shed: int = 0  # refused for want of capacity, which is not what a stop may cost
    statuses: set[int] = field(default_factory=set)  # of all other answers
    latencies_s: list[float] = field(default_factory=list)
    stopping: bool = False

    async def __aenter__(self) -> Swarm:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping = True
        try:
            async with asyncio.timeout(10):
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _client(self) -> None:
        client: Client | None = None
        while not self.stopping:
            if client is None:
                client = await self._connected()
                if client is None:
                    if not self.go_on_when_refused:
                        return
                    await asyncio.sleep(0.01)  # between two tries, as a client would
                    continue
            answer = await self._ask(client)
            if answer is None or answer.headers.get("connection") == "close":
                await client.close()
                client = None
        if client is not None:
            await client.close()

    async def _connected(self) -> Client | None:
        try:
            return Client(*await asyncio.open_connection("127.0.0.1", self.port))
        except REFUSED:
            self.refused += 1
        except OSError as error:
            self.lost.append(f"connecting: {error!r}")
        return None

    async def _ask(self, client: Client) -> Answer | None:
        began_at = time.monotonic()
        try:
            answer = await client.send(self.data)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.lost.append(repr(error))
            return None
        self.answered += 1
        self.latencies_s.append(time.monotonic() - began_at)
        if b"/problems/overloaded" in answer.body:
            self.shed += 1
        else:
            self.statuses.add(answer.status)
        return answer


async def asked_once(port: int, data: bytes) -> tuple[Client, Answer]:
    """A connection that has had one answer and is kept."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    return client, await client.send(data)


async def close_all(clients: list[Client]) -> None:
    for client in clients:
        with suppress(OSError):
            await client.close()
