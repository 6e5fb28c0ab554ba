"""Processes end with whoever started them, and are told apart from others of the same id."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.local.processes import (
    LINUX,
    end_all,
    memory_bytes,
    memory_of_families,
    same_process,
    started_at,
)

SLEEP = "import time; time.sleep(600)"
STARTS_ONE = """
import os, pathlib, sys, time
from infra.local.processes import spawn
folder = pathlib.Path(sys.argv[1])
child = spawn([sys.executable, "-c", "import time; time.sleep(600)"], environment=os.environ,
              log_file=folder / "log", cwd=folder, identity=sys.argv[2])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not LINUX, reason="elsewhere the guard does this")
@pytest.mark.parametrize("identity", ["self", "namespace"])
def test_a_part_dies_with_a_supervisor_that_is_killed_even_without_a_guard(
    tmp_path: Path, identity: str
) -> None:
    if identity == "namespace" and os.geteuid() != 0:
        pytest.skip("only root needs a namespace")
    command = [sys.executable, "-c", STARTS_ONE, str(tmp_path), identity]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        part = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    gone, _ = psutil.wait_procs([part], timeout=5)
    assert gone == [part]


def test_a_process_that_ignores_the_request_is_killed_with_its_children(tmp_path: Path) -> None:
    stubborn = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"print('on', flush=True)\n{SLEEP}"
    )
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = [*psutil.Process(process.pid).children(), psutil.Process(process.pid)]
        end_all([psutil.Process(process.pid)], grace_s=0.1)
        _, alive = psutil.wait_procs(family, timeout=2)
        assert [member for member in alive if member.status() != psutil.STATUS_ZOMBIE] == []


def test_another_process_with_the_same_id_is_not_taken_for_it() -> None:
    pid = os.getpid()
    assert same_process(pid, started_at(pid)) is not None
    assert same_process(pid, started_at(pid) - 60) is None


def test_memory_counts_children_and_nothing_for_the_dead() -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            deadline = time.monotonic() + 10
            while not psutil.Process(process.pid).children():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            alone = memory_bytes(process.pid, family=False)
            together = 0
            while (now := memory_bytes(process.pid)) != pytest.approx(together, rel=0.01):
                together = now  # the child imports
                time.sleep(0.05)
            assert 0 < alone < together
            (child,) = psutil.Process(process.pid).children()
            measured = memory_of_families([process.pid, child.pid])  # one within the other
            assert measured[process.pid] == pytest.approx(together, rel=0.1)
            assert 0 < measured[child.pid] < measured[process.pid]
        finally:
            end_all([psutil.Process(process.pid)])
    assert memory_bytes(process.pid) == 0
