"""Product pages asked of business at a steady rate, whatever becomes of them: as access asks for
what it does not hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

from services.deadline import Deadline
from services.exchange import ExchangeError
from services.keepalive import Pool
from tests.running_stack import RunningStack
from tests.shopping import Goods

PATIENCE_S: Final = 5.0
CONNECTIONS: Final = 200

Ask = Callable[[str], Awaitable[int]]  # a path; the status, 0 for no answer


@dataclass(frozen=True, slots=True)
class Answer:
    began_at: float
    took_ms: float
    status: int


@dataclass
class PageLoad:
    """`async with load.at(rate): …` asks for one page after another while the block runs."""

    ask: Ask
    goods: Sequence[Goods]
    answers: list[Answer] = field(default_factory=list)

    @asynccontextmanager
    async def at(self, rate: float) -> AsyncIterator[None]:
        running: set[asyncio.Task[None]] = set()
        offering = asyncio.create_task(self._offer(rate, running))
        try:
            yield
        finally:
            offering.cancel()
            await asyncio.wait([offering])
            if running:
                await asyncio.wait(running)

    async def each_once(self, rate: float) -> None:
        """As a shop that has run for a while: every page has been asked for, and loaded."""
        async with asyncio.TaskGroup() as group:
            for goods in self.goods:
                group.create_task(self._one(goods))
                await asyncio.sleep(1 / rate)

    def since(self, began_at: float, until: float = float("inf")) -> list[Answer]:
        return [one for one in self.answers if began_at <= one.began_at < until]

    async def _offer(self, rate: float, running: set[asyncio.Task[None]]) -> None:
        began_at, number = time.monotonic(), 0
        while True:
            task = asyncio.create_task(self._one(self.goods[number % len(self.goods)]))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            await asyncio.sleep(max(0.0, began_at + number / rate - time.monotonic()))

    async def _one(self, goods: Goods) -> None:
        began_at = time.monotonic()
        status = await self.ask(f"/products/{goods.slug}")
        self.answers.append(Answer(began_at, 1000 * (time.monotonic() - began_at), status))


def p99_ms(answers: Sequence[Answer]) -> float:
    took_ms = sorted(one.took_ms for one in answers)
    return round(took_ms[max(0, len(took_ms) * 99 // 100 - 1)], 2)


def failed(answers: Sequence[Answer]) -> list[int]:
    """What was not answered with a page."""
    return [one.status for one in answers if one.status != 200]


@asynccontextmanager
async def asking_business(stack: RunningStack) -> AsyncIterator[Ask]:
    secret = [(b"x-internal-secret", stack.secret("internal_secret").encode())]
    pool = Pool.to(stack.environment["TERCET_BUSINESS_URL"], size=CONNECTIONS)

    async def ask(path: str) -> int:
        deadline = Deadline.after(PATIENCE_S)
        try:
            return (await pool.request(b"GET", path.encode(), secret, deadline=deadline)).status
        except ExchangeError:
            return 0

    try:
        yield ask
    finally:
        await pool.aclose()


def asking(client: httpx.AsyncClient) -> Ask:
    """The same of a business that is open inside the test's process."""

    async def ask(path: str) -> int:
        return (await client.get(path)).status_code

    return ask
