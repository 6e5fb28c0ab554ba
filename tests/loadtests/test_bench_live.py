"""`python -m loadtests.bench_live` with tiny counts: what it measures, prints and writes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

WITHIN_S = 100.0
TINY = (
    *("--generator", "own", "--rounds", "1", "--seconds", "0.2", "--warm-up-s", "0"),
    *("--streams", "40", "--connections", "4", "--settle-s", "0"),
)


async def bench(results: Path, *options: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.bench_live", "--results", str(results)),
        *(*TINY, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, ""), out.decode()
    document = json.loads((results / "bench-live.json").read_text())
    assert document["name"] == "bench-live"
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def kinds(rows: list[dict[str, Any]]) -> list[tuple[str, str | None, str | None]]:
    return [(row["unit"], row["peer"], row["aim"]) for row in rows]


async def test_streams_are_opened_told_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # as where Node is not installed
    rows = await bench(tmp_path, "--only", "streams")
    assert kinds(rows) == [
        ("bytes", "limit", "<= 1"),
        ("bytes", "Node std", None),
        *(("ms", "Node std", None),) * 3,
        ("a second", "Node std", None),
    ]
    assert rows[1]["note"] == "node is not installed"
    half, most, everybody = (row["value"] for row in rows[2:5])
    assert 0 < half <= most <= everybody
    assert rows[5]["value"] > 10


@pytest.mark.faults
async def test_pages_beside_and_many_processes_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    rows = await bench(tmp_path, "--only", "pages,many", "--many", "60")
    assert kinds(rows) == [
        ("req/s", "access without", ">= 0.8"),
        ("ms", "access without", None),
        ("req/s", "access without", None),
        ("ms", "access without", None),
        ("streams", None, None),
        ("bytes", None, None),
        ("ms", None, None),
    ]
    assert rows[4]["value"] == 60


@pytest.mark.faults
async def test_an_order_reaches_every_stream_through_the_whole_stack(tmp_path: Path) -> None:
    rows = await bench(tmp_path, "--only", "change")
    assert kinds(rows) == [
        ("ms", "limit", None),
        ("ms", "limit", "<= 1"),
        ("ms", "limit", None),
    ]
    assert all(row["value"] > 0 for row in rows)
