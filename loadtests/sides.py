"""access and those it is compared with, all running at once, measured by turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from loadtests import peers
from loadtests.access_process import require_held, running_access
from loadtests.comparison import OURS, Measure, cpu_row, p99_row, rate_row, take_turns
from loadtests.measure import Load, Meter
from loadtests.peers import Peer, UnavailableError
from loadtests.programs import Launch, Program, running
from loadtests.result import Aim, Row

CROSS_CHECK_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Bench:
    """What every work needs to know."""

    meter: Meter
    rounds: int
    connections: int
    idle_connections: int
    settle_s: float  # before memory is read: freed memory goes back, a garbage collector ends
    peers: Sequence[Peer]  # those that were asked for
    settings: Mapping[str, str]  # of access, instead of its defaults

    def among(self, keys: Sequence[str]) -> list[Peer]:
        """The peers of a work; one without an aim there is compared too when it is asked for."""
        return [peer for peer in self.peers if peer.key in keys or peer is peers.PYTHON]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for configurations and logs, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="tercet-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # nginx started by root works as another user
        yield folder


class Sides:
    """access and its peers of one work, all running until the end of the block."""

    def __init__(self, bench: Bench, aims: dict[str, Aim]) -> None:
        self._bench = bench
        self._aims = aims
        self._stack = AsyncExitStack()
        self._programs: dict[str, tuple[Program, Load]] = {}

    async def __aenter__(self) -> Sides:
        self.folder = self._stack.enter_context(scratch())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def access_before_stand_in(self, load: Load) -> None:
        await self.access(await peers.PYTHON.launch(self.folder), load, held=True)

    async def access(
        self,
        behind: Launch,
        load: Load,
        *,
        held: bool,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """settings: of this work, unless the run says otherwise."""
        cores = self._bench.meter.cores
        both = {**settings, **self._bench.settings}
        program = await self._stack.enter_async_context(
            running_access(behind, cores, self.folder, both)
        )
        await require_held(program, load.path, held=held)
        self._programs[OURS] = (program, load)

    async def rows(
        self, work: str, *, p99: Aim | None, upstream: str = "", load: Load | None = None
    ) -> list[Row]:
        """Start the peers that can be had, take turns, compare. A peer's hello is its `/`."""
        ours = self._programs[OURS][1]
        theirs = load or replace(ours, path="/")
        absent: dict[str, str] = {}
        for peer in self._bench.among(list(self._aims)):
            try:
                await self._start(peer, theirs, upstream)
            except UnavailableError as error:
                absent[peer.key] = str(error)
                print(f"skipped: {peer.name}: {error}", flush=True)
        self.figures = await take_turns(self._measures(self._bench.meter), self._bench.rounds)
        rows: list[Row] = []
        for peer in self._bench.among(list(self._aims)):
            aim = self._aims.get(peer.key)
            rows += self._compared(work, peer, aim, p99 if aim else None, absent.get(peer.key))
        return rows

    async def cross_check(self, work: str) -> list[Row]:
        """The ratio to the first peer once more, by the other generator: do both agree?"""
        names = list(self._programs)[:2]
        if self._bench.meter.generator != "wrk" or len(names) < 2:
            return []
        own = replace(self._bench.meter, generator="own")
        measures = {name: self._measures(own)[name] for name in names}
        rounds = min(self._bench.rounds, CROSS_CHECK_ROUNDS)
        again = await take_turns(measures, rounds)
        by_wrk, by_own = (
            [ours.rate / theirs.rate for ours, theirs in zip(*pair, strict=True)]
            for pair in (
                (self.figures[names[0]][:rounds], self.figures[names[1]][:rounds]),
                (again[names[0]], again[names[1]]),
            )
        )
        return [
            Row(
                f"generators agree: {work} against {names[1]}",
                round(statistics.median(by_wrk), 3),
                "ratio by wrk",
                "ratio by loadtests.closed",
                round(statistics.median(by_own), 3),
                runs=[round(wrk / own, 4) for wrk, own in zip(by_wrk, by_own, strict=True)],
            )
        ]

    async def _start(self, peer: Peer, load: Load, upstream: str) -> None:
        launch = await peer.launch(self.folder, upstream)
        log_file = self.folder / f"{peer.key}.log"
        program = await self._stack.enter_async_context(
            running(launch, self._bench.meter.cores.server, log_file)
        )
        self._programs[peer.name] = (program, load)

    def _measures(self, meter: Meter) -> dict[str, Measure]:
        def one(program: Program, load: Load) -> Measure:
            return lambda: meter.measure(program, load)

        return {name: one(*side) for name, side in self._programs.items()}

    def _compared(
        self, work: str, peer: Peer, aim: Aim | None, p99: Aim | None, absent: str | None
    ) -> list[Row]:
        ours = self.figures[OURS]
        if absent is not None:
            rate = round(statistics.median(one.rate for one in ours), 3)
            return [Row(work, rate, "req/s", peer.name, aim=aim, note=absent)]
        theirs = self.figures[peer.name]
        return [
            rate_row(work, ours, peer.name, theirs, aim=aim),
            p99_row(work, ours, peer.name, theirs, aim=p99),
            cpu_row(work, ours, peer.name, theirs),
        ]
