"""access before the real shop: a page that is not held, through all three tiers. Reported only."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from typing import Final

from infra.local.addresses import free_port
from loadtests.comparison import OURS, remark
from loadtests.measure import Figures, Load
from loadtests.programs import BrokenRunError, Launch, Program, ask, running
from loadtests.result import NO_PEER, Row
from loadtests.shop import page_target
from loadtests.sides import Bench, scratch

PRODUCTS: Final = "300"
START_S: Final = 120.0  # a database is made and a catalog loaded, all on one core
STOP_S: Final = 20.0
# Twice as many as access lets in at once where all is on one core: more are refused in a moment,
# as they should be, and this is to show the price of an answer.
CONNECTIONS: Final = 8
REFUSED_ALLOWED: Final = 0.05
ON_ONE_CORE: Final = f"{NO_PEER}: the whole stack on the server's core"


async def end_to_end(bench: Bench) -> list[Row]:
    """The stock of a product, which nobody may hold, and beside it the held page of the same."""
    with scratch() as folder:
        port = free_port()
        command = [sys.executable, "-m", "infra.cli", "up", "--port", str(port)]
        command += ["--data-dir", str(folder / "data"), "--products", PRODUCTS]
        launch = Launch(
            command, port, ready_path="/ready", ready_within_s=START_S, stop_within_s=STOP_S
        )
        async with running(launch, bench.meter.cores.server, folder / "up.log") as stack:
            page = page_target(await _first_slug(stack))
            rows: list[Row] = []
            for work, path in (("stock, not held", f"{page}/stock"), ("product page", page)):
                load = Load(path, CONNECTIONS, errors_allowed=REFUSED_ALLOWED)
                figures = [await bench.meter.measure(stack, load) for _ in range(bench.rounds)]
                rows += _rows(f"end to end, {work}, c={CONNECTIONS}", figures)
            return rows


async def _first_slug(stack: Program) -> str:
    status, _, body = await ask(stack, "/products")
    if status != 200:
        raise BrokenRunError(f"/products answers {status}: {body[:200]!r}")
    return str(json.loads(body)["items"][0]["slug"])


def _rows(work: str, figures: Sequence[Figures]) -> list[Row]:
    failures = remark(OURS, figures)
    note = f"{ON_ONE_CORE}; {failures}" if failures else ON_ONE_CORE
    rate, p99_ms, cpu_us = (
        round(statistics.median(values), 3)
        for values in zip(*((one.rate, one.p99_ms, one.cpu_us) for one in figures), strict=True)
    )
    return [
        Row(work, rate, "req/s", note=note),
        Row(f"{work}, p99", p99_ms, "ms", note=note),
        Row(f"{work}, CPU of all tiers", cpu_us, "us a request", note=note),
    ]
