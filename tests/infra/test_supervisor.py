"""The supervisor with parts of a few lines: order, restarts, back-off, giving up, stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from infra.local import supervisor as module
from infra.local.parts import NotReadyError, Part
from infra.local.supervisor import StartError, Supervisor

WAIT_S = 5.0


@dataclass
class Script(Part):
    """A part that runs a few lines of Python and is ready when its file is there."""

    lines: str = field(kw_only=True)
    folder: Path = field(kw_only=True)
    amiss: str = field(default="", kw_only=True)

    @property
    def ready_file(self) -> Path:
        return self.folder / f"{self.name}.ready"

    async def prepare(self) -> None:
        if self.amiss == "prepared":
            raise ValueError("wrong when prepared")
        self.ready_file.unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        return [sys.executable, "-S", "-c", f"import time, sys, os\n{self.lines}"]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "READY": str(self.ready_file)}

    async def check(self) -> str:
        if self.amiss == "asked":
            raise ValueError("wrong when asked")
        if not self.ready_file.exists():
            raise NotReadyError("not yet")
        return "fine"


SERVE = "open(os.environ['READY'], 'w').close()\ntime.sleep(600)"


@asynccontextmanager
async def supervised(folder: Path, *parts: Part) -> AsyncIterator[tuple[Supervisor, list[str]]]:
    """A supervisor over these parts, and the states that it told of, in order."""
    told: list[str] = []

    def changed(part: Part | None) -> None:
        if part is not None:
            told.append(f"{part.name} {part.state}")

    supervisor = Supervisor(parts, log_folder=folder, cwd=folder, changed=changed)
    try:
        yield supervisor, told
    finally:
        await supervisor.stop()


async def until(condition: object, part: Part) -> None:
    assert callable(condition)
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{part.state} {part.detail} {part.last_exit}"
        await asyncio.sleep(0.01)


async def test_a_part_starts_when_what_it_needs_is_ready_and_stops_before_it(
    tmp_path: Path,
) -> None:
    lower = Script("lower", lines=SERVE, folder=tmp_path)
    upper = Script("upper", ("lower",), lines=SERVE, folder=tmp_path)
    async with supervised(tmp_path, upper, lower) as (supervisor, told):
        await supervisor.start()
    assert told.index("lower running") < told.index("upper starting")
    assert told.index("upper stopped") < told.index("lower stopping")


async def test_a_part_that_is_killed_comes_back_and_its_table_line_says_so(tmp_path: Path) -> None:
    part = Script("part", lines=SERVE, folder=tmp_path)
    async with supervised(tmp_path, part) as (supervisor, told):
        await supervisor.start()
        assert part.process is not None
        first = part.process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: part.state == "running" and part.restarts == 1, part)
        assert part.process.pid != first
        assert part.last_exit == "killed by SIGKILL"
        assert "part restarting" in told


async def test_an_error_that_nobody_foresaw_ends_neither_the_part_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WATCH_EVERY_S", 0.02)
    part = Script("part", lines=SERVE, folder=tmp_path)
    other = Script("other", lines=SERVE, folder=tmp_path)
    async with supervised(tmp_path, part, other) as (supervisor, _):
        await supervisor.start()
        assert part.process is not None
        part.amiss = "asked"
        await until(lambda: part.state == "not answering", part)
        assert "wrong when asked" in part.detail
        part.amiss = "prepared"
        os.kill(part.process.pid, signal.SIGKILL)
        await until(lambda: part.restarts == 2, part)
        assert part.last_exit == "wrong when prepared"
        part.amiss = ""
        await until(lambda: part.state == "running", part)
        assert (other.state, other.restarts) == ("running", 0)
    assert "part could not be asked" in caplog.text  # and where it comes from
    assert "part could not be run" in caplog.text


async def test_a_part_whose_need_is_down_waits_instead_of_crashing(tmp_path: Path) -> None:
    lower = Script("lower", lines=SERVE, folder=tmp_path)
    upper = Script("upper", ("lower",), lines=SERVE, folder=tmp_path)
    async with supervised(tmp_path, lower, upper) as (supervisor, _):
        await supervisor.start()
        lower.lines = "time.sleep(600)"  # comes back, but is never ready
        assert lower.process is not None
        assert upper.process is not None
        os.kill(lower.process.pid, signal.SIGKILL)
        await until(lambda: lower.state == "starting", lower)
        os.kill(upper.process.pid, signal.SIGKILL)
        await until(lambda: upper.state == "waiting", upper)
        await asyncio.sleep(0.5)  # long enough for two restarts, had there been any
        assert (upper.state, upper.restarts) == ("waiting", 1)


async def test_a_part_that_never_becomes_ready_ends_the_start_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_FIRST_S", 0.01)
    part = Script("part", lines="print('no such table'); sys.exit(3)", folder=tmp_path)
    async with supervised(tmp_path, part) as (supervisor, _):
        with pytest.raises(StartError, match=r"part does not start: exit code 3\nno such table"):
            await supervisor.start()
    assert part.restarts == module.START_ATTEMPTS - 1


async def test_unusable_settings_end_the_start_at_once(tmp_path: Path) -> None:
    part = Script("part", lines="print('TERCET_X: is empty'); sys.exit(78)", folder=tmp_path)
    (tmp_path / "part.log").write_text("of an earlier run\n")
    async with supervised(tmp_path, part) as (supervisor, _):
        with pytest.raises(StartError, match="part does not start: TERCET_X: is empty") as caught:
            await supervisor.start()
    assert caught.value.exit_code == 78
    assert part.restarts == 0


async def test_a_task_runs_once_and_what_needs_it_starts_after_it(tmp_path: Path) -> None:
    task = Script("task", is_task=True, lines="print('half'); print('all')", folder=tmp_path)
    part = Script("part", ("task",), lines=SERVE, folder=tmp_path)
    async with supervised(tmp_path, part, task) as (supervisor, told):
        await supervisor.start()
        assert (task.state, task.restarts) == ("done", 0)
    assert told.index("task done") < told.index("part starting")


async def test_a_part_that_ignores_the_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    stubborn = (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n" + SERVE
    )
    part = Script("part", lines=stubborn, folder=tmp_path, stop_grace_s=0.2)
    async with supervised(tmp_path, part) as (supervisor, _):
        await supervisor.start()
        assert part.process is not None
        parent = psutil.Process(part.process.pid)
        family = [parent, *parent.children(recursive=True)]
        assert len(family) == 2
        await supervisor.stop()
        _, alive = psutil.wait_procs(family, timeout=1)
        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    assert part.last_exit == "killed by SIGKILL"


async def test_a_paused_part_is_shown_as_not_answering_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_EVERY_S", 0.02)
    part = Script("part", lines=SERVE, folder=tmp_path)
    async with supervised(tmp_path, part) as (supervisor, _):
        await supervisor.start()
        part.ready_file.unlink()
        await until(lambda: part.state == "not answering", part)
        part.ready_file.touch()
        await until(lambda: part.state == "running", part)
        assert part.restarts == 0


async def test_a_log_is_cut_when_it_grows_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_EVERY_S", 0.02)
    monkeypatch.setattr(module, "LOG_LIMIT_BYTES", 10_000)
    chatty = f"for _ in range(400): print('x' * 99, flush=True)\n{SERVE}"
    part = Script("part", lines=chatty, folder=tmp_path)
    async with supervised(tmp_path, part) as (supervisor, _):
        await supervisor.start()
        await until((tmp_path / "part.log.1").exists, part)
        # It may not have said all of its 40,000 bytes when it was cut for the first time.
        await until(lambda: supervisor.log_file(part).stat().st_size < 10_000, part)
        assert (tmp_path / "part.log.1").stat().st_size == 10_000
