"""CPU and memory of each part of a stack while a load runs: a sample a second."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from infra.local.processes import memory_bytes
from loadtests.story import Point, Series
from loadtests.usage import cpu_s

EVERY_S: Final = 1.0
# The kernel walks all pages of a process for its share of them: a millisecond for PostgreSQL's.
MEMORY_EVERY: Final = 5

Parts = Callable[[], Sequence[dict[str, Any]]]


class Sampler:
    """Looks at the parts until it is closed. A part that was replaced begins anew."""

    def __init__(self, parts: Parts, began_at: float) -> None:
        self._parts, self._began_at = parts, began_at
        self._before: dict[str, tuple[int, float, float]] = {}
        self._cores: dict[str, list[Point]] = defaultdict(list)
        self._memory: dict[str, list[Point]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        number = 0
        while True:
            self._look(with_memory=number % MEMORY_EVERY == 0)
            number += 1
            await asyncio.sleep(EVERY_S)

    def _look(self, *, with_memory: bool) -> None:
        for part in self._parts():
            name, pid = str(part["name"]), part["pid"]
            if not pid:
                self._before.pop(name, None)
                continue
            now, taken_s = time.monotonic(), cpu_s(pid)
            if taken_s is None:
                continue
            at_s = max(0.0, now - self._began_at)
            before = self._before.get(name)
            if before is not None and before[0] == pid:
                used = (taken_s - before[2]) / max(now - before[1], 0.001)
                self._cores[name].append((at_s, max(0.0, used)))
            self._before[name] = (pid, now, taken_s)
            if with_memory:
                self._memory[name].append((at_s, float(memory_bytes(pid))))

    def series(self) -> list[Series]:
        """What was seen of each part that did anything."""
        return [
            Series(name, unit, points, part=name)
            for unit, seen in (("cores", self._cores), ("bytes", self._memory))
            for name, points in seen.items()
        ]

    def grown(self, since_s: float) -> dict[str, tuple[float, float]]:
        """Memory of each part in the first sample since then and in the last one, in bytes."""
        found = {}
        for name, seen in self._memory.items():
            later = [size_bytes for at_s, size_bytes in seen if at_s >= since_s]
            if later:
                found[name] = (later[0], later[-1])
        return found
