"""The faults of a scenario: what is done to the parts of a local stack, when, and how it mends.

Only to a stack that runs on a data folder of this machine, and only to processes that its
supervisor has started.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.local import secret_files
from infra.local.folder import DataFolder
from loadtests.parts import Parts, UnknownPartError
from loadtests.programs import BrokenRunError, output_of
from loadtests.recorder import Recorder
from loadtests.scenario import Fault
from loadtests.story import Check, Mark
from loadtests.waiting import NotInTimeError
from services.deadline import Deadline
from services.keepalive import ExchangeError, Pool

ASK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Played:
    """A fault that was done: when, until when, and when its part was healthy again.

    Seconds since the run began; mended_s: None, it was not within its time.
    """

    fault: Fault
    at_s: float
    until_s: float
    mended_s: float | None

    @property
    def mark(self) -> Mark:
        return Mark(self.at_s, self.fault.what, self.mended_s or self.until_s)


class Faults:
    """Plays faults on the stack of a data folder, each at its time."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = DataFolder.at(data_dir)
        self._parts = Parts(data_dir)

    async def play(
        self, faults: Sequence[Fault], began_at: float, stretch: float = 1.0
    ) -> list[Played]:
        """All of them, each in its own time; what one has to wait for keeps no other."""
        return list(
            await asyncio.gather(*(self._at_its_time(fault, began_at, stretch) for fault in faults))
        )

    async def _at_its_time(self, fault: Fault, began_at: float, stretch: float) -> Played:
        await asyncio.sleep(max(0.0, began_at + fault.at_s * stretch - time.monotonic()))
        at_s = time.monotonic() - began_at
        try:
            until_s = await self._do(fault, stretch) - began_at
            await self._parts.wait_until_healthy(fault.part, within_s=fault.healthy_within_s)
        except NotInTimeError:
            return Played(fault, at_s, time.monotonic() - began_at, None)
        except (UnknownPartError, ExchangeError) as error:
            raise BrokenRunError(f"{fault.what}: {error}") from error
        return Played(fault, at_s, until_s, time.monotonic() - began_at)

    async def _do(self, fault: Fault, stretch: float) -> float:
        """Returns when it is over: from then on the part has to mend itself."""
        for_s = fault.for_s * stretch
        match fault.does:
            case "kill":
                await self._gone(fault, self._parts.kill(fault.part))
            case "restart":
                await self._gone(fault, self._parts.stop(fault.part))
            case "crash":
                await self._replaced(fault, self._parts.crash(fault.part))
            case "reload":
                await self._replaced(fault, self._parts.reload(fault.part))
            case "pause":
                async with self._parts.paused(fault.part):
                    await asyncio.sleep(for_s)
            case "failover":
                self._parts.kill(fault.part)
                command = [sys.executable, "-m", "infra.cli", "promote"]
                await output_of([*command, "--data-dir", str(self._folder.root)], None)
            case "brownout":
                await self._behave(fault, for_s)
                await asyncio.sleep(for_s)
        return time.monotonic()

    async def _gone(self, fault: Fault, old_pid: int) -> None:
        """Another process has its place: until then it would pass for healthy."""
        await self._parts.wait_until_healthy(
            fault.part, after_pid=old_pid, within_s=fault.healthy_within_s
        )

    async def _replaced(self, fault: Fault, old: set[int]) -> None:
        """Others serve in place of these processes; the part's own one is the same."""
        await self._parts.wait_until_replaced(fault.part, old, within_s=fault.healthy_within_s)

    async def _behave(self, fault: Fault, for_s: float) -> None:
        """The provider plays a brown-out, which ends by itself."""
        behaviour = {"mode": fault.mode, "share": fault.share, "for_s": for_s, "seed": 1}
        if fault.delay_ms is not None:
            behaviour["delay_ms"] = fault.delay_ms
        secret = secret_files.read_secret(self._folder.secrets, "provider_secret")
        pool = Pool.to(f"http://{self._parts.look('provider').address}", size=1)
        try:
            answer = await pool.request(
                b"PUT",
                b"/behaviour",
                [
                    (b"authorization", f"Bearer {secret}".encode()),
                    (b"content-type", b"application/json"),
                ],
                json.dumps(behaviour).encode(),
                deadline=Deadline.after(ASK_S),
            )
        finally:
            await pool.aclose()
        if answer.status != 200:
            raise BrokenRunError(f"the provider answered {answer.status}: {answer.body!r}")

    def resume_all(self, faults: Sequence[Fault]) -> None:
        """Whatever is still paused goes on: a run that broke leaves nothing standing."""
        for fault in faults:
            if fault.does == "pause":
                with suppress(UnknownPartError):
                    self._parts.resume(fault.part)


def recoveries(played: Sequence[Played], recorders: Sequence[Recorder]) -> list[Check]:
    """How long each fault took to mend, and what callers noticed of it meanwhile."""
    return [
        Check(
            f"{one.fault.what} at {one.at_s:.0f} s: healthy again within "
            f"{one.fault.healthy_within_s:g} s",
            one.mended_s is not None,
            f"{_mended(one)}; {_noticed(one, recorders)}",
        )
        for one in sorted(played, key=lambda one: one.at_s)
    ]


def _mended(one: Played) -> str:
    if one.mended_s is None:
        return "not healthy again"
    words = f"healthy again after {one.mended_s - one.at_s:.1f} s"
    return (
        f"{words}, {one.mended_s - one.until_s:.1f} s after it ended" if one.fault.for_s else words
    )


def _noticed(one: Played, recorders: Sequence[Recorder]) -> str:
    """Of what was due between the fault and its repair."""
    seconds = range(int(one.at_s), int(one.mended_s or one.until_s) + 1)
    tallies = [
        recorder.seconds[second]
        for recorder in recorders
        for second in seconds
        if second in recorder.seconds
    ]
    failed = sum(tally.errors + tally.unsent for tally in tallies)
    return f"{failed:,} of {sum(tally.due for tally in tallies):,} requests failed meanwhile"
