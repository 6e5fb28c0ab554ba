"""Requests offered to access at a rate of their own, whatever becomes of them (an open loop)."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from loadtests.generator import Start, open_loop
from loadtests.recorder import Recorder
from loadtests.schedule import constant, poisson
from services.deadline import Deadline
from services.exchange import ExchangeError
from services.keepalive import Headers, Pool
from tests.access.upstream import Upstream
from tests.failures.access_process import access, free_port
from tests.faults.waiting import until

TIMEOUT_S: Final = 5.0
JSON: Final[Headers] = [(b"content-type", b"application/json")]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of traffic as a client asks for it."""

    name: str
    method: bytes
    target: bytes


PAGE: Final = Kind("page", b"GET", b"/products/a")
CHECKOUT: Final = Kind("checkout", b"POST", b"/orders")
PAYMENT: Final = Kind("payment", b"POST", b"/orders/1/payments")


@dataclass(frozen=True, slots=True)
class Answered:
    """One try of one request. status 0: no answer."""

    kind: str
    began_at: float
    took_s: float
    status: int
    tries: int  # with this one


class Offered:
    """What was offered to a port, and what came back."""

    def __init__(self, port: int, *, connections: int = 1000) -> None:
        self.answers: list[Answered] = []
        self.behind_ms = 0.0  # the most that requests were begun late
        self._pool = Pool("127.0.0.1", port, size=connections, idle_s=60)

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def load(
        self, rate: float, seconds: float, *, kind: Kind = PAGE, tries: int = 1, even: bool = False
    ) -> float:
        """Returns when it began. tries: of one request that is refused, one right after another."""
        recorder = Recorder(kind.name)
        arrivals: Iterator[float] = (
            constant(rate, seconds) if even else poisson(rate, seconds, seed=len(self.answers))
        )
        began_at = time.monotonic()

        async def send(start: Start) -> None:
            for number in range(1, tries + 1):
                if await self._ask(kind, start.deadline, number) != 503:
                    return

        await open_loop(arrivals, send, recorder, timeout_s=TIMEOUT_S)
        self.behind_ms = max(self.behind_ms, recorder.late_us / 1000)
        assert recorder.unsent == 0, "the generator could not keep up"
        return began_at

    async def _ask(self, kind: Kind, deadline: Deadline, number: int) -> int:
        began_at, status = time.monotonic(), 0
        body, headers = (b"{}", JSON) if kind.method == b"POST" else (b"", [])
        try:
            answer = await self._pool.request(
                kind.method, kind.target, headers, body, deadline=deadline
            )
            status = answer.status
        except ExchangeError:
            pass
        took_s = time.monotonic() - began_at
        self.answers.append(Answered(kind.name, began_at, took_s, status, number))
        return status

    def of(
        self, status: int, since: float, until: float = float("inf"), *, kind: Kind | None = None
    ) -> Part:
        return Part(
            sorted(
                one.took_s
                for one in self.answers
                if one.status == status
                and since <= one.began_at < until
                and kind in (None, KINDS[one.kind])
            )
        )

    def count(self, since: float, until: float = float("inf"), *, kind: Kind | None = None) -> int:
        """Requests; tries again are not counted."""
        return sum(
            one.tries == 1 and since <= one.began_at < until and kind in (None, KINDS[one.kind])
            for one in self.answers
        )


KINDS: Final = {kind.name: kind for kind in (PAGE, CHECKOUT, PAYMENT)}


@dataclass(frozen=True, slots=True)
class Part:
    """Some answers: their times, in order."""

    took_s: Sequence[float]

    def __len__(self) -> int:
        return len(self.took_s)

    def ms(self, part: float) -> float:
        """A percentile, as a part of 1; 0.0 of nothing."""
        if not self.took_s:
            return 0.0
        return round(1000 * self.took_s[min(len(self) - 1, int(part * len(self)))], 2)


class Business:
    """The process of loadtests/peers/scripted.py."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._pool = Pool("127.0.0.1", port, size=1, idle_s=60)

    async def script(self, **changes: float | bool) -> dict[str, Any]:
        answer = await self._pool.request(
            b"POST", b"/scripted", JSON, orjson.dumps(changes), deadline=Deadline.after(5)
        )
        told: dict[str, Any] = orjson.loads(answer.body)
        return told

    async def came(self) -> Counts:
        counts: Counts = (await self.script())["came"]
        return counts

    async def listens(self) -> bool:
        try:
            await self.script()
        except ExchangeError:
            return False
        return True

    async def aclose(self) -> None:
        await self._pool.aclose()


Counts = dict[str, int]


@asynccontextmanager
async def scripted_business(*, at_once: int, latency_ms: float) -> AsyncIterator[Business]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.peers.scripted", str(port))
    )
    business = Business(port)
    try:
        await until(business.listens, within_s=10, what="the scripted business listens")
        await business.script(at_once=at_once, latency_ms=latency_ms)
        yield business
    finally:
        await business.aclose()
        process.kill()
        await process.wait()


class Watched:
    """What access says of itself at /metrics."""

    def __init__(self, port: int) -> None:
        self._pool = Pool("127.0.0.1", port, size=1, idle_s=60)

    async def admission(self, name: str, kind: Kind = PAGE) -> float:
        """The number of one family for one class."""
        answer = await self._pool.request(b"GET", b"/metrics", deadline=Deadline.after(5))
        label = f'tercet_access_admission_{name}{{class="{kind.name}",worker="0"}} '
        found = re.search(re.escape(label) + r"([0-9.e+]+)", answer.body.decode())
        assert found is not None, answer.body.decode()
        return float(found[1])

    async def aclose(self) -> None:
        await self._pool.aclose()


@asynccontextmanager
async def access_before(
    business: Business, folder: Path, **settings: str
) -> AsyncIterator[tuple[Offered, Watched]]:
    """A running access, what is offered to it, and what it says of itself."""
    internal_port = free_port()
    settings = {
        "TERCET_BUSINESS_URL": business.url,
        "TERCET_ACCESS_INTERNAL_PORT": str(internal_port),
        "TERCET_CUSTOMER_RATES": "",
        "TERCET_ADDRESS_RATES": "",
        **settings,
    }
    unused = Upstream()
    async with unused, access(unused, folder, **settings) as (_, port):
        offered, watched = Offered(port), Watched(internal_port)
        try:
            yield offered, watched
        finally:
            await offered.aclose()
            await watched.aclose()
