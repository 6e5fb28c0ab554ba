"""The workers: business without a port, one process each, several copies allowed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

from services.business import expiry, outbox, reconcile
from services.business.shop import Shop, open_shop
from services.settings import WorkerSettings
from services.telemetry import configure_logging

WORKERS: Final[dict[str, Callable[[Shop], Awaitable[None]]]] = {
    "outbox": outbox.run,
    "reconcile": reconcile.run,
    "expiry": expiry.run,
}


def serve(name: str, settings: WorkerSettings) -> None:
    """Run one worker until SIGTERM or SIGINT; what it has begun is finished."""
    configure_logging(f"worker {name}", settings)
    uvloop.run(_serve(name, settings))


async def _serve(name: str, settings: WorkerSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with open_shop(settings) as shop:
        work = asyncio.ensure_future(WORKERS[name](shop))
        stop = asyncio.create_task(stopped.wait())
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        stop.cancel()
        results = await asyncio.gather(work, stop, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
