"""A load under way, and who waits for it."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Generic, TypeVar

from services.data.memory import Entry

T = TypeVar("T")


class Loading(Generic[T]):
    """A load under way: what it needs rises with those who join it.

    alone: Valkey did not answer, and is not asked again for this load. task: what there is to do
    once Valkey has answered, if there is. It runs in the context of who began the load.
    """

    __slots__ = ("alone", "context", "needed", "task", "waiters")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.alone = False
        self.task: asyncio.Task[Entry[T | None]] | None = None
        self.context = copy_context()
        self.waiters: list[asyncio.Future[Entry[T | None]]] = []

    def end(self) -> asyncio.Future[Entry[T | None]]:
        """What one reader waits for. Each has its own: one that gives up takes nothing away."""
        waiter: asyncio.Future[Entry[T | None]] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        return waiter

    def tell(self, outcome: Entry[T | None] | BaseException | None) -> None:
        """Give all readers what has become of it; None: it was cancelled."""
        for waiter in self.waiters:
            if waiter.done():
                continue
            if outcome is None:
                waiter.cancel()
            elif isinstance(outcome, BaseException):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)
