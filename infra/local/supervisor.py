"""The supervisor: starts parts in the order of their needs, restarts what dies, stops it all."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError
from typing import Any, Final

import psutil

from infra.local.parts import NotReadyError, Part, State
from infra.local.processes import memory_of_families, spawn
from infra.process import EXIT_BAD_SETTINGS

RESTART_FIRST_S: Final = 0.2
RESTART_LONGEST_S: Final = 30.0
HEALTHY_AFTER_S: Final = 20.0  # a part that ran this long starts again with the shortest wait
START_ATTEMPTS: Final = 5  # 0.2 s doubled: some 6 s of trying before the start is given up
STOP_TOTAL_S: Final = 4.0  # all parts together; the promise is 5 s, with killing and clearing up
# Ten parts are asked while they import: every 20 ms, that took as much CPU as two of them.
READY_POLL_S: Final = 0.05
PROGRESS_POLL_S: Final = 0.1
WATCH_EVERY_S: Final = 2.0
MISSED_CHECKS: Final = 2  # in a row, before a part counts as not answering
LOG_LIMIT_BYTES: Final = 10 * 1024 * 1024  # a log is cut here, with one older piece kept

_log: Final = logging.getLogger("tercet.supervisor")


class StartError(Exception):
    """The stack can not start; the message names the part and quotes its log."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Supervisor:
    """Runs parts until told to stop. Lives in the main thread: the kernel ties parts to it."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        log_folder: Path,
        cwd: Path,
        changed: Callable[[Part | None], None],
    ) -> None:
        self.parts = {part.name: part for part in parts}
        self._log_folder = log_folder
        self._cwd = cwd
        self._changed = changed
        self._ready = {part.name: asyncio.Event() for part in parts}
        self._exits: dict[str, asyncio.Future[int]] = {}
        self._log_starts: dict[str, int] = {}  # where what a part says in this run begins
        self._runs: list[asyncio.Task[None]] = []
        self._failing: asyncio.Future[list[None]]
        self._started = False

    async def start(self) -> None:
        """Start everything and return when all is ready, or raise StartError."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        for part in self.parts.values():
            if part.state == "external":
                self._ready[part.name].set()
            else:
                self._runs.append(asyncio.create_task(self._run(part), name=part.name))
        self._runs.append(asyncio.create_task(self._watch()))
        self._failing = asyncio.gather(*self._runs)  # done early only when one raises
        # Looked at by wait(), if at all: without this asyncio complains about a clean stop.
        self._failing.add_done_callback(lambda runs: runs.cancelled() or runs.exception())
        # A task, not a gathering of them: asyncio complains about one of those that is cancelled.
        everything = asyncio.create_task(self._all_ready())
        both: list[asyncio.Future[Any]] = [everything, self._failing]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not everything.done():
                await self._failing
        finally:
            everything.cancel()
        self._started = True

    async def _all_ready(self) -> None:
        for ready in self._ready.values():
            await ready.wait()

    async def wait(self) -> None:
        """Keep going; ends only by raising, which takes an error of ours."""
        await asyncio.shield(self._failing)

    async def stop(self) -> None:
        """Stop every part, those that need others first, within STOP_TOTAL_S."""
        deadline = time.monotonic() + STOP_TOTAL_S
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        levels = self._levels()
        for number in reversed(range(len(levels))):
            # Half of the time left for each level and all of it for the last: whatever hangs,
            # the primary can still shut down in good order.
            left_s = max(0.2, deadline - time.monotonic())
            limit_s = left_s if number == 0 else left_s / 2
            await asyncio.gather(*(self._end(part, limit_s) for part in levels[number]))

    def log_file(self, part: Part) -> Path:
        """Where the part's output goes."""
        return self._log_folder / f"{part.name}.log"

    def measure(self) -> None:
        """Look up how much memory each part takes."""
        pids = [part.process.pid for part in self.parts.values() if part.process]
        measured = memory_of_families(pids)
        for part in self.parts.values():
            part.memory_bytes = measured[part.process.pid] if part.process else 0

    def _levels(self) -> list[list[Part]]:
        """The parts in the order of their needs: each level uses only levels before it."""
        depth: dict[str, int] = {}

        def depth_of(name: str) -> int:
            if name not in depth:
                part = self.parts[name]
                below = [n for n in (*part.needs, *part.uses) if n in self.parts]
                depth[name] = 1 + max(map(depth_of, below), default=-1)
            return depth[name]

        levels: dict[int, list[Part]] = {}
        for name, part in self.parts.items():
            levels.setdefault(depth_of(name), []).append(part)
        return [levels[number] for number in sorted(levels)]

    async def _run(self, part: Part) -> None:
        """One part's life: wait for its needs, start, see it ready, restart when it dies."""
        failures = unready = 0
        while True:
            self._set(part, "waiting")
            await asyncio.gather(*(self._ready[name].wait() for name in part.needs))
            began = time.monotonic()
            try:
                if part.is_task and (reason := await part.reason_to_skip()) is not None:
                    self._set(part, "skipped", reason)
                    self._ready[part.name].set()
                    return
                was_ready = await self._live(part)
            except Exception as error:
                # Whatever is amiss with one part, the others go on and this one is tried again.
                if not isinstance(error, (OSError, SubprocessError, NotReadyError)):
                    _log.exception("%s could not be run", part.name)
                was_ready = False
                part.last_exit = str(error) or type(error).__name__
                await self._kill(part)
            if part.state == "done":
                return
            self._ready[part.name].clear()
            unready = 0 if was_ready else unready + 1
            failures = 0 if time.monotonic() - began > HEALTHY_AFTER_S else failures
            self._give_up_when_hopeless(part, unready)
            if unready:
                part.died_before_ready(unready)
            wait_s = min(RESTART_LONGEST_S, RESTART_FIRST_S * 2**failures)
            wait_s *= random.uniform(0.5, 1.0)  # noqa: S311  # spreads restarts, keeps no secret
            failures += 1
            part.restarts += 1
            self._set(part, "restarting", f"in {wait_s:.1f} s, {part.last_exit}")
            await asyncio.sleep(wait_s)

    async def _live(self, part: Part) -> bool:
        """Start the part once and wait for its end; True if it was ready in between."""
        log = self.log_file(part)
        self._log_starts[part.name] = log.stat().st_size if log.exists() else 0
        self._set(part, "preparing")
        await part.prepare()
        part.process = spawn(
            part.command(),
            environment=part.environment(),
            log_file=self.log_file(part),
            cwd=self._cwd,
            identity=part.identity,
            death_signal=part.death_signal,
        )
        exited = self._exits[part.name] = asyncio.get_running_loop().create_future()
        self._reap()  # it may be gone already
        self._set(part, "starting")
        if part.is_task:
            ready = False
            await self._report_progress(part, exited)
        else:
            ready = await self._becomes_ready(part, exited)
        if ready:
            self._ready[part.name].set()
        code = await asyncio.shield(exited)  # stop() still needs it when this is cancelled
        self._end_family(part.process.pid)
        part.process, part.memory_bytes = None, 0
        part.last_exit = _describe(code)
        if part.is_task and code == 0:
            await part.completed()
            self._set(part, "done", part.detail)
            self._ready[part.name].set()
        return ready

    async def _becomes_ready(self, part: Part, exited: asyncio.Future[int]) -> bool:
        """Ask until the part is ready (True) or gone (False)."""
        while not exited.done():
            try:
                detail = await _answer(part)
            except (OSError, NotReadyError) as error:
                if str(error) != part.detail and isinstance(error, NotReadyError):
                    self._set(part, "starting", str(error))
                await asyncio.wait([exited], timeout=READY_POLL_S)
            else:
                part.has_been_ready = True
                self._set(part, "running", detail)
                return True
        return False

    async def _report_progress(self, part: Part, exited: asyncio.Future[int]) -> None:
        """Show the last line that a task has printed until it ends."""
        log = self.log_file(part)
        start = log.stat().st_size
        while not exited.done():
            await asyncio.wait([exited], timeout=PROGRESS_POLL_S)
            said = log.read_bytes()[start:].decode(errors="replace").splitlines()
            if said and said[-1] != part.detail:
                self._set(part, "running", said[-1])

    async def _watch(self) -> None:
        """Ask every running part how it is, measure it and keep its log short."""
        missed = dict.fromkeys(self.parts, 0)
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            for part in self.parts.values():
                self._shorten(self.log_file(part))
                if part.is_task or part.state not in ("running", "not answering"):
                    continue
                try:
                    detail = await _answer(part)
                except (OSError, NotReadyError) as error:
                    missed[part.name] += 1
                    if missed[part.name] >= MISSED_CHECKS and part.state == "running":
                        self._set(part, "not answering", str(error))
                else:
                    missed[part.name] = 0
                    if part.state == "not answering":
                        self._set(part, "running", detail)
                    part.detail = detail
            self.measure()
            self._changed(None)

    def _give_up_when_hopeless(self, part: Part, unready: int) -> None:
        if self._started:
            return
        bad_settings = part.last_exit == _describe(EXIT_BAD_SETTINGS)
        if bad_settings or unready >= START_ATTEMPTS:
            self._set(part, "failed", part.last_exit)
            said = _last_lines(self.log_file(part), self._log_starts.get(part.name, 0))
            # Its settings say what is wrong by themselves: the exit code would only be in front.
            cause = said if bad_settings else f"{part.last_exit}\n{said}"
            raise StartError(
                f"{part.name} does not start: {cause}\nall of its log: {self.log_file(part)}",
                EXIT_BAD_SETTINGS if bad_settings else 1,
            )

    async def _end(self, part: Part, limit_s: float) -> None:
        """Ask the part to stop, and kill it when it does not within its grace or the limit."""
        if part.process is None or part.process.poll() is not None:
            if part.state not in ("external", "done", "skipped"):
                self._set(part, "stopped")
            return
        self._set(part, "stopping")
        with suppress(ProcessLookupError):
            part.process.send_signal(part.stop_signal)
            # A part that was paused takes the signal only when it goes on.
            part.process.send_signal(signal.SIGCONT)
        exited = self._exits[part.name]
        await asyncio.wait([exited], timeout=min(part.stop_grace_s, limit_s))
        if not exited.done():
            self._end_family(part.process.pid)
            await asyncio.wait([exited], timeout=0.5)
        part.last_exit = _describe(exited.result()) if exited.done() else "killed"
        part.process, part.memory_bytes = None, 0
        self._set(part, "stopped")

    async def _kill(self, part: Part) -> None:
        """End what was started of a part that is not looked after any more."""
        if part.process is not None:
            self._end_family(part.process.pid)
            await asyncio.wait([self._exits[part.name]], timeout=0.5)
            part.process, part.memory_bytes = None, 0

    def _end_family(self, pid: int) -> None:
        """Kill what there is of a part: its children, and all in the session it had to itself."""
        with suppress(psutil.Error):
            for child in psutil.Process(pid).children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for part in self.parts.values():
            exited = self._exits.get(part.name)
            if part.process is None or exited is None or exited.done():
                continue
            code = part.process.poll()
            if code is not None:
                exited.set_result(code)

    def _set(self, part: Part, state: State, detail: str = "") -> None:
        part.state, part.detail = state, detail
        self._changed(part)

    def _shorten(self, log: Path) -> None:
        with suppress(OSError):
            if log.stat().st_size > LOG_LIMIT_BYTES:
                log.with_suffix(".log.1").write_bytes(log.read_bytes()[-LOG_LIMIT_BYTES:])
                os.truncate(log, 0)  # parts append, so they go on at the new end


async def _answer(part: Part) -> str:
    """What the part says of itself. An error that nobody foresaw is told whole, as not ready."""
    try:
        return await part.check()
    except (OSError, NotReadyError):
        raise
    except Exception as error:
        _log.exception("%s could not be asked", part.name)
        raise NotReadyError(repr(error)) from error


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _last_lines(log: Path, start: int, count: int = 8) -> str:
    try:
        said = log.read_bytes()[start:].decode(errors="replace")
        return "\n".join(said.splitlines()[-count:])
    except OSError:
        return ""
