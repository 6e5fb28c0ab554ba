"""`python -m loadtests.bench_business` with tiny counts: what it measures, prints and writes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench_business import read_options
from loadtests.business_works import TWIN
from tests.running_stack import RunningStack

WITHIN_S = 100.0
TINY = ("--generator", "own", "--rounds", "1", "--seconds", "0.3", "--warm-up-s", "0")
FEW = ("--products", "40", "--connections", "4")
MEMBERS = {"work", "value", "unit", "peer", "peer_value", "ratio", "aim", "met", "runs"}


async def bench(
    stack: RunningStack, results: Path, *options: str
) -> tuple[int | None, list[dict[str, Any]], str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.bench_business", *TINY, *FEW, *options),
        *("--data-dir", str(stack.data_dir), "--results", str(results)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    written = json.loads((results / "bench-business.json").read_text())
    assert list(written) == ["name", "commit", "machine", "started_at", "settings", "rows"]
    assert written["name"] == "bench-business"
    assert str(stack.data_dir) not in json.dumps(written)
    return process.returncode, written["rows"], out.decode(), err.decode()


def compared(rows: list[dict[str, Any]], aim: str | None = None) -> None:
    """Rate, p99 and CPU of one work, of both sides."""
    assert [(row["unit"], row["peer"], row["aim"]) for row in rows] == [
        ("req/s", TWIN, aim),
        ("ms", TWIN, None),
        ("us each", TWIN, None),
    ]
    for row in rows:
        assert set(row) >= MEMBERS
        assert row["value"] > 0
        assert row["peer_value"] > 0
        assert row["runs"] == [pytest.approx(row["value"] / row["peer_value"], rel=0.05)]


async def test_business_is_compared_with_the_usual_way(stack: RunningStack, tmp_path: Path) -> None:
    code, rows, out, err = await bench(stack, tmp_path, "--only", "memory")
    assert (code, err) == (0, "")
    compared(rows, ">= 2")
    assert f"{rows[0]['ratio']:.2f}" in out


@pytest.mark.faults
async def test_every_way_to_a_page_is_measured(stack: RunningStack, tmp_path: Path) -> None:
    code, rows, _, err = await bench(stack, tmp_path, "--only", "valkey,list,stages")
    assert (code, err) == (0, "")
    compared(rows[:3])
    compared(rows[3:6])
    stages = rows[6:]
    assert {(row["unit"], row["peer"]) for row in stages} == {("us each", None)}
    assert all(row["note"] for row in stages)
    *parts, whole = [row["value"] for row in stages]
    assert sum(parts) == pytest.approx(whole, abs=0.01)
    assert parts[0] > 0  # parsing, the one stage that no noise hides


@pytest.mark.faults
async def test_answers_from_elsewhere_are_no_measurement(
    stack: RunningStack, tmp_path: Path
) -> None:
    option = ("--setting", "TERCET_CACHE_MEMORY_BYTES=0")
    code, rows, _, err = await bench(stack, tmp_path, "--only", "memory", *option)
    assert (code, rows) == (1, [])
    assert "broke: memory: " in err
    assert "Valkey found" in err


@pytest.mark.parametrize(
    "option",
    [("--only", "nothing"), ("--rounds", "0"), ("--products", "0"), ("--setting", "MEMORY=1")],
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
    assert quick.products < thorough.products
