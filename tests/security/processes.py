"""Processes of the project's own, started by a test with settings that it chooses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.local.processes import tied_to_this_process
from tests.running_stack import RunningStack


def environment_of(stack: RunningStack, **changes: str) -> dict[str, str]:
    """How a process reaches that stack, with nothing else of Tercet's from this one's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TERCET_")}
    # Laboratories charge at the stack's provider for databases of their own: none of its orphans.
    no_orphans = {"TERCET_RETURN_ORPHAN_CHARGES": "false"}
    return {**clean, **stack.environment, **no_orphans, **changes}


@contextmanager
def process(
    *arguments: str, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m infra.process …` until the block ends; it ends with this process too."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "infra.process", *arguments],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=tied_to_this_process(signal.SIGKILL),  # noqa: PLW1509  # no other threads here
        )
    try:
        yield running
    finally:
        running.kill()  # how it stops is tested elsewhere
        running.wait()
