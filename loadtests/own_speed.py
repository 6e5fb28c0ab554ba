"""How fast the open loop itself is: requests a second of one core, before a fast fixed answer.

By hand: python -m loadtests.own_speed. Exit code 1: it does not reach the aim.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from loadtests import peers
from loadtests.generator import open_loop
from loadtests.options import positive
from loadtests.pinning import choose, on_core
from loadtests.programs import running
from loadtests.recorder import Recorder
from loadtests.report import print_table
from loadtests.result import NO_PEER, RESULTS, Row, write
from loadtests.schedule import constant
from loadtests.shop import Requests
from loadtests.sides import scratch
from loadtests.story import Check, Story
from services.keepalive import Pool

AIM: Final = 15_000.0  # requests a second
RATES: Final = (5_000.0, 10_000.0, 15_000.0, 20_000.0, 25_000.0)
CONNECTIONS: Final = 64
TIMEOUT_S: Final = 5.0


class Speed(NamedTuple):
    """One rate. cpu_us: of this process, for each request."""

    rate: float
    answered: int
    unsent: int
    cpu_us: float
    p99_ms: float
    late_ms: float

    @property
    def possible(self) -> float:
        """Requests a second, if the core were its own."""
        return 1e6 / self.cpu_us


async def measure(rates: Sequence[float], seconds: float) -> list[Speed]:
    cores, found = choose(), []
    with scratch() as folder, on_core(cores.generator):
        name, launch = await peers.fixed_upstream(folder)
        print(f"{cores}; the fixed answer comes from {name}")
        async with running(launch, cores.server, folder / "fixed.log") as server:
            for rate in rates:
                found.append(await _at(server.url(""), rate, seconds))
    return found


async def _at(url: str, rate: float, seconds: float) -> Speed:
    pool, recorder = Pool.to(url, size=CONNECTIONS), Recorder("fixed answer")
    before_s = time.process_time()
    try:
        send = Requests(pool, "GET", "/", "")
        await open_loop(constant(rate, seconds), send, recorder, timeout_s=TIMEOUT_S)
    finally:
        await pool.aclose()
    cpu_s = time.process_time() - before_s
    return Speed(
        rate,
        recorder.answered,
        recorder.unsent,
        cpu_s * 1e6 / max(1, recorder.sent),
        recorder.percentile_ms(99),
        recorder.late_us / 1000,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.own_speed", description=__doc__)
    parser.add_argument("--seconds", type=positive, default=2.0, help="of each rate")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    chosen, started_at = parser.parse_args(arguments), datetime.now(UTC)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(RATES, chosen.seconds))
    heads = [
        "asked for",
        "answered/s",
        "unsent",
        "CPU us each",
        "a core could",
        "p99 ms",
        "late ms",
    ]
    print_table(
        heads,
        [
            [
                f"{one.rate:,.0f}/s",
                f"{one.answered / chosen.seconds:,.0f}",
                f"{one.unsent:,}",
                f"{one.cpu_us:.1f}",
                f"{one.possible:,.0f}/s",
                f"{one.p99_ms:.1f}",
                f"{one.late_ms:.1f}",
            ]
            for one in found
        ],
    )
    best = max(one.possible for one in found)
    check = Check(
        f"the generator can send >= {AIM:,.0f}/s of a core", best >= AIM, f"{best:,.0f}/s"
    )
    rows = [
        Row(f"open loop at {one.rate:,.0f}/s", round(one.cpu_us, 2), "CPU us each", note=NO_PEER)
        for one in found
    ]
    path = write(
        "own-speed",
        rows,
        settings={"seconds": chosen.seconds, "connections": CONNECTIONS},
        started_at=started_at,
        folder=chosen.results,
        story=Story("python -m loadtests.own_speed", checks=[check]),
    )
    print(
        f"\n{'held' if check.held else 'MISSED'}: {check.what} ({check.detail})\nwritten to {path}"
    )
    return 0 if check.held else 1


if __name__ == "__main__":
    sys.exit(main())
