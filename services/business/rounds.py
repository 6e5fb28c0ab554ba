"""The loop of a worker: one round after another, through whatever is away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from services.problems import Problem
from services.telemetry import logger, mark_ready

log = logger(__name__)

POLL_S: Final = 0.5


async def run_rounds(run_once: Callable[[], Awaitable[int]], *, full: int) -> None:
    """Call run_once for ever; ready after the first that works.

    run_once returns how much it found. A round that found `full` is followed by the next at once:
    there is more.
    """
    ready = False
    while True:
        try:
            found = await run_once()
        except Problem as error:
            log.warning("worker waits", error=repr(error))
            found = 0
        else:
            if not ready:
                ready = True
                mark_ready()
        if found < full:
            await asyncio.sleep(POLL_S)
