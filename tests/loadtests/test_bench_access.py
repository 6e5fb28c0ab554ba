"""`python -m loadtests.bench_access` with tiny counts: what it measures, prints and writes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench_access import read_options

WITHIN_S = 60.0
TINY = ("--generator", "own", "--rounds", "1", "--seconds", "0.2", "--warm-up-s", "0")
MEMBERS = {"work", "value", "unit", "peer", "peer_value", "ratio", "aim", "met", "runs"}


async def bench(results: Path, *options: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.bench_access", "--results", str(results), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def kinds(rows: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    return [(row["unit"], row["peer"], row["aim"]) for row in rows]


async def test_access_is_compared_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # as where no toolchain is installed
    options = ("--only", "forward", "--peers", "nginx,python")
    code, out, err = await bench(tmp_path, *TINY, *options, "--setting", "TERCET_KEEP_ALIVE_S=90")
    assert (code, err) == (0, "")
    assert "skipped: nginx proxy_pass: nginx is not installed" in out
    document = json.loads((tmp_path / "bench-access.json").read_text())
    assert list(document) == ["name", "commit", "machine", "started_at", "settings", "rows"]
    assert document["name"] == "bench-access"
    assert document["settings"]["generator"] == "own"
    assert document["settings"]["setting"] == {"TERCET_KEEP_ALIVE_S": "90"}
    rows = document["rows"]
    assert all(set(row) >= MEMBERS for row in rows)
    assert kinds(rows) == [
        ("req/s", "nginx proxy_pass", ">= 0.2"),
        *((unit, "Python stand-in", None) for unit in ("req/s", "ms", "us each")),
    ]
    missing, compared = rows[:2]
    assert (missing["peer_value"], missing["ratio"], missing["met"]) == (None, None, None)
    assert missing["note"] == "nginx is not installed"
    assert compared["value"] > 100
    assert len(compared["runs"]) == 1
    assert f"{compared['ratio']:.2f}" in out


@pytest.mark.faults
async def test_held_pages_and_idle_connections_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    few = ("--connections", "8", "--idle-connections", "40", "--settle-s", "0")
    options = ("--only", "held,short,idle", "--peers", "node,python", *few)
    code, _, err = await bench(tmp_path, *TINY, *options)
    assert (code, err) == (0, "")
    rows = json.loads((tmp_path / "bench-access.json").read_text())["rows"]
    compared = [(unit, "Python stand-in", None) for unit in ("req/s", "ms", "us each")]
    assert kinds(rows) == [
        ("req/s", "Node std", ">= 1.4"),
        *compared,
        ("req/s", "Node std", ">= 1.5"),
        *compared,
        ("bytes", "limit", "<= 1"),
        ("bytes", "Node std", "<= 0.5"),
        ("bytes", "Python stand-in", None),
        ("req/s", "access without them", ">= 0.85"),
    ]
    assert all(row["value"] > 0 for row in rows)


@pytest.mark.parametrize(
    "option",
    [("--only", "nothing"), ("--rounds", "0"), ("--peers", "iis"), ("--setting", "POOL=1")],
)
def test_an_option_that_makes_no_sense_is_refused(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(option)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_quick_measures_less_but_does_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    thorough = read_options(())
    monkeypatch.setenv("QUICK", "1")
    quick = read_options(("--rounds", "3"))
    assert quick.rounds == 3
    assert quick.seconds < thorough.seconds
    assert quick.idle_connections < thorough.idle_connections == 10_000
