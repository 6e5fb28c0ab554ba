"""Process faults, made in a small stack under the real supervisor and seen from outside."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.folder import NotRunningError
from infra.local.supervisor import RESTART_FIRST_S
from tests.faults.parts import Parts, UnknownPartError
from tests.faults.waiting import until

WITHIN_S = 15.0
STILL_S = 0.2  # twenty beats


@pytest.fixture(scope="module")
async def data_dir(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    folder: Path = tmp_path_factory.mktemp("small") / "data"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.small_stack",
        str(folder),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        assert await process.stdout.readline() == b"ready\n"
    yield folder
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(WITHIN_S):
        assert await process.wait() == 0


@pytest.fixture
async def parts(data_dir: Path) -> Parts:
    """The parts, each healthy whatever the last test did."""
    stack = Parts(data_dir)
    for name in ("provider", "worker-beat"):
        await stack.wait_until_healthy(name, within_s=WITHIN_S)
    return stack


class Beats:
    """What the beating part and its child have counted to."""

    def __init__(self, data_dir: Path) -> None:
        self._files = [data_dir / "run" / name for name in ("parent", "child")]

    def read(self) -> list[int]:
        return [int(file.read_text() or "0") for file in self._files]

    async def stand_still(self) -> bool:
        before = self.read()
        await asyncio.sleep(STILL_S)
        return self.read() == before

    async def go_on(self) -> None:
        before = self.read()
        await until(
            lambda: all(now > then for now, then in zip(self.read(), before, strict=True)),
            within_s=WITHIN_S,
            what="both beat",
        )


async def test_the_parts_with_a_process_are_listed(parts: Parts) -> None:
    assert parts.names() == ["provider", "worker-beat"]


async def test_a_pause_stops_a_part_with_its_children_and_resume_lets_them_go_on(
    parts: Parts, data_dir: Path
) -> None:
    beats = Beats(data_dir)
    await beats.go_on()
    stopped = parts.pause("worker-beat")
    assert len(stopped) == 2
    assert await beats.stand_still()
    assert not await parts.is_healthy("worker-beat")
    parts.resume("worker-beat")
    await beats.go_on()
    assert await parts.is_healthy("worker-beat")


async def test_a_pause_can_stop_one_child_alone(parts: Parts, data_dir: Path) -> None:
    beats = Beats(data_dir)
    async with parts.paused("worker-beat", child=str(data_dir / "run" / "child")):
        before = beats.read()
        await until(
            lambda: beats.read()[0] > before[0] + 10, within_s=WITHIN_S, what="the parent beats"
        )
        assert beats.read()[1] <= before[1] + 1  # one beat may have been under way
    await beats.go_on()


async def test_a_child_that_is_not_there_is_named(parts: Parts) -> None:
    with pytest.raises(UnknownPartError, match="walreceiver"):
        parts.pause("worker-beat", child="walreceiver")


async def test_a_paused_server_is_not_healthy_and_comes_back(parts: Parts) -> None:
    async with parts.paused("provider"):
        assert not await parts.is_healthy("provider")
    await parts.wait_until_healthy("provider", within_s=WITHIN_S)


async def test_start_resumes_what_was_paused(parts: Parts, data_dir: Path) -> None:
    parts.pause("worker-beat")
    await parts.start("worker-beat", within_s=WITHIN_S)
    await Beats(data_dir).go_on()


@pytest.mark.parametrize("name", ["provider", "worker-beat"])
async def test_what_is_killed_is_healthy_again_in_another_process(parts: Parts, name: str) -> None:
    old = parts.process(name)
    assert parts.kill(name) == old.pid
    took_s = await parts.wait_until_healthy(name, after_pid=old.pid, within_s=WITHIN_S)
    assert took_s > 0
    assert not old.is_running()
    assert parts.look(name).pid != old.pid


async def test_a_kill_leaves_no_child_behind(parts: Parts) -> None:
    child = parts.process("worker-beat").children()[0]
    old_pid = parts.kill("worker-beat")
    await parts.wait_until_healthy("worker-beat", after_pid=old_pid, within_s=WITHIN_S)
    await until(lambda: not child.is_running(), within_s=WITHIN_S, what="the child is gone")


async def test_a_restart_ends_with_a_new_healthy_process(parts: Parts) -> None:
    old_pid = parts.process("provider").pid
    await parts.restart("provider", within_s=WITHIN_S)
    assert parts.process("provider").pid != old_pid
    assert await parts.is_healthy("provider")


async def test_what_is_held_down_stays_down_until_the_end(parts: Parts) -> None:
    host, _, port = parts.look("provider").address.rpartition(":")
    async with parts.held_down("provider", within_s=WITHIN_S):
        began_at = time.monotonic()
        while time.monotonic() - began_at < 5 * RESTART_FIRST_S:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, int(port))
            await asyncio.sleep(0.01)
    await parts.wait_until_healthy("provider", within_s=WITHIN_S)


async def test_holding_down_what_is_not_there_leaves_the_supervisor_running(parts: Parts) -> None:
    with pytest.raises(UnknownPartError):
        async with parts.held_down("nobody"):
            pass
    await parts.restart("provider", within_s=WITHIN_S)


async def test_an_unknown_part_is_refused_with_those_there_are(parts: Parts) -> None:
    with pytest.raises(UnknownPartError, match="provider, worker-beat"):
        parts.kill("nobody")


async def test_a_folder_without_a_stack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="no stack is running"):
        Parts(tmp_path).names()


async def test_the_command_line_does_the_same(parts: Parts, data_dir: Path) -> None:
    old_pid = parts.process("provider").pid
    for verb, said in (("kill", f"killed provider, pid {old_pid}"), ("wait", "is healthy after")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.parts", "--data-dir", str(data_dir)),
            *(verb, "provider"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert said in out.decode()
