"""Memory and CPU time of parts."""

from __future__ import annotations

import asyncio
import sys

from loadtests.usage import UsageMeter
from tests.faults.waiting import until

# A parent whose child has burnt half a second of CPU and ended: it counts for the parent.
BURN = """
import subprocess, sys
burn = "import time\\nwhile time.process_time() < 0.5: pass"
subprocess.run([sys.executable, "-c", burn])
print("burnt", flush=True)
sys.stdin.read()
"""


async def test_what_a_part_and_its_children_take_is_measured() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BURN),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        meter = UsageMeter([{"name": "burner", "pid": process.pid}, {"name": "task", "pid": None}])
        assert await process.stdout.readline() == b"burnt\n"
        (usage,) = meter.read()
        assert usage.name == "burner"
        assert usage.cpu_s is not None
        assert 0.4 < usage.cpu_s < 5
        assert 1_000_000 < usage.memory_bytes < 100_000_000
    finally:
        process.kill()
        await process.wait()


async def test_a_part_that_is_gone_has_no_cpu_time() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()")
    meter = UsageMeter([{"name": "gone", "pid": process.pid}])
    process.kill()
    await process.wait()
    await until(lambda: meter.read()[0].cpu_s is None, within_s=5, what="it is gone")
