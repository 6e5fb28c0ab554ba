"""`make bench-payments`: paying and claiming through all three tiers, and pgbench, by turns.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from infra.local.addresses import free_port
from infra.local.folder import DataFolder
from loadtests import options
from loadtests.benchmark import Found, by_turns, measured, stop_as_asked
from loadtests.data_stack import DataStack
from loadtests.options import not_negative, positive, whole
from loadtests.payments_goods import make_goods, prove
from loadtests.payments_works import WORKS, Bench
from loadtests.pinning import Cores, choose, on_core
from loadtests.programs import BrokenRunError, Launch, Program, running
from loadtests.result import Row
from loadtests.sides import scratch

START_S: Final = 180.0  # a database is made, all on one core
STOP_S: Final = 20.0
POLL_S: Final = 0.1
BROKEN: Final = (BrokenRunError, TimeoutError, OSError, ValueError, asyncpg.PostgresError)
# One client is all customers here, and as many requests as it has connections reach business:
# each of them may be in the batch of the others. The provider answers at once, so what it would
# tell by a webhook as well is not told: that would be a second request for every payment.
SETTINGS: Final = {
    "TERCET_CUSTOMER_RATES": "",
    "TERCET_CHECKOUT_POOL_SIZE": "64",
    "TERCET_WEBHOOK_URL": "",
}
Work = Callable[[Bench], Awaitable[list[Row]]]
Works = Mapping[str, Work]
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 2.0, "warm_up_s": 0.5}


async def run(chosen: argparse.Namespace, works: Works = WORKS) -> Found:
    """The rows of the works that could be measured, and why others could not."""
    stop_as_asked()
    cores = choose()
    print(f"{cores}; pgbench and the provider are on the generator's")
    with scratch() as folder, on_core(cores.generator):
        async with _stack(chosen, cores, folder) as (stack, access):
            _on_the_generators_core(stack, cores)
            bench = Bench(
                stack,
                access,
                await make_goods(stack),
                cores,
                chosen.rounds,
                chosen.seconds,
                chosen.warm_up_s,
                chosen.connections,
                folder,
            )
            proved = {name: _proved(work) for name, work in works.items()}
            return await by_turns(proved, chosen.only, bench, BROKEN)


def _proved(work: Work) -> Work:
    """The same, and nothing of it counts if the books are wrong afterwards."""

    async def run_and_prove(bench: Bench) -> list[Row]:
        rows = await work(bench)
        await prove(bench.stack)
        return rows

    return run_and_prove


@asynccontextmanager
async def _stack(
    chosen: argparse.Namespace, cores: Cores, folder: Path
) -> AsyncIterator[tuple[DataStack, Program]]:
    """The whole stack on the server's core, or one that runs already."""
    if chosen.data_dir is not None:
        data = DataFolder.at(chosen.data_dir)
        state = data.running_state()
        yield DataStack(data), Program(state["guard"]["pid"], urlsplit(state["url"]).port or 80)
        return
    print("starting the stack", flush=True)
    port, data = free_port(), DataFolder.at(folder / "data")
    command = [sys.executable, "-m", "infra.cli", "up", "--port", str(port)]
    command += ["--data-dir", str(data.root), "--products", "10"]
    environment = {"TERCET_LOG_LEVEL": "WARNING", **SETTINGS, **dict(chosen.setting)}
    launch = Launch(
        command, port, environment, ready_path="/ready", ready_within_s=START_S,
        stop_within_s=STOP_S,
    )  # fmt: skip
    async with running(launch, cores.server, folder / "up.log") as access:
        async with asyncio.timeout(START_S):
            while data.read_state()["phase"] != "ready":  # noqa: ASYNC110  # another process says it
                await asyncio.sleep(POLL_S)
        yield DataStack(data), access


def _on_the_generators_core(stack: DataStack, cores: Cores) -> None:
    """The provider is somebody else's, and so is its machine."""
    parts = {part["name"]: part["pid"] for part in stack.folder.running_state()["parts"]}
    if cores.generator is not None and parts.get("provider"):
        for task in Path(f"/proc/{parts['provider']}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cores.generator})


def read(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    works: Works,
    *,
    connections: int,
) -> argparse.Namespace:
    """The options that every load of the whole stack has."""
    options.add_works(parser, works)
    add = parser.add_argument
    add("--seconds", type=positive, default=3.0, help="of each side in each round; pgbench: whole")
    add("--warm-up-s", type=not_negative, default=2.0, help="before a work, not measured")
    add("--connections", type=whole, default=connections, help="and clients of pgbench")
    options.add_setting(parser, "the stack")
    options.add_data_dir(parser)
    return options.read(parser, arguments, QUICK)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser_of("bench_payments", __doc__)
    return read(parser, arguments, WORKS, connections=64)


def main(arguments: Sequence[str] | None = None) -> int:
    return measure("bench-payments", read_options(arguments), WORKS)


def measure(name: str, chosen: argparse.Namespace, works: Works) -> int:
    """Measure, print and write; returns the exit code."""
    settings = {"setting": SETTINGS | dict(chosen.setting)}
    return measured(name, chosen, run(chosen, works), settings)


if __name__ == "__main__":
    sys.exit(main())
