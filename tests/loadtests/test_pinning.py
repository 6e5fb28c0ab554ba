"""Which core a process is on."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from loadtests.measure import Watch
from loadtests.pinning import Cores, choose, core_times, on_core
from loadtests.programs import Program

WHERE = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]


def test_what_is_started_on_a_core_stays_there() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with on_core(core):
        assert subprocess.check_output(WHERE).split() == [str(core).encode()]
    assert os.sched_getaffinity(0) == before


def test_server_and_generator_get_different_cores_or_none() -> None:
    cores = choose()
    assert cores.pinned is (len(os.sched_getaffinity(0)) > 1)
    assert not cores.pinned or cores.server != cores.generator
    assert "of little worth" in str(Cores(None, None))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a core does")
def test_a_core_that_works_is_seen_to_work() -> None:
    core = max(os.sched_getaffinity(0))
    before = core_times(core)
    with on_core(core):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    assert core_times(core).since(before).other_s > 0.1


def test_a_core_is_not_idle_while_its_server_works_in_between() -> None:
    """Work that is over sooner than the kernel looks: by its own counts the core is idle."""
    core = max(os.sched_getaffinity(0))
    with on_core(core):
        watch, began_at = Watch(Program(os.getpid(), 0), core), time.monotonic()
        until_cpu_s = time.process_time() + 0.15
        while time.process_time() < until_cpu_s:
            worked_until = time.monotonic() + 0.001
            while time.monotonic() < worked_until:
                pass
            time.sleep(0.001)
        loaded_s = time.monotonic() - began_at
        cpu_s, idle, _ = watch.read(loaded_s)
    assert cpu_s > 0.1
    assert idle <= 1 - cpu_s / loaded_s + 0.01
