"""How near a process is to its memory limit, and what is given up before it is reached.

The kernel ends a process at the limit of its container, with every connection it has. The steps
are those of Envoy's overload manager: first what costs memory and nobody misses, then new work.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from services.telemetry import logger

log = logger(__name__)

# Part of the limit at which a step begins, and at which it ends again.
STEPS: Final = ((0.85, 0.80), (0.95, 0.90))
HELD_PART: Final = 2  # each look above the first step halves what pages may take
STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Memory that this process has now; 0 where the system does not tell."""
    with suppress(OSError):
        return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Memory:
    """pressure 0: none; 1: no keep-alive, fewer pages; 2: no more work.

    Looked at ten times a second, for 10 microseconds: access can take 30 MB in a tenth of one.
    """

    def __init__(self, limit_bytes: int, resident: Callable[[], int] = resident_bytes) -> None:
        self.limit_bytes = limit_bytes
        self.resident_bytes = 0
        self.pressure = 0
        self.rising = False  # above the first step, not only not yet below its end
        self._resident = resident

    def look(self) -> bool:
        """Measure; true when the pressure has changed."""
        self.resident_bytes = self._resident()
        if not self.limit_bytes:
            return False
        before = self.pressure
        part = self.resident_bytes / self.limit_bytes
        self.rising = part > STEPS[0][0]
        while self.pressure < len(STEPS) and part > STEPS[self.pressure][0]:
            self.pressure += 1
        while self.pressure and part < STEPS[self.pressure - 1][1]:
            self.pressure -= 1
        if self.pressure == before:
            return False
        log.warning(
            "memory", pressure=self.pressure, bytes=self.resident_bytes, limit=self.limit_bytes
        )
        return True


def give_back() -> None:
    """Hand memory that was freed back to the system, which glibc does late by itself."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another libc
            ctypes.CDLL(None).malloc_trim(0)
