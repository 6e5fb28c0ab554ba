"""Pages in front of a business whose answers the test decides, one fetch at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from services.access.pages import Pages
from services.access.targets import PageRule
from services.deadline import Deadline
from services.exchange import Headers, Response
from services.problems import Problem
from tests.faults.waiting import until

RULES: Final = [
    PageRule("/products", ["category", "limit", "q"]),
    PageRule("/products/{slug}"),
    PageRule("/categories"),
]
CAT: Final = b"/products/cat"
MEMORY_BYTES: Final = 4 * 2**20
BODY: Final = b'{"name":"a cat","text":"' + b"purrs and sleeps; " * 40 + b'"}'
PUBLIC: Final = "public, s-maxage=10"
PATIENT: Final = "public, s-maxage=10, stale-while-revalidate=30, stale-if-error=60"


def answer(
    cache_control: str | None = PATIENT,
    *,
    status: int = 200,
    body: bytes = BODY,
    etag: str | None = '"1"',
    tags: str | None = "cat",
    position: int | None = 100,
    age: int | None = None,
    more: Headers | None = None,
) -> Response:
    """An answer of business; None leaves a header out."""
    said = {
        "content-type": "application/json",
        "cache-control": cache_control,
        "etag": etag,
        "cache-tag": tags,
        "x-internal-position": None if position is None else str(position),
        "age": None if age is None else str(age),
    }
    headers = [(name.encode(), value.encode()) for name, value in said.items() if value is not None]
    return Response(status, headers + (more or []), body)


def confirmed(cache_control: str | None = PATIENT, **said: object) -> Response:
    return answer(cache_control, status=304, body=b"", **said)  # type: ignore[arg-type]


@dataclass
class Asked:
    """One fetch; the test answers it."""

    target: bytes
    extra: dict[bytes, bytes]
    deadline: Deadline
    reply: asyncio.Future[Response] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def answer(self, response: Response) -> None:
        self.reply.set_result(response)

    def fail(self, problem: Problem) -> None:
        self.reply.set_exception(problem)


class Business:
    """Answers with `says` at once, or holds each fetch in `asked` until the test answers it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.says: Callable[[Asked], Response] | None = None
        self.verified_since: float | None = 0.0

    async def fetch(self, target: bytes, extra: Headers, deadline: Deadline) -> Response:
        asked = Asked(target, dict(extra), deadline)
        self.asked.append(asked)
        return self.says(asked) if self.says is not None else await asked.reply

    def always(self, response: Response) -> None:
        self.says = lambda _: response

    def by_hand(self) -> None:
        self.says = None

    async def nth(self, number: int) -> Asked:
        """The fetch with this number, from 1, once it has come."""
        await until(
            lambda: len(self.asked) >= number, within_s=5, what=f"business is asked {number} times"
        )
        return self.asked[number - 1]


class Shop:
    """Pages and the business behind them, with the questions that a protocol asks."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES, budget_s: float = 5.0) -> None:
        self.business = Business()
        self.pressed = False
        self.pages = Pages(
            memory_bytes=memory_bytes,
            fetch=self.business.fetch,
            verified_since=lambda: self.business.verified_since,
            pressed=lambda: self.pressed,
            budget_s=budget_s,
        )
        self.pages.learn(RULES)

    def at_once(
        self,
        target: bytes = CAT,
        *,
        method: bytes = b"GET",
        accept: bytes = b"",
        match: bytes = b"",
        close: bool = False,
    ) -> Got | None:
        ready = self.pages.answer(method, target, accept, match, close)
        return read(ready) if ready is not None else None

    async def get(
        self,
        target: bytes = CAT,
        *,
        method: bytes = b"GET",
        accept: bytes = b"",
        match: bytes = b"",
        close: bool = False,
        within_s: float = 5.0,
    ) -> Got | Response | None:
        """What a client gets: from memory, else fetched; None where it is passed on."""
        ready = self.at_once(target, method=method, accept=accept, match=match, close=close)
        if ready is not None:
            return ready
        got = await self.pages.obtain(
            method, target, accept, match, close, Deadline.after(within_s)
        )
        return read(got) if isinstance(got, bytes) else got

    async def page(self, target: bytes = CAT, **asked: object) -> Got:
        got = await self.get(target, **asked)  # type: ignore[arg-type]
        assert isinstance(got, Got), got
        return got

    def asking(self, target: bytes = CAT, **asked: object) -> asyncio.Task[Got]:
        return asyncio.create_task(self.page(target, **asked))

    async def filled(self, response: Response, target: bytes = CAT) -> Got:
        """Have a page fetched and held; what follows is answered by hand again."""
        self.business.always(response)
        got = await self.page(target)
        self.business.by_hand()
        self.business.asked.clear()
        return got


@dataclass
class Got:
    """An answer as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> str:
        """What Cache-Status says of us."""
        return self.headers["cache-status"].removeprefix("Tercet; ")


def read(data: bytes) -> Got:
    head, separator, body = data.partition(b"\r\n\r\n")
    assert separator
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [line.split(": ", 1) for line in lines]
    names = [name for name, _ in fields]
    written = [name for name in names if name != "cache-control"]  # business' own, as it said it
    assert len(written) == len(set(written)), f"a field twice: {names}"
    return Got(int(first.split(" ")[1]), dict(fields), body)


@asynccontextmanager
async def shop(memory_bytes: int = MEMORY_BYTES, budget_s: float = 5.0) -> AsyncIterator[Shop]:
    made = Shop(memory_bytes, budget_s)
    try:
        yield made
    finally:
        await made.pages.aclose()
