"""Ending background tasks, for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

# Python 3.11's asyncio.wait_for answers a cancellation with its result if both come together:
# a task that loops round it goes on, and has to be cancelled once more.
AGAIN_S: Final = 0.2


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until all have ended; what they raise is seen and dropped."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()
