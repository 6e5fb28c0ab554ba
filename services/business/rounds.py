"""The loop of a worker: one round after another, through whatever is away for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from services.histogram import Histogram
from services.problems import Problem
from services.telemetry import logger, mark_ready

log = logger(__name__)

POLL_S: Final = 0.5
SAY_EVERY_S: Final = 60.0  # a busy relay has ten rounds a second: a line for each tells nobody more


class Rounds:
    """What the rounds of a worker have come to.

    items_total: what they found and worked on. errors_total: rounds, or items of one, that could
    not be done; they are done later.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.items_total = 0
        self.errors_total = 0
        self.took = Histogram()  # each round that worked
        self._worked_at = self._said_at = time.monotonic()
        self._said = (0, 0)

    def worked(self, items: int, began_at: float) -> None:
        """A round is over that began at began_at, monotonic seconds."""
        self._worked_at = time.monotonic()
        self.items_total += items
        self.took.add(self._worked_at - began_at)
        if self._worked_at - self._said_at >= SAY_EVERY_S:
            self.say()

    def say(self) -> None:
        """Log what was done since this was last said, if it was anything."""
        items, errors = self._said
        self._said_at, self._said = time.monotonic(), (self.items_total, self.errors_total)
        if self._said != (items, errors):
            log.info(
                "worker has worked",
                worker=self.name,
                items=self.items_total - items,
                errors=self.errors_total - errors,
            )

    @property
    def age_s(self) -> float:
        """Seconds since the last round that worked, or since the start if none has."""
        return time.monotonic() - self._worked_at


async def run_rounds(
    rounds: Rounds,
    run_once: Callable[[], Awaitable[int]],
    *,
    full: int,
    pause_s: float = POLL_S,
) -> None:
    """Call run_once for ever, with pauses; ready after the first that works.

    run_once returns how much it found. A round that found `full` is followed by the next at once:
    there is more.
    """
    ready = False
    while True:
        began_at = time.monotonic()
        try:
            found = await run_once()
        except Problem as error:
            log.warning("worker waits", error=repr(error))
            rounds.errors_total += 1
            found = 0
        else:
            rounds.worked(found, began_at)
            if not ready:
                ready = True
                mark_ready()
        if found < full:
            await asyncio.sleep(pause_s)
