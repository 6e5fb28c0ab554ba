"""`python -m loadtests.bench_login` with tiny counts: what it measures, prints and writes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench_login import read_options
from loadtests.offered import Crowd
from tests.access.upstream import Seen, Upstream, answer
from tests.running_stack import RunningStack

WITHIN_S = 100.0
TINY = ("--rounds", "1", "--seconds", "0.5", "--warm-up-s", "0", "--connections", "2")


async def bench(stack: RunningStack, results: Path, only: str) -> dict[str, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.bench_login", *TINY, "--only", only),
        *("--data-dir", str(stack.data_dir), "--results", str(results)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, ""), out.decode()
    written = json.loads((results / "bench-login.json").read_text())
    assert written["name"] == "bench-login"
    return {row["work"]: row for row in written["rows"]}


async def test_logins_are_measured(stack: RunningStack, tmp_path: Path) -> None:
    rows = await bench(stack, tmp_path, "logins")
    logins = rows["logins on short connections, c=2"]
    # Each has cost a hash: a core can not have made more of them than it can alone.
    assert 0 < logins["value"] < 2 * logins["peer_value"]
    assert rows["one hash alone on its core"]["value"] > 1
    assert rows["logins on short connections, c=2, CPU of business"]["value"] > 1000


@pytest.mark.faults
async def test_what_a_flood_of_logins_costs_others_is_measured(
    stack: RunningStack, tmp_path: Path
) -> None:
    rows = await bench(stack, tmp_path, "flood")
    aims = {work: row["aim"] for work, row in rows.items() if row["peer"] is not None}
    assert aims == {
        "pages held by access, p99 beside 200 logins/s": "<= 2",
        "reads of stock by business, p99 beside 200 logins/s": "<= 2",
        "payments, p99 beside 200 logins/s": "<= 2",
    }
    assert rows["a flood of 200 logins/s, let in"]["value"] > 0
    assert rows["a flood of 200 logins/s, refused with 503"]["value"] > 0


async def test_what_is_offered_is_counted_by_what_became_of_it_from_when_it_was_due() -> None:
    late = asyncio.Event()

    async def script(seen: Seen) -> bytes:
        if seen.target == b"/late":
            await late.wait()
        return answer(status=503 if seen.target == b"/no" else 200)

    async with Upstream(script) as server:
        requests = [
            f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for target in ("/late", "/no")
        ]
        crowd = Crowd(server.url, requests, close=False)
        running = asyncio.create_task(crowd.run(200, 0.5))
        await asyncio.sleep(0.8)  # nobody who waits keeps others from being sent
        late.set()
        outcome = await running
    assert (outcome.offered, outcome.good) == (100, 50)
    assert outcome.answers == {"200": 50, "503": 50}
    assert 300 <= outcome.p50_ms <= outcome.p99_ms < 5000


def test_an_option_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(("--only", "nothing"))
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
