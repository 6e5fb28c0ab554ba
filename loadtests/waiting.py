"""Waiting for a condition with a bound: for what is needed, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

# Short against anything that is waited for, long against the cost of asking.
ASK_EVERY_S: Final = 0.01


class NotInTimeError(AssertionError):
    """The condition did not hold in time: of a test, that is a failure."""


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, within_s: float, what: str
) -> float:
    """Ask until the condition holds; returns the seconds it took, or fails after `within_s`."""
    started_at = time.monotonic()
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return time.monotonic() - started_at
        if time.monotonic() - started_at > within_s:
            raise NotInTimeError(f"not within {within_s} s: {what}")
        await asyncio.sleep(ASK_EVERY_S)
