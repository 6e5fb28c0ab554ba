"""`python -m loadtests.bench_data` with tiny counts: what it measures, prints and writes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench_data import read_options
from loadtests.callers import call
from loadtests.data_stack import read_pgbench
from loadtests.programs import BrokenRunError
from tests.running_stack import let_through

WITHIN_S = 110.0
# As few clients as that: on a busy machine 64 of pgbench are not connected within its second.
TINY = (
    *("--rounds", "1", "--seconds", "0.2", "--warm-up-s", "0"),
    *("--products", "1500", "--callers", "4"),
)
SAID = """
transaction type: script.sql
number of failed transactions: 0 (0.000%)
latency average = 4.521 ms
tps = 14155.123456 (without initial connection time)
"""


async def bench(results: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The rows by their names."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.bench_data", "--results", str(results), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    document = json.loads((results / "bench-data.json").read_text())
    assert document["name"] == "bench-data"
    assert "written to" in out.decode()
    return {row["work"]: row for row in document["rows"]}


@pytest.mark.faults
async def test_holds_on_a_hot_row_are_compared_with_pgbench(tmp_path: Path) -> None:
    let_through(tmp_path / "data")
    rows = await bench(tmp_path, *TINY, "--only", "hot")
    compared = rows["holds on one hot row, batched, c=4"]
    assert compared["aim"] == ">= 20"
    assert compared["value"] > 0
    assert compared["peer_value"] > 0
    assert rows["holds on one hot row, batched, c=4, p99"]["value"] > 0


@pytest.mark.faults
async def test_everything_is_measured(tmp_path: Path) -> None:
    rows = await bench(tmp_path, *TINY)
    aims = {row["aim"] for row in rows.values()} - {None}
    assert aims == {">= 2", ">= 20", ">= 4", "<= 1", ">= 3", ">= 0.8"}
    assert all(row["value"] > 0 for row in rows.values())


async def test_a_caller_that_fails_is_no_measurement() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(BrokenRunError, match="LookupError"):
        await call(fail, callers=3, seconds=0.1, warm_up_s=0)


async def test_the_rate_is_of_all_callers_together() -> None:
    async def ask() -> None:
        await asyncio.sleep(0.01)

    called = await call(ask, callers=10, seconds=0.3, warm_up_s=0)
    assert 300 < called.rate <= 1000
    assert called.p50_ms >= 10
    assert called.cpu_us < 10_000


def test_a_run_of_pgbench_with_failures_is_no_measurement() -> None:
    assert read_pgbench(SAID) == 14155.123456
    for said in (SAID.replace("transactions: 0", "transactions: 7"), "pgbench: error"):
        with pytest.raises(BrokenRunError):
            read_pgbench(said)


@pytest.mark.parametrize("option", [("--only", "nothing"), ("--rounds", "0"), ("--products", "x")])
def test_an_option_that_makes_no_sense_is_refused(option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(option)
    assert ended.value.code == 2


def test_quick_measures_less_but_does_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    thorough = read_options(())
    monkeypatch.setenv("QUICK", "1")
    quick = read_options(("--rounds", "3"))
    assert quick.rounds == 3
    assert quick.products < thorough.products == 100_000
