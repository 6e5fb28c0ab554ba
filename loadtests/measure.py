"""One measurement: a closed load on one server, by wrk or by the loop in loadtests.closed."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from loadtests import wrk
from loadtests.pinning import Cores, core_times
from loadtests.programs import BrokenRunError, Program, output_of

GENERATORS: Final = ("wrk", "own")
Generator = Literal["wrk", "own"]
# For each answer. More, and the rate is that of a server that fails, which is quick.
ERRORS_ALLOWED: Final = 0.001


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server: one address, that many connections, each one closed or kept.

    targets_file: has targets, one a line, that are asked for in turn instead of path.
    """

    path: str
    connections: int
    close: bool = False
    errors_allowed: float = ERRORS_ALLOWED
    targets_file: Path | None = None
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it."""

    rate: float  # answers a second
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float  # of the server and what it started, for each answer
    idle: float = 0.0  # share of its core that nobody used
    others: float = 0.0  # share of its core that other programs took


@dataclass(frozen=True, slots=True)
class Meter:
    """How a server is measured in this run."""

    generator: Generator
    cores: Cores
    seconds: float
    warm_up_s: float

    async def measure(self, server: Program, load: Load) -> Figures:
        """Warm up, then measure. BrokenRunError when too much failed for the figure to count."""
        if self.warm_up_s:
            await self._run(server, load, self.warm_up_s)
        return await self._run(server, load, self.seconds)

    async def _run(self, server: Program, load: Load, seconds: float) -> Figures:
        url, watch = server.url(load.path), Watch(server, self.cores.server)
        if self.generator == "wrk":
            command = wrk.command(
                url,
                connections=load.connections,
                seconds=seconds,
                close=load.close,
                headers=load.headers,
                targets_file=load.targets_file,
            )
            rate, answers, p50_ms, p99_ms, errors = wrk.read(
                await output_of(command, self.cores.generator)
            )
        else:
            outcome = json.loads(await output_of(_own(url, load, seconds), self.cores.generator))
            answers, errors = outcome["answers"], outcome["errors"]
            p50_ms, p99_ms = outcome["p50_ms"], outcome["p99_ms"]
            rate = answers / outcome["seconds"]
        failed = sum(errors.values())
        if not answers or failed > answers * load.errors_allowed:
            raise BrokenRunError(f"{url}: {answers} answers and {failed} errors: {errors}")
        cpu_s, idle, others = watch.read(answers / rate)
        return Figures(rate, p50_ms, p99_ms, failed, cpu_s * 1e6 / answers, idle, others)


class Watch:
    """What a server and its core do from now on."""

    def __init__(self, server: Program, core: int | None) -> None:
        self._server, self._core = server, core
        self._cpu_s, self._began_at = server.cpu_s(), time.monotonic()
        self._times = core_times(core) if core is not None else None

    def read(self, loaded_s: float) -> tuple[float, float, float]:
        """The server's CPU seconds, and of its core the idle share and that of other programs.

        The core was idle before and after the load, too, which lasted `loaded_s`. The kernel looks
        at what a core does a hundred times a second and misses what is over sooner: a core that
        has answered in between was not idle then.
        """
        cpu_s = self._server.cpu_s() - self._cpu_s
        if self._core is None or self._times is None:
            return cpu_s, 0.0, 0.0
        times = core_times(self._core).since(self._times)
        around_s = max(0.0, time.monotonic() - self._began_at - loaded_s)
        idle_s = max(0.0, min(times.idle_s - around_s, loaded_s - cpu_s))
        others_s = max(0.0, times.other_s - cpu_s)
        return cpu_s, idle_s / loaded_s, others_s / loaded_s


def _own(url: str, load: Load, seconds: float) -> list[str]:
    return [
        *(sys.executable, "-m", "loadtests.closed", "--url", url),
        *("--connections", str(load.connections), "--seconds", str(seconds)),
        *(["--close"] if load.close else []),
        *([f"--targets={load.targets_file}"] if load.targets_file else []),
        *(f"--header={name}: {value}" for name, value in load.headers),
    ]


def find_generator(wanted: str) -> Generator:
    """wrk where it is installed, unless another one was asked for."""
    if wanted == "own" or (wanted == "auto" and shutil.which("wrk") is None):
        return "own"
    if shutil.which("wrk") is None:
        raise BrokenRunError("wrk is not installed; --generator own needs nothing")
    return "wrk"
