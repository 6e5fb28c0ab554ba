"""Faults of processes, by hand: loadtests/parts.py has them.

python -m tests.faults.parts [--data-dir .tercet] kill|pause|resume|restart|wait NAME
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from infra.local.folder import DEFAULT_DATA_DIR, NotRunningError
from loadtests.parts import HEALTHY_WITHIN_S, Parts, Seen, UnknownPartError

__all__ = ["HEALTHY_WITHIN_S", "Parts", "Seen", "UnknownPartError"]


async def _obey(parts: Parts, verb: str, name: str) -> str:
    if verb == "kill":
        return f"killed {name}, pid {parts.kill(name)}"
    if verb == "pause":
        return f"paused {name}, pids {parts.pause(name)}"
    if verb == "resume":
        parts.resume(name)
        return f"resumed {name}"
    took_s = await (parts.restart(name) if verb == "restart" else parts.wait_until_healthy(name))
    return f"{name} is healthy after {took_s:.2f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.parts", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR)
    parser.add_argument("verb", choices=["kill", "pause", "resume", "restart", "wait"])
    parser.add_argument("name")
    options = parser.parse_args()
    try:
        said = asyncio.run(_obey(Parts(options.data_dir), options.verb, options.name))
    except (NotRunningError, UnknownPartError, AssertionError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return os.EX_UNAVAILABLE
    print(said)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
