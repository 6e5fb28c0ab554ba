"""Starting and ending processes so that none outlives the supervisor, however it ends."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import psutil

# linux/sched.h and linux/prctl.h; os.unshare exists only from Python 3.12.
CLONE_NEWUSER: Final = 0x10000000
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
NOBODY: Final = 65534  # initdb wants a user that has a name
LINUX: Final = sys.platform == "linux"

# How long what a killed supervisor left gets for its own clean end; a fast shutdown of
# PostgreSQL took 0.2 s, and the next start waits for this.
ORPHAN_GRACE_S: Final = 2.0

RUN_POLL_S: Final = 0.01  # of programs that take some tenths of a second

_libc = ctypes.CDLL(None, use_errno=True)

Identity = Literal["self", "namespace", "nobody"]


def in_user_namespace() -> None:
    """Move the calling process, root, into a user namespace where it is nobody.

    Files stay owned by root outside, so they need not be readable for anybody else.
    """
    if _libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", None), ("gid_map", None)):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(descriptor, (text or f"{NOBODY} 0 1").encode())
        os.close(descriptor)


def tied_to_this_process(number: int, identity: Identity = "self") -> Callable[[], None]:
    """What a child calls before exec, to be sent that signal when the calling process dies."""
    parent_pid = os.getpid()

    def prepare() -> None:
        if identity == "namespace":
            in_user_namespace()
        if LINUX:
            # After the namespace: changing credentials clears it.
            _libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
            if os.getppid() != parent_pid:
                os._exit(1)  # the parent died in between: nothing would signal us

    return prepare


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log_file: Path,
    cwd: Path,
    identity: Identity = "self",
    death_signal: int = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own that is signalled when this process dies.

    Must be called from the main thread: the kernel watches the thread that forked.
    """
    nobody = pwd.getpwnam("nobody") if identity == "nobody" else None
    with log_file.open("ab") as log:
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=nobody.pw_uid if nobody else None,
            group=nobody.pw_gid if nobody else None,
            extra_groups=[] if nobody else None,
            # Safe here: the supervisor has one thread, so no lock can be held by another.
            preexec_fn=tied_to_this_process(death_signal, identity),  # noqa: PLW1509
        )


async def run_to_end(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log_file: Path,
    cwd: Path,
    identity: Identity = "self",
) -> int:
    """Run a short program and return its exit code; it is killed when the waiting is cancelled."""
    process = spawn(command, environment=environment, log_file=log_file, cwd=cwd, identity=identity)
    try:
        while process.poll() is None:  # noqa: ASYNC110  # a process sets no asyncio.Event
            await asyncio.sleep(RUN_POLL_S)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    return process.returncode


def memory_bytes(pid: int, *, family: bool = True) -> int:
    """Memory of a process and its children: what they share is divided among its users."""
    if not family:
        return _own_memory_bytes(pid)
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return 0
    return _own_memory_bytes(pid) + sum(_own_memory_bytes(child.pid) for child in children)


def memory_of_families(pids: Iterable[int]) -> dict[int, int]:
    """memory_bytes() of each of them, from one look at the table of all processes.

    That look is most of what memory_bytes() costs: 7 ms of CPU on a machine with 170 of them.
    """
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process.pid)

    def family_bytes(pid: int) -> int:
        return _own_memory_bytes(pid) + sum(map(family_bytes, children.get(pid, ())))

    return {pid: family_bytes(pid) for pid in pids}


def _own_memory_bytes(pid: int) -> int:
    """Proportional set size where the kernel tells it, else the resident set."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def started_at(pid: int) -> float:
    """When a process started: with its id, it names a process for good."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The process that had this id and start time, if it still runs."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 1.0 and process.status() != "zombie":
            return process
    except psutil.Error:
        pass
    return None


def end_all(processes: Sequence[psutil.Process], grace_s: float = ORPHAN_GRACE_S) -> None:
    """End these processes and everything below them: asked first, then killed."""
    family = {p.pid: p for p in processes}
    for process in processes:
        with suppress(psutil.Error):
            family.update({p.pid: p for p in process.children(recursive=True)})
    for process in processes:
        with suppress(psutil.Error):
            is_postgres = "postgres" in process.name()
            process.send_signal(signal.SIGINT if is_postgres else signal.SIGTERM)
    _, alive = psutil.wait_procs(list(family.values()), timeout=grace_s)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=1.0)


def guard(work: Callable[[int], int], forget: Callable[[], list[psutil.Process]]) -> int:
    """Run `work` in a child and end whatever is left when it is gone; returns its exit code.

    This process adopts the orphans of the child (Linux), so a supervisor killed outright leaves
    nothing behind. The child is given the reading end of a pipe that closes when this process
    dies, and stops then. `forget` names what the child had started, where nothing is adopted.
    """
    reading, writing = os.pipe()
    if LINUX:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(writing)
            os.setsid()  # the terminal's Ctrl-C reaches the guard only, which passes it on
            code = work(reading)
        finally:
            with suppress(OSError):  # a terminal that was closed
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(reading)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: _pass_on(child))
    status = _wait_for(child)
    while left := psutil.Process().children() if LINUX else forget():
        end_all(left)
    return os.waitstatus_to_exitcode(status)


def _pass_on(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)


def _wait_for(child: int) -> int:
    while True:
        pid, status = os.wait()  # any child: adopted orphans are reaped on the way
        if pid == child:
            return status


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.02) -> bool:
    """Wait for a condition in a command; False when it did not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
