"""One process of the load: it has its share of all traffic, and says what became of it.

python -m loadtests.worker reads its job as JSON, and prints a line of JSON each half second and
one at the end. loadtests.crew starts it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

import msgspec
import uvloop

from loadtests.generator import open_loop
from loadtests.held import HeldConnections
from loadtests.kinds import KINDS, Sender
from loadtests.pinning import raise_file_limit
from loadtests.profiles import PROFILES, Run
from loadtests.recorder import Recorder
from loadtests.scenario import Scenario, Traffic
from loadtests.shop import Goods
from services.keepalive import Pool

TELL_EVERY_S: Final = 0.5
LOST: Final = "a held connection was lost"
MESSAGES: Final = "messages"
PAYMENT: Final = "its payment alone"


@dataclass(frozen=True)
class Job:
    """What a process is to do: which one it is, of how many, of what run, from when on."""

    number: int
    of: int
    url: str
    run: Run
    goods: Goods
    seed: int
    begins_at: float  # time.monotonic(), which is one clock for all processes of a machine

    def document(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("number", "of", "url", "seed", "begins_at")},
            "scenario": msgspec.to_builtins(self.run.scenario),
            "profile": self.run.profile.name,
            "seconds": self.run.seconds,
            "load": self.run.load,
            "goods": asdict(self.goods),
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> Job:
        run = Run(
            msgspec.convert(document.pop("scenario"), Scenario),
            PROFILES[document.pop("profile")],
            document.pop("seconds"),
            document.pop("load"),
        )
        goods = Goods(**document.pop("goods"))
        return cls(run=run, goods=goods, **document)


class Work:
    """One kind of traffic in this process: what it sends over which connections, its figures."""

    def __init__(self, job: Job, traffic: Traffic) -> None:
        self.job, self.traffic = job, traffic
        self.recorder = Recorder(traffic.label)
        self.payments = Recorder(f"{traffic.label}: {PAYMENT}")
        self._share = -(-traffic.connections // job.of)
        self.pool = Pool.to(job.url, size=self._share)
        self._seed = job.seed * 1009 + job.number * 101 + job.run.scenario.traffic.index(traffic)
        sender = Sender(traffic, job.url, self.pool, job.goods, self.payments, self._seed)
        self.send = KINDS[traffic.does](sender)
        self.held = self.send if isinstance(self.send, HeldConnections) else None

    def arrivals(self) -> Iterator[float]:
        job = self.job
        moments = job.run.arrivals(self.traffic, seed=self._seed, number=job.number, of=job.of)
        return islice(moments, self._share) if self.held else moments

    async def run(self) -> None:
        try:
            await open_loop(
                self.arrivals(),
                self.send,
                self.recorder,
                timeout_s=self.traffic.timeout_s,
                began_at=self.job.begins_at,
            )
            if self.held:
                await self.held.hold_until(self.job.begins_at + self.job.run.seconds)
                for _ in range(self.held.lost):
                    self.recorder.error(LOST, second=int(self.job.run.seconds) - 1)
        finally:
            if self.held:
                self.held.close()
            await self.pool.aclose()

    @property
    def recorders(self) -> list[Recorder]:
        return [one for one in (self.recorder, self.payments) if one.due]

    @property
    def said(self) -> dict[str, int]:
        """What there is to say besides."""
        return {MESSAGES: self.held.messages} if self.held and self.held.messages else {}


async def work(job: Job, tell: Callable[[dict[str, Any]], None]) -> None:
    """Do the job; `tell` hears how far it is, and at last all of it."""
    works = [Work(job, traffic) for traffic in job.run.scenario.traffic]
    cpu_before_s = time.process_time()
    teller = asyncio.create_task(_tell(works, tell))
    async with AsyncExitStack() as stack:
        stack.callback(teller.cancel)
        async with asyncio.TaskGroup() as group:
            for one in works:
                group.create_task(one.run())
    tell(
        {
            "recorders": [one.document() for each in works for one in each.recorders],
            "said": {each.traffic.label: each.said for each in works if each.said},
            "cpu_s": time.process_time() - cpu_before_s,
        }
    )


async def _tell(works: Sequence[Work], tell: Callable[[dict[str, Any]], None]) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        tell({"so_far": [so_far(one.recorder) for one in works]})


def so_far(recorder: Recorder) -> Mapping[str, Any]:
    """What a line on the terminal says of it."""
    failed = sum(recorder.errors.values()) + recorder.unsent
    return {"work": recorder.work, "over": recorder.sent + recorder.unsent, "failed": failed}


def main() -> int:
    raise_file_limit()
    print('"ready"', flush=True)
    job = Job.read(json.loads(sys.stdin.readline()))

    def tell(document: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            print(json.dumps(document), flush=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(job, tell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
