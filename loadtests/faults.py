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


def disturbed_until(
    played: Played, recorders: Sequence[Recorder], next_at_s: float
) -> float | None:
    """The end of the last second with a failure that may be due to it; None: there was none."""
    seconds = range(int(played.at_s), int(next_at_s))
    bad = [
        second
        for recorder in recorders
        for second in seconds
        if second in recorder.seconds
        and (recorder.seconds[second].errors or recorder.seconds[second].unsent)
    ]
    return max(bad) + 1.0 if bad else None


def recoveries(
    played: Sequence[Played], recorders: Sequence[Recorder], seconds: float
) -> list[Check]:
    """How long each fault took to mend, and how long callers noticed it."""
    found = []
    in_order = sorted(played, key=lambda one: one.at_s)
    for number, one in enumerate(in_order):
        following = in_order[number + 1].at_s if number + 1 < len(in_order) else seconds
        noticed = disturbed_until(one, recorders, following)
        words = (
            "no request failed"
            if noticed is None
            else (f"requests failed for {max(0.0, noticed - one.at_s):.0f} s at most")
        )
        mended = (
            "not healthy again"
            if one.mended_s is None
            else (f"healthy again after {one.mended_s - one.at_s:.1f} s")
        )
        what = f"{one.fault.what} at {one.at_s:.0f} s: healthy again within "
        what += f"{one.fault.healthy_within_s:g} s"
        found.append(Check(what, one.mended_s is not None, f"{mended}; {words}"))
    return found
