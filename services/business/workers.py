"""The workers: business without a port, one process each, several copies allowed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import uvloop

from services import listener
from services.business import expiry, live, mailing, outbox, reconcile, rollups, webhooks
from services.business.metrics import report_of_worker
from services.business.shop import Shop, open_shop
from services.internal import InternalServer
from services.settings import WorkerSettings
from services.tasks import end_tasks
from services.telemetry import configure_logging, logger

log = logger(__name__)

EXIT_NOT_STARTED: Final = 3  # as uvicorn has it
INTERNAL_BACKLOG: Final = 16

WORKERS: Final[dict[str, Callable[[Shop], Coroutine[Any, Any, None]]]] = {
    "outbox": outbox.run,
    "reconcile": reconcile.run,
    "expiry": expiry.run,
    "webhooks": webhooks.run,
    "live": live.run,
    "mails": mailing.run,
    "rollups": rollups.run,
}


def serve(name: str, settings: WorkerSettings) -> None:
    """Run one worker until SIGTERM or SIGINT.

    A transaction that is open then is rolled back, and what was claimed is left to the next one.
    """
    configure_logging(f"worker {name}", settings)
    uvloop.run(_serve(name, settings))


async def _serve(name: str, settings: WorkerSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with open_shop(settings) as shop, _watched(shop, settings):
        work = asyncio.create_task(WORKERS[name](shop))
        stop = asyncio.create_task(stopped.wait())
        ended, _ = await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(work, stop)
        shop.rounds_of(name).say()
        log.info("worker stops", worker=name)
        if work in ended:
            work.result()  # a worker ends by itself only by what it raises


@asynccontextmanager
async def _watched(shop: Shop, settings: WorkerSettings) -> AsyncIterator[None]:
    """GET /metrics on a port of the worker's own, and a watch on its loop."""
    internal = InternalServer(report_of_worker(shop).text)
    if settings.worker_internal_port:
        host, port = settings.worker_internal_host, settings.worker_internal_port
        try:
            await internal.listen(listener.listen(host, port, INTERNAL_BACKLOG))
        except listener.ListenError as error:
            log.error("not started", reason=str(error))
            raise SystemExit(EXIT_NOT_STARTED) from None
    shop.watchdog.start()
    try:
        yield
    finally:
        shop.watchdog.stop()
        internal.close()
