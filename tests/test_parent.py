"""services/parent.py with children that take some milliseconds to start: who serves, and when."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.faults.waiting import until

# Children answer each connection with their process id. Files in the folder tell them what to do:
# `broken` to end before they are ready, `mute` never to say a word again, `slow` to take its
# seconds.
PROGRAM = """
import os, pathlib, selectors, signal, socket, sys, time
from services import parent
from services.parent import Parent

folder, workers = pathlib.Path(sys.argv[1]), int(sys.argv[2])
parent.SILENT_TICKS, parent.TICK_S = 15, 0.1  # instead of 30 and 1.0
parent.BACK_OFF_FIRST_S = 0.2  # instead of 1.0

def work(child):
    if (folder / "settings").exists():
        return 78
    child.listen("other", "127.0.0.1", 0, 64)
    time.sleep(0.02)
    (listening,) = child.listen("public", "127.0.0.1", 0, 64)
    child.want(workers)
    if not (folder / "port").exists():
        (folder / "port").write_text(str(listening.getsockname()[1]))
    if (folder / "broken").exists():
        (folder / f"broken-{time.monotonic()}").touch()
        return 1
    if (folder / "slow").exists():
        time.sleep(float((folder / "slow").read_text()))
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    child.ready()
    while not stop:
        if not (folder / "mute").exists():
            child.beat()
        try:
            connection, _ = listening.accept()
        except BlockingIOError:
            time.sleep(0.002)
            continue
        connection.sendall(str(os.getpid()).encode())
        connection.close()
    (folder / f"last-{child.is_last()}").touch()
    return 0

sys.exit(Parent("demo", work).run())
"""


@dataclass
class Running:
    process: asyncio.subprocess.Process
    folder: Path

    @property
    def pids(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    async def ask(self) -> int:
        """Who serves a connection that is made now."""
        port = int((self.folder / "port").read_text())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(5):
                return int(await reader.read())
        finally:
            writer.close()

    def found(self, pattern: str) -> list[str]:
        """What is in the folder: notes of the children."""
        return sorted(path.name for path in self.folder.glob(pattern))

    async def until_only(self, count: int, other_than: set[int], within_s: float = 5) -> float:
        def replaced() -> bool:
            return len(self.pids) == count and not self.pids & other_than

        return await until(replaced, within_s=within_s, what=f"{count} others serve")


@asynccontextmanager
async def running(folder: Path, workers: int, *, ready: bool = True) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(folder), str(workers)),
        env=os.environ | {"TERCET_READY_FILE": str(folder / "ready")},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        if ready:
            await until((folder / "ready").exists, within_s=20, what="all are ready")
        yield Running(process, folder)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_children_share_a_port_and_are_ready_together(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as parent:
        assert len(parent.pids) == 3
        answered = {await parent.ask() for _ in range(50)}
        assert answered <= parent.pids


async def test_a_killed_child_is_replaced_within_a_second_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, 2) as parent:
        killed = min(parent.pids)
        os.kill(killed, signal.SIGKILL)
        killed_at = time.monotonic()
        while len(parent.pids - {killed}) < 2:
            assert await parent.ask() != killed
            assert time.monotonic() - killed_at < 1
        assert await parent.ask() in parent.pids


async def test_a_successor_serves_before_its_predecessor_stops(tmp_path: Path) -> None:
    async with running(tmp_path, 2) as parent:
        before, most = parent.pids, 0
        (tmp_path / "slow").write_text("0.1")
        parent.process.send_signal(signal.SIGHUP)
        while parent.pids & before or len(parent.pids) != 2:
            await parent.ask()  # never refused
            most = max(most, len(parent.pids))
        assert most == 3  # one at a time, and never fewer than wanted
        assert parent.found("last-*") == ["last-False"]


async def test_a_restart_that_overtakes_another_one_leaves_somebody_serving(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as parent:
        before = parent.pids
        (tmp_path / "slow").write_text("0.7")
        for _ in range(3):  # each before the successor of the one before is ready
            known = parent.pids
            parent.process.send_signal(signal.SIGHUP)
            while not parent.pids - known:
                assert {await parent.ask()} == before
        while parent.pids & before:
            await parent.ask()
        assert len(parent.pids) == 1


async def test_a_release_that_does_not_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as parent:
        before = parent.pids
        (tmp_path / "broken").touch()
        parent.process.send_signal(signal.SIGHUP)

        def attempts() -> list[float]:
            return sorted(float(name[7:]) for name in parent.found("broken-*"))

        while len(attempts()) < 2:
            assert {await parent.ask()} == before
        first, second = attempts()[:2]
        assert second - first > 0.15
        (tmp_path / "broken").unlink()
        parent.process.send_signal(signal.SIGHUP)  # asked for again, it waits no longer
        await parent.until_only(1, before, within_s=1)


async def test_a_child_that_says_nothing_any_more_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as parent:
        before = parent.pids
        (tmp_path / "mute").touch()
        await parent.until_only(1, before, within_s=5)


async def test_a_stop_ends_every_child_and_tells_them_that_nobody_follows(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as parent:
        pids = parent.pids
        parent.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await parent.process.wait() == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert parent.found("last-*") == ["last-True"]
        with pytest.raises(ConnectionRefusedError):
            await parent.ask()


async def test_the_first_child_that_does_not_start_ends_it_with_its_exit_code(
    tmp_path: Path,
) -> None:
    (tmp_path / "settings").touch()
    async with running(tmp_path, 2, ready=False) as parent:
        async with asyncio.timeout(20):
            assert await parent.process.wait() == 78
        assert not (tmp_path / "ready").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells them")
async def test_nothing_is_left_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    async with running(tmp_path, 2) as parent:
        children = [psutil.Process(pid) for pid in parent.pids]
        parent.process.kill()
        await parent.process.wait()
        await until(lambda: not any(map(runs, children)), within_s=5, what="both are gone")
        port = int((tmp_path / "port").read_text())
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_the_parent_takes_little_memory(tmp_path: Path) -> None:
    async with running(tmp_path, 1) as parent:
        assert psutil.Process(parent.process.pid).memory_info().rss < 16 * 1024 * 1024
