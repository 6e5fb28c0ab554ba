"""The processes of a load: started, told what to do, listened to, and merged at the end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, cast

from infra.local.processes import tied_to_this_process
from loadtests.profiles import Run
from loadtests.programs import BrokenRunError
from loadtests.recorder import Recorder, merged
from loadtests.result import PROJECT
from loadtests.shop import Goods
from loadtests.worker import Job

LINE_LIMIT_BYTES: Final = 1 << 30  # the last line has every latency: four bytes each, in base64
READY_S: Final = 60.0  # of Python on a busy machine with nothing compiled
HEAD_START_S: Final = 0.1  # for the job to be read
STRAGGLE_S: Final = 120.0  # after the end of the schedule: the last answers, and writing it all

Heard = Callable[[list[dict[str, Any]]], None]


@dataclass
class Ended:
    """What all processes have recorded together. began_at: time.monotonic()."""

    recorders: list[Recorder]
    said: dict[str, Counter[str]]
    cpu_s: float
    began_at: float
    began_wall: float


@dataclass
class _Member:
    process: asyncio.subprocess.Process
    asked: asyncio.StreamWriter
    said: asyncio.StreamReader
    so_far: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None

    async def line(self) -> dict[str, Any]:
        line = await self.said.readline()
        if not line:
            raise BrokenRunError(f"a process of the load ended with {await self.process.wait()}")
        document: dict[str, Any] = json.loads(line)
        return document

    async def told(self, job: Job) -> None:
        self.asked.write(json.dumps(job.document()).encode() + b"\n")
        await self.asked.drain()


async def run_crew(
    run: Run,
    url: str,
    *,
    processes: int,
    seed: int,
    goods: Callable[[], Awaitable[Goods]],
    began: Callable[[float], None] = lambda _: None,
    heard: Heard = lambda _: None,
) -> Ended:
    """One run by so many processes. goods: asked for when all are ready: a sale opens on time.

    began: hears the moment from which arrivals count; heard: how far each kind of traffic is.
    """
    async with AsyncExitStack() as stack:
        members = [await _started(stack) for _ in range(processes)]
        async with asyncio.timeout(READY_S):
            for member in members:
                await member.line()
        stocked = await goods()
        begins_at = time.monotonic() + HEAD_START_S
        for number, member in enumerate(members):
            await member.told(Job(number, processes, url, run, stocked, seed, begins_at))
        began(begins_at)
        began_wall = time.time() + HEAD_START_S
        try:
            async with asyncio.timeout(run.seconds + STRAGGLE_S), asyncio.TaskGroup() as group:
                for member in members:
                    group.create_task(_listen(member, members, heard))
        except* BrokenRunError as errors:
            raise errors.exceptions[0] from None
    return _together([member.result or {} for member in members], begins_at, began_wall)


async def _started(stack: AsyncExitStack) -> _Member:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=PROJECT,
        limit=LINE_LIMIT_BYTES,
        preexec_fn=tied_to_this_process(signal.SIGKILL),
    )
    stack.push_async_callback(_end, process)
    return _Member(
        process,
        cast(asyncio.StreamWriter, process.stdin),
        cast(asyncio.StreamReader, process.stdout),
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _listen(member: _Member, members: list[_Member], heard: Heard) -> None:
    while member.result is None:
        document = await member.line()
        if "so_far" in document:
            member.so_far = document["so_far"]
            heard(_sums([one.so_far for one in members]))
        else:
            member.result = document


def _sums(parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of each kind of traffic, in all processes."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        for one in part:
            sums[one["work"]].update(over=one["over"], failed=one["failed"])
    return [{"work": work, **counts} for work, counts in sums.items()]


def _together(results: list[dict[str, Any]], began_at: float, began_wall: float) -> Ended:
    documents: dict[str, list[dict[str, Any]]] = {}
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        for document in result["recorders"]:
            documents.setdefault(document["work"], []).append(document)
        for label, words in result["said"].items():
            said[label].update(words)
    return Ended(
        [merged(work, ofeach) for work, ofeach in documents.items()],
        dict(said),
        sum(result["cpu_s"] for result in results),
        began_at,
        began_wall,
    )
