"""What the benchmarks do alike: works by turns, a stop in good order, and the result."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from loadtests.programs import BrokenRunError
from loadtests.report import conclude
from loadtests.result import Row

B = TypeVar("B")
Found = tuple[list[Row], list[str]]

EXIT_INTERRUPTED: Final = 130  # what a shell says of a program that Ctrl-C ended
PLACES: Final = ("results", "data_dir")  # of no interest to who reads a result
BROKEN: Final = (BrokenRunError, TimeoutError, OSError, ValueError)


def stop_as_asked() -> None:
    """Have a SIGTERM end what the task of now has started, as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def by_turns(
    works: Mapping[str, Callable[[B], Awaitable[list[Row]]]],
    names: Iterable[str],
    bench: B,
    broken: tuple[type[Exception], ...] = BROKEN,
) -> Found:
    """The rows of the works that could be measured, and why others could not."""
    rows: list[Row] = []
    failures: list[str] = []
    for name in names:
        print(f"measuring: {name}", flush=True)
        try:
            rows += await works[name](bench)
        except broken as error:
            failures.append(f"{name}: {str(error) or type(error).__name__}")
    return rows, failures


def measured(
    name: str,
    options: argparse.Namespace,
    work: Coroutine[Any, Any, Found],
    settings: Mapping[str, object],
    runner: Callable[[Coroutine[Any, Any, Found]], Found] = asyncio.run,
) -> int:
    """Do it, print and write what was found; the exit code. settings: beside the options."""
    started_at = datetime.now(UTC)
    try:
        rows, failures = runner(work)
    except BrokenRunError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted()
    chosen = {key: value for key, value in vars(options).items() if key not in PLACES}
    return conclude(
        name,
        rows,
        failures,
        settings={**chosen, **settings},
        started_at=started_at,
        folder=options.results,
    )


def interrupted() -> int:
    """Say so; the exit code."""
    print("interrupted: nothing is written", file=sys.stderr)
    return EXIT_INTERRUPTED
