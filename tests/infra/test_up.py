"""`tercet up`: started, stopped, killed and started again, with the servers alone."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from infra.local.processes import in_user_namespace
from infra.local.refusals import EXIT_PORT_TAKEN
from infra.local.up import EXIT_ALREADY_RUNNING
from infra.process import EXIT_BAD_SETTINGS
from tests.infra.leftovers import processes_of, seconds_until_nothing_is_left
from tests.running_stack import RunningStack, running_stack, start_up, wait_until_ready

SERVERS = ("--servers-only", "--port", "0")
STOP_LIMIT_S = 5.0  # what the issue promises


@pytest.fixture(scope="module")
def kept_folder(
    tmp_path_factory: pytest.TempPathFactory, server_folder: Callable[[Path], Path]
) -> Path:
    """One data folder for all tests here."""
    return server_folder(tmp_path_factory.mktemp("up") / "data")


@pytest.fixture
def data_dir(kept_folder: Path) -> Iterator[Path]:
    """The folder with nothing running on it, before and after, whatever the test does."""
    yield kept_folder
    for process in processes_of(kept_folder):
        process.kill()
    seconds_until_nothing_is_left(kept_folder, STOP_LIMIT_S)


def started(data_dir: Path) -> RunningStack:
    process = start_up(data_dir, *SERVERS, stdout=subprocess.DEVNULL)
    wait_until_ready(data_dir, process)
    return RunningStack(data_dir, process)


def tercet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def write_a_row(stack: RunningStack, text: str) -> None:
    connection = await asyncpg.connect(stack.dsn("postgres"))
    await connection.execute("create table if not exists public.kept (text text)")
    await connection.execute("insert into public.kept values ($1)", text)
    await connection.close()


async def rows(stack: RunningStack) -> list[str]:
    connection = await asyncpg.connect(stack.dsn("postgres"))
    found = await connection.fetch("select text from public.kept")
    await connection.close()
    return [row["text"] for row in found]


def test_ctrl_c_stops_all_within_five_seconds_and_leaves_nothing(data_dir: Path) -> None:
    stack = started(data_dir)
    began = time.monotonic()
    os.killpg(stack.process.pid, signal.SIGINT)  # what a terminal does
    assert stack.process.wait(STOP_LIMIT_S) == 0
    assert time.monotonic() - began < STOP_LIMIT_S
    assert processes_of(data_dir) == []


def test_ctrl_c_while_it_starts_stops_all_without_a_traceback(data_dir: Path) -> None:
    process = start_up(data_dir, *SERVERS)
    assert process.stdout is not None
    said = b""
    while b"primary          starting" not in said:
        said += process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=STOP_LIMIT_S)
    assert process.returncode == 0
    assert b"Traceback" not in rest
    assert b"never retrieved" not in rest
    assert processes_of(data_dir) == []


@pytest.mark.faults
def test_parts_that_hang_do_not_keep_it_from_stopping(data_dir: Path) -> None:
    stack = started(data_dir)
    for name in ("primary", "standby", "valkey"):
        for member in psutil.Process(stack.part(name)["pid"]).children(recursive=True):
            member.suspend()
        psutil.Process(stack.part(name)["pid"]).suspend()
    stack.process.terminate()
    assert stack.process.wait(STOP_LIMIT_S + 1) == 0
    assert processes_of(data_dir) == []


async def test_after_kill_nine_of_the_supervisor_nothing_is_left_and_nothing_is_lost(
    data_dir: Path,
) -> None:
    stack = started(data_dir)
    await write_a_row(stack, "committed before the kill")
    psutil.Process(stack.part("valkey")["pid"]).suspend()  # would not notice by itself
    os.kill(stack.state["supervisor"]["pid"], signal.SIGKILL)
    stack.process.wait(STOP_LIMIT_S)
    seconds_until_nothing_is_left(data_dir, STOP_LIMIT_S)
    with running_stack(data_dir, *SERVERS[:1]) as again:
        assert await rows(again) == ["committed before the kill"]


def test_after_kill_nine_of_the_process_that_the_user_sees_nothing_is_left(data_dir: Path) -> None:
    stack = started(data_dir)
    stack.process.kill()
    stack.process.wait(STOP_LIMIT_S)
    seconds_until_nothing_is_left(data_dir, STOP_LIMIT_S)


@pytest.mark.faults
def test_after_kill_nine_of_supervisor_and_guard_at_once_nothing_is_left(data_dir: Path) -> None:
    stack = started(data_dir)
    pids = [stack.state[name]["pid"] for name in ("supervisor", "guard")]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    stack.process.wait(STOP_LIMIT_S)
    seconds_until_nothing_is_left(data_dir, STOP_LIMIT_S)


def test_a_second_up_on_the_same_folder_says_so(data_dir: Path) -> None:
    stack = started(data_dir)
    second = tercet("up", *SERVERS, "--data-dir", str(data_dir))
    assert second.returncode == EXIT_ALREADY_RUNNING
    assert "already running" in second.stderr
    assert str(stack.state["supervisor"]["pid"]) in second.stderr
    stack.process.terminate()
    stack.process.wait(STOP_LIMIT_S)


def test_a_taken_port_says_so_and_starts_nothing(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = tercet("up", "--port", port, "--data-dir", str(data_dir))
    assert refused.returncode == EXIT_PORT_TAKEN
    assert f"port {port}" in refused.stderr
    assert processes_of(data_dir) == []


LONG = pytest.mark.faults  # that settings refuse these is tested in tests/test_settings.py


@pytest.mark.parametrize(
    "weak", [pytest.param("", marks=LONG), "changeme" * 8, pytest.param("x7Kq", marks=LONG)]
)
def test_an_empty_default_or_short_secret_refuses_to_start(tmp_path: Path, weak: str) -> None:
    data_dir = tmp_path / "data"
    assert tercet("secrets", str(data_dir / "secrets")).returncode == 0
    (data_dir / "secrets" / "tercet_internal_secret").write_text(weak)
    refused = tercet("up", *SERVERS, "--data-dir", str(data_dir))
    assert refused.returncode == EXIT_BAD_SETTINGS
    assert "internal_secret" in refused.stderr
    assert weak == "" or weak not in refused.stderr


def test_detached_it_returns_when_all_is_ready_and_down_stops_it(data_dir: Path) -> None:
    detached = tercet("up", *SERVERS, "--detach", "--data-dir", str(data_dir))
    assert detached.returncode == 0, detached.stderr
    status = json.loads(tercet("status", "--json", "--data-dir", str(data_dir)).stdout)
    assert status["phase"] == "ready"
    assert tercet("down", "--data-dir", str(data_dir)).returncode == 0
    assert processes_of(data_dir) == []


def test_commands_on_a_stopped_stack_say_that_it_is_stopped(data_dir: Path) -> None:
    for command in (("down",), ("status",), ("migrate",), ("stock", "receive", "A-1", "1")):
        done = tercet(*command, "--data-dir", str(data_dir))
        assert done.returncode == 1
        assert "no stack is running" in done.stderr


def test_on_a_terminal_it_shows_a_table_and_obeys_ctrl_c(data_dir: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="40")
        arguments = ["-m", "infra.cli", "up", *SERVERS, "--data-dir", str(data_dir)]
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
    shown = read_until(terminal, b"The servers are up")
    os.write(terminal, b"\x03")
    shown += read_until(terminal, None)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    for word in (b"address", b"primary", b"running", b"streaming", b"MiB"):
        assert word in shown
    assert processes_of(data_dir) == []


def read_until(terminal: int, word: bytes | None) -> bytes:
    """What the terminal shows up to a word, or to its end."""
    shown = b""
    while word is None or word not in shown:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is closed
            piece = b""
        if not piece:
            assert word is None, shown.decode()
            break
        shown += piece
    return shown


def test_a_user_without_privileges_can_start_it(data_dir: Path) -> None:
    """As root, the test enters a user namespace where it is nobody; else it is one already."""
    prepare = in_user_namespace if os.geteuid() == 0 else None
    with running_stack(data_dir, *SERVERS[:1], preexec_fn=prepare) as stack:
        assert psutil.Process(stack.part("primary")["pid"]).name() == "postgres"
        assert "streaming" in stack.part("standby")["detail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else's")
def test_root_keeps_its_hands_off_the_data_of_another_user(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    (data_dir / "primary").mkdir(parents=True)
    os.chown(data_dir, 12345, 12345)
    refused = tercet("up", *SERVERS, "--data-dir", str(data_dir))
    assert refused.returncode == 1
    assert "belongs to user id 12345" in refused.stderr
    assert [path.name for path in data_dir.iterdir()] == ["primary"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else's")
@pytest.mark.parametrize("command", ["status", "down", "doctor", "up"])
def test_a_folder_that_can_not_be_read_is_told_in_one_line(tmp_path: Path, command: str) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    os.chown(data_dir, 12345, 12345)
    words = [sys.executable, "-m", "infra.cli", command, "--data-dir", str(data_dir)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, preexec_fn=in_user_namespace
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"the data folder {data_dir} can not be" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("host", "said"),
    [("192.0.2.1", "is not an address of this machine"), ("no.invalid", "no host of this name")],
)
def test_a_host_that_can_not_be_listened_on_is_told_in_plain_words(
    tmp_path: Path, host: str, said: str
) -> None:
    refused = tercet("up", "--host", host, "--data-dir", str(tmp_path / "data"))
    assert refused.returncode == 1
    assert said in refused.stderr


def test_a_terminal_that_is_closed_stops_what_make_started(data_dir: Path) -> None:
    """Make leads the session here and passes no SIGHUP on, as `ssh -t host 'make up'` has it."""
    leader = "import subprocess, sys; subprocess.call(sys.argv[1:])"
    pid, terminal = pty.fork()
    if pid == 0:
        up = [sys.executable, "-m", "infra.cli", "up", *SERVERS, "--data-dir", str(data_dir)]
        ignore = "import signal; signal.signal(signal.SIGHUP, lambda *_: None); "
        os.execv(sys.executable, [sys.executable, "-c", ignore + leader, *up])  # noqa: S606
    read_until(terminal, b"The servers are up")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert processes_of(data_dir) == []
