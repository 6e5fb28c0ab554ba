"""Sessions that end while requests with them go on, at several processes of access."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import httpx

from tests.shopping import Books

NOBODYS_ORDER: Final = "/orders/01890000-0000-7000-8000-000000000000"  # 404 for whoever is known
PACE_S: Final = 0.02  # between two requests with one session at one process

INSERT_SESSION: Final = """
    insert into sessions (token_sha256, customer_id, expires_at)
    values ($1, $2, now() + interval '1 hour') returning session_id
"""
END_SESSIONS: Final = """
    update sessions set ended_at = now() where session_id = any($1::uuid[]) returning customer_id
"""
TELL: Final = """
    insert into outbox (kind, name, aggregate_id)
    select 'tag', 'customer-' || id, 'customer-' || id from unnest($1::uuid[]) as id
"""


@dataclass
class Session:
    """A customer's session, and when (monotonic) requests with it were sent that were let in."""

    token: str
    session_id: UUID
    let_in_at: dict[str, float] = field(default_factory=dict)  # the last one, by process
    refused: set[str] = field(default_factory=set)  # processes that have refused it since


async def begin(books: Books) -> Session:
    """A session of a new customer."""
    sql = "insert into customers (kind) values ('customer') returning customer_id"
    token = secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).digest()
    customer_id = await books.value(sql)
    return Session(token, UUID(str(await books.value(INSERT_SESSION, digest, customer_id))))


async def end(books: Books, sessions: Sequence[Session]) -> float:
    """End them as business does, in one transaction; returns when (monotonic) it was committed.

    Nobody wakes the relay: it looks every 100 ms.
    """
    async with books.connection.transaction():
        ids = [session.session_id for session in sessions]
        rows = await books.rows(END_SESSIONS, ids)
        await books.rows(TELL, [row["customer_id"] for row in rows])
    return time.monotonic()


class Crowd:
    """Asks with every session at every process, again and again, while its block lasts."""

    def __init__(self, urls: Sequence[str], sessions: Sequence[Session]) -> None:
        self.urls = urls
        self.sessions = sessions
        self.others: list[int] = []  # statuses that are neither a yes nor a no
        self._client = httpx.AsyncClient(trust_env=False, timeout=10)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Crowd:
        self._tasks = [
            asyncio.create_task(self._ask(url, session))
            for url in self.urls
            for session in self.sessions
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def all_were_let_in(self) -> bool:
        return all(len(session.let_in_at) == len(self.urls) for session in self.sessions)

    def all_are_refused(self) -> bool:
        return all(len(session.refused) == len(self.urls) for session in self.sessions)

    def longest_s(self, ended_at: float) -> float:
        """How long after their end a request was sent that was let in; 0.0: none was."""
        last = [at for session in self.sessions for at in session.let_in_at.values()]
        return max(0.0, max(last) - ended_at)

    async def _ask(self, url: str, session: Session) -> None:
        headers = {"authorization": f"Bearer {session.token}"}
        while True:
            sent_at = time.monotonic()
            answer = await self._client.get(url + NOBODYS_ORDER, headers=headers)
            if answer.status_code == 404:
                session.let_in_at[url] = sent_at
                session.refused.discard(url)
            elif answer.status_code == 401:
                session.refused.add(url)
            else:
                self.others.append(answer.status_code)
            await asyncio.sleep(PACE_S)
