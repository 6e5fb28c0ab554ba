"""Memory and CPU time of each part of a stack, read from the kernel by process id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from infra.local.processes import memory_bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """A part's memory (proportional set size, children included) and the CPU seconds it took."""

    name: str
    memory_bytes: int
    cpu_s: float | None  # None: its process was replaced meanwhile


class UsageMeter:
    """Reads the parts' CPU time now, and again at the end."""

    def __init__(self, parts: Sequence[dict[str, Any]]) -> None:
        self._pids = {str(part["name"]): int(part["pid"]) for part in parts if part["pid"]}
        self._before = {name: cpu_s(pid) for name, pid in self._pids.items()}

    def read(self) -> list[Usage]:
        """What each part has taken since this meter was made."""
        return [
            Usage(name, memory_bytes(pid), _difference(self._before[name], cpu_s(pid)))
            for name, pid in self._pids.items()
        ]


def cpu_s(pid: int) -> float | None:
    """CPU seconds of a process and all below it, those that have ended included."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:4]) for member in family)
    except psutil.Error:
        return None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
