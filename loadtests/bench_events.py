"""`make bench-events`: behaviour events taken, counted and not lost, against the usual way.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from infra.local.addresses import free_port
from infra.local.folder import DataFolder
from loadtests import options
from loadtests.benchmark import Found, by_turns, measured, stop_as_asked
from loadtests.data_stack import DataStack
from loadtests.events_works import WORKS, Bench
from loadtests.options import positive, whole
from loadtests.pinning import Cores, choose, on_core
from loadtests.programs import BrokenRunError, Launch, Program, running
from loadtests.sides import scratch

START_S: Final = 180.0  # a database is made, all on one core
STOP_S: Final = 20.0
POLL_S: Final = 0.1
BROKEN: Final = (BrokenRunError, TimeoutError, OSError, EOFError, asyncpg.PostgresError)
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 1.0, "soak_s": 4.0}


async def run(chosen: argparse.Namespace) -> Found:
    """The rows of the works that could be measured, and why others could not."""
    stop_as_asked()
    cores = choose()
    print(f"{cores}; the log of events is on the server's")
    with scratch() as folder, on_core(cores.generator):
        bench = Bench(
            cores,
            chosen.rounds,
            chosen.seconds,
            chosen.soak_s,
            chosen.connections,
            chosen.batch,
            folder,
            lambda: _stack(cores, folder),
        )
        return await by_turns(WORKS, chosen.only, bench, BROKEN)


@asynccontextmanager
async def _stack(cores: Cores, folder: Path) -> AsyncIterator[tuple[DataStack, Program]]:
    """The whole stack on the server's core."""
    print("starting the stack", flush=True)
    port, data = free_port(), DataFolder.at(folder / "data")
    command = [sys.executable, "-m", "infra.cli", "up", "--port", str(port)]
    command += ["--data-dir", str(data.root), "--products", "1000"]
    launch = Launch(
        command, port, {"TERCET_LOG_LEVEL": "WARNING"}, ready_path="/ready",
        ready_within_s=START_S, stop_within_s=STOP_S,
    )  # fmt: skip
    async with running(launch, cores.server, folder / "up.log") as access:
        async with asyncio.timeout(START_S):
            while data.read_state()["phase"] != "ready":  # noqa: ASYNC110  # another process says it
                await asyncio.sleep(POLL_S)
        yield DataStack(data), access


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("bench_events", __doc__)
    options.add_works(parser, WORKS, of="of take")
    add = parser.add_argument
    add("--seconds", type=positive, default=3.0, help="of each side in each round")
    add("--soak-s", type=positive, default=30.0, help="of steady load, for memory and probes")
    add("--connections", type=whole, default=32)
    add("--batch", type=whole, default=50, help="events of a batch, at most 100")
    return options.read(parser, arguments, QUICK)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = read_options(arguments)
    return measured("bench-events", chosen, run(chosen), {})


if __name__ == "__main__":
    sys.exit(main())
