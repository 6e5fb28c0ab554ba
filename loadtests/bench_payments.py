"""`make bench-payments`: paying and claiming through all three tiers, and pgbench, by turns.

Exit code 0: all was measured, whether the aims are met or not; 1: something broke, and its rows
are missing; 2: an option makes no sense. docs/benchmarks.md says how it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from infra.local.addresses import free_port
from infra.local.folder import DataFolder
from loadtests.bench_access import EXIT_INTERRUPTED
from loadtests.data_stack import DataStack
from loadtests.options import names, not_negative, positive, setting, whole
from loadtests.payments_goods import make_goods, prove
from loadtests.payments_works import WORKS, Bench
from loadtests.pinning import Cores, choose, on_core
from loadtests.programs import BrokenRunError, Launch, Program, running
from loadtests.report import conclude
from loadtests.result import RESULTS, Row
from loadtests.sides import scratch

START_S: Final = 180.0  # a database is made, all on one core
STOP_S: Final = 20.0
POLL_S: Final = 0.1
PLACES: Final = ("results", "data_dir")  # of no interest to who reads a result
BROKEN: Final = (BrokenRunError, TimeoutError, OSError, ValueError, asyncpg.PostgresError)
# One client is all customers here, and as many requests as it has connections reach business:
# each of them may be in the batch of the others. The provider answers at once, so what it would
# tell by a webhook as well is not told: that would be a second request for every payment.
SETTINGS: Final = {
    "TERCET_CUSTOMER_RATES": "",
    "TERCET_CHECKOUT_POOL_SIZE": "64",
    "TERCET_WEBHOOK_URL": "",
}
Works = Mapping[str, Callable[[Bench], Awaitable[list[Row]]]]
# QUICK=1: enough to see that all works, not enough to believe the ratios.
QUICK: Final = {"rounds": 1, "seconds": 2.0, "warm_up_s": 0.5}


async def run(options: argparse.Namespace, works: Works = WORKS) -> tuple[list[Row], list[str]]:
    """The rows of the works that could be measured, and why others could not."""
    rows: list[Row] = []
    failures: list[str] = []
    task = asyncio.current_task()
    if task is not None:  # so that a SIGTERM ends what was started, as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    cores = choose()
    print(f"{cores}; pgbench and the provider are on the generator's")
    with scratch() as folder, on_core(cores.generator):
        async with _stack(options, cores, folder) as (stack, access):
            _on_the_generators_core(stack, cores)
            bench = Bench(
                stack,
                access,
                await make_goods(stack),
                cores,
                options.rounds,
                options.seconds,
                options.warm_up_s,
                options.connections,
                folder,
            )
            for name in options.only:
                print(f"measuring: {name}", flush=True)
                try:
                    rows += await works[name](bench)
                    await prove(stack)
                except BROKEN as error:
                    failures.append(f"{name}: {str(error) or type(error).__name__}")
    return rows, failures


@asynccontextmanager
async def _stack(
    options: argparse.Namespace, cores: Cores, folder: Path
) -> AsyncIterator[tuple[DataStack, Program]]:
    """The whole stack on the server's core, or one that runs already."""
    if options.data_dir is not None:
        data = DataFolder.at(options.data_dir)
        state = data.running_state()
        yield DataStack(data), Program(state["guard"]["pid"], urlsplit(state["url"]).port or 80)
        return
    print("starting the stack", flush=True)
    port, data = free_port(), DataFolder.at(folder / "data")
    command = [sys.executable, "-m", "infra.cli", "up", "--port", str(port)]
    command += ["--data-dir", str(data.root), "--products", "10"]
    environment = {"TERCET_LOG_LEVEL": "WARNING", **SETTINGS, **dict(options.setting)}
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


def add_options(parser: argparse.ArgumentParser, works: Works, *, connections: int) -> None:
    """What every load of the whole stack can be told."""
    add = parser.add_argument
    add("--only", type=names(list(works)), default=list(works), metavar=",".join(works))
    add("--rounds", type=whole, default=5)
    add("--seconds", type=positive, default=3.0, help="of each side in each round; pgbench: whole")
    add("--warm-up-s", type=not_negative, default=2.0, help="before a work, not measured")
    add("--connections", type=whole, default=connections, help="and clients of pgbench")
    add(
        "--setting",
        type=setting,
        action="append",
        default=[],
        metavar="TERCET_…=VALUE",
        help="of the stack instead of its default, recorded in the result; may be given again",
    )
    add("--data-dir", type=Path, help="of a running stack to use instead of a new one")
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    if os.environ.get("QUICK", "") not in ("", "0"):
        parser.set_defaults(**QUICK)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_payments", description=__doc__)
    add_options(parser, WORKS, connections=64)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    return measure("bench-payments", read_options(arguments), WORKS)


def measure(name: str, options: argparse.Namespace, works: Works) -> int:
    """Measure, print and write; returns the exit code."""
    started_at = datetime.now(UTC)
    try:
        rows, failures = asyncio.run(run(options, works))
    except BrokenRunError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: nothing is written", file=sys.stderr)
        return EXIT_INTERRUPTED
    settings = {name: value for name, value in vars(options).items() if name not in PLACES} | {
        "setting": SETTINGS | dict(options.setting),
    }
    return conclude(
        name,
        rows,
        failures,
        settings=settings,
        started_at=started_at,
        folder=options.results,
    )


if __name__ == "__main__":
    sys.exit(main())
