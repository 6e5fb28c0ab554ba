"""Fetches under way, one a page: everybody who needs the page waits for the same one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from services.access.page import Page
from services.access.purges import Purges
from services.access.refill import Fetch, Fetched, fetch_new
from services.deadline import Deadline
from services.exchange import Response
from services.problems import GatewayTimeout, InternalError, Problem, Unavailable
from services.telemetry import logger

log = logger(__name__)

# Who could be given an old page waits this long for the new one; a business that hangs is failing.
PATIENCE_S: Final = 2.0


class Landed(NamedTuple):
    """A fetch ended with a page for everybody who waits."""

    page: Page
    said: bytes  # for the Cache-Status of whoever led


class Failed(NamedTuple):
    """A fetch ended without one."""

    cause: Problem | Response


Outcome = Landed | Failed | Response  # a Response is for the leader alone


class Flights:
    """At most one fetch a target. land takes what a fetch brought and says what comes of it."""

    def __init__(
        self,
        fetch: Fetch,
        purges: Purges,
        budget_s: float,
        land: Callable[[bytes, Page | None, Fetched | Response], Outcome],
    ) -> None:
        self.begun_total = 0
        self._fetch = fetch
        self._purges = purges
        self._budget_s = budget_s
        self._land = land
        self._flights: dict[bytes, asyncio.Task[Outcome]] = {}

    def of(self, target: bytes) -> asyncio.Task[Outcome] | None:
        return self._flights.get(target)

    def begin(self, target: bytes, page: Page | None) -> asyncio.Task[Outcome]:
        """Begin the one fetch of a page; its task ends for nobody's leaving, and never raises."""
        self.begun_total += 1
        flight = asyncio.create_task(self._fly(target, page))
        self._flights[target] = flight
        return flight

    async def _fly(self, target: bytes, page: Page | None) -> Outcome:
        try:
            async with asyncio.timeout(self._budget_s):
                deadline = Deadline.after(self._budget_s)
                found = await fetch_new(self._fetch, self._purges, target, page, deadline)
            outcome = self._land(target, page, found)
        except Problem as problem:
            outcome = Failed(problem)
        except TimeoutError:
            outcome = Failed(GatewayTimeout())
        except asyncio.CancelledError:
            outcome = Failed(Unavailable("This server is stopping.", retry_after_s=1))
        except Exception:
            log.exception("bug", target=target.decode("latin-1"))
            outcome = Failed(InternalError())
        # From here on nobody joins this fetch: what follows asks for what is newer.
        del self._flights[target]
        if isinstance(outcome, Failed) and page is not None and _is_failure(outcome.cause):
            page.fetch_failed(time.monotonic())
        return outcome

    async def joined(
        self, flight: asyncio.Task[Outcome], held: Page | None, deadline: Deadline
    ) -> Outcome:
        """Wait for a fetch, by this caller's own deadline."""
        patience_s = deadline.left_s()
        usable = held is not None and time.monotonic() < held.error_until
        if usable:
            patience_s = min(PATIENCE_S, 0.9 * patience_s)
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.shield(flight)
        except TimeoutError:
            if held is not None and usable:
                held.fetch_failed(time.monotonic())
            return Failed(GatewayTimeout())

    async def aclose(self) -> None:
        """End them; whoever still waits is told so."""
        await asyncio.sleep(0)  # a task that has not begun could not tell anybody
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        if flights:
            await asyncio.wait(flights)


def _is_failure(cause: Problem | Response) -> bool:
    """Whether an old page is better than this; a refusal of our own has to be told."""
    return isinstance(cause, Response) or cause.status >= 500
