"""Which core the measured server has and which the generator, and how a process gets there."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """One core each; None where this machine has only one or can not pin."""

    server: int | None
    generator: int | None

    @property
    def pinned(self) -> bool:
        return self.server is not None

    def __str__(self) -> str:
        if not self.pinned:
            return "server and generator share what cores there are: ratios are of little worth"
        return f"server on core {self.server}, generator on core {self.generator}"


def choose() -> Cores:
    """The last core this process may use for the server, and the first for the generator."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return Cores(allowed[-1], allowed[0]) if len(allowed) > 1 else Cores(None, None)


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Seconds a core has spent since the machine started."""

    idle_s: float
    interrupts_s: float  # packets on their way are worked on here, whoever sends them
    other_s: float  # programs, and what a hypervisor took away

    def since(self, before: CoreTimes) -> CoreTimes:
        return CoreTimes(
            self.idle_s - before.idle_s,
            self.interrupts_s - before.interrupts_s,
            self.other_s - before.other_s,
        )


def core_times(core: int) -> CoreTimes:
    """What /proc/stat says (proc_stat(5)); zeros where it says nothing of that core."""
    with suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name == f"cpu{core}":
                user, nice, system, idle, waiting, irq, soft, stolen = map(int, ticks[:8])
                second = os.sysconf("SC_CLK_TCK")
                return CoreTimes(
                    (idle + waiting) / second,
                    (irq + soft) / second,
                    (user + nice + system + stolen) / second,
                )
    return CoreTimes(0.0, 0.0, 0.0)


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Put this process on a core for a while: what it starts meanwhile stays there.

    Set before the start, because a runtime may make its threads before it could be moved.
    """
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Allow as many open files as this user may have, for this process and what it starts."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
    return highest
