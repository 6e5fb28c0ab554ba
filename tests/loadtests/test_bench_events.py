"""`python -m loadtests.bench_events` with tiny counts: what it measures, prints and writes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtests.bench_events import read_options
from loadtests.event_posts import MIX, batch, event, request_of
from services.events import TYPES, read_body
from tests.running_stack import let_through

WITHIN_S = 110.0
TINY = ("--rounds", "1", "--seconds", "0.3", "--soak-s", "2", "--connections", "4")


async def bench(results: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The rows by their names."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.bench_events", "--results", str(results), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    document = json.loads((results / "bench-events.json").read_text())
    assert document["name"] == "bench-events"
    assert "written to" in out.decode()
    return {row["work"]: row for row in document["rows"]}


@pytest.mark.faults
async def test_taking_is_compared_with_the_usual_way(tmp_path: Path) -> None:
    rows = await bench(tmp_path, *TINY, "--only", "take")
    work = "events taken in batches of 50, log on the same core"
    assert rows[work]["peer"].startswith("Starlette")
    assert rows[work]["value"] > 0
    assert rows[work]["peer_value"] > 0
    assert rows[f"{work}, against the aim"]["aim"] == ">= 1"
    assert rows[f"{work}, CPU of server and log"]["value"] > 0


@pytest.mark.faults
async def test_everything_is_measured_and_no_event_is_lost(tmp_path: Path) -> None:
    let_through(tmp_path / "data")
    rows = await bench(tmp_path, *TINY, "--only", "count")
    assert rows["of those lost"]["value"] == 0
    assert rows["events acknowledged in that time"]["value"] > 0
    assert rows["events sent and counted by one worker"]["value"] > 0


def test_what_is_sent_is_what_the_shop_takes() -> None:
    for kind in TYPES:
        read_body(json.dumps({"events": [event(kind, ["a-lamp"])]}).encode())
    head, _, body = request_of("host", batch(50, ["a-lamp"]), 3).partition(b"\r\n\r\n")
    assert len(read_body(body).events) == 50
    assert b"Content-Length: %d" % len(body) in head
    assert set(MIX) == set(TYPES)
    with pytest.raises(msgspec.ValidationError):
        read_body(json.dumps({"events": [event("other", ["a-lamp"])]}).encode())


@pytest.mark.parametrize("options", [["--only", "nothing"], ["--rounds", "0"], ["--soak-s", "-1"]])
def test_an_option_that_makes_no_sense_is_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        read_options(options)
    assert refused.value.code == 2
