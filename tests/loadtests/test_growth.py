"""`make growth`: what counts as flat, and the script with tiny numbers."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.growth import MIX, relative, rows_of, verdicts

WITHIN_S = 200.0


def test_a_curve_is_flat_by_the_ratios_of_each_round() -> None:
    # The machine is half as fast in the second round: no ratio changes.
    flat = {1000: [10.0, 20.0, 10.0], 10_000: [11.0, 22.0, 11.0]}
    steep = {1000: [10.0, 20.0, 10.0], 10_000: [11.0, 22.0, 11.0], 100_000: [12.5, 25.0, 12.0]}
    assert relative(flat) == {1000: 1.0, 10_000: 1.1}
    # One round was slow on one side only: medians of the costs would say 0.55.
    assert relative({10: [10.0, 20.0, 20.0], 100: [11.0, 11.0, 22.0]})[100] == 1.1
    found = verdicts({"held page": flat, "cold, by key": steep, MIX: steep})
    assert [check.held for check in found] == [True, False]
    assert "25% apart" in found[1].detail
    # Falling by as much is not flat either.
    assert not verdicts({"held page": {10: [12.5], 100: [10.0]}})[0].held


def test_rows_have_the_ratios_to_the_smallest() -> None:
    costs = {"held page": {1000: [10.0, 12.0], 10_000: [11.0, 12.0]}}
    small, large, held = (row.document() for row in rows_of(costs, {1000: 0.9}))
    assert (small["work"], small["value"], small["peer"]) == ("held page, 1,000 products", 11, None)
    assert (large["peer"], large["peer_value"], large["runs"]) == ("1,000 products", 11, [1.1, 1.0])
    assert (held["work"], held["value"]) == ("mix, 1,000 products, held", 0.9)


async def growth(results: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.growth", "--results", str(results), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(WITHIN_S):
        out, _ = await process.communicate()
    assert process.returncode is not None
    file = results / "growth.json"
    return process.returncode, out.decode(), json.loads(file.read_text()) if file.exists() else {}


async def test_connections_are_measured_and_the_exit_code_is_the_verdict(tmp_path: Path) -> None:
    tiny = ("--sizes", "", "--connections", "4", "--rounds", "1", "--seconds", "0.3")
    code, said, result = await growth(tmp_path, *tiny)
    (curve,) = result["curves"]
    assert (curve["x"], [x for x, _ in curve["lines"][0]["points"]]) == ("connections", [4])
    assert all(cost > 0 for _, cost in curve["lines"][0]["points"])
    (check,) = result["checks"]
    assert code == (0 if check["held"] else 1), said
    assert check["what"] in said


@pytest.mark.faults
@pytest.mark.timeout(240)
async def test_every_path_is_measured_at_every_size(tmp_path: Path) -> None:
    tiny = ("--sizes", "1000,50000", "--rounds", "1", "--requests", "0.2")
    connections = ("--connections", "4,16", "--seconds", "0.3")
    _, said, result = await growth(tmp_path, *tiny, *connections)
    assert result, said
    curve, by_connections = result["curves"]
    assert [x for x, _ in by_connections["lines"][0]["points"]] == [4, 16]
    assert {line["name"] for line in curve["lines"]} == {
        "held page", "from Valkey", "cold, by key", "mix",
    }  # fmt: skip
    assert all([x for x, _ in line["points"]] == [1000, 50_000] for line in curve["lines"])
    costs = {line["name"]: line["points"][0][1] for line in curve["lines"]}
    # What Valkey should have and does not costs as much as a cold one.
    assert costs["held page"] < costs["from Valkey"] < costs["cold, by key"] / 2
    rows = {row["work"]: row["value"] for row in result["rows"]}
    assert 0 < rows["mix, 1,000 products, held"] < 1
    assert "filled in" in said
    (plans,) = [one for one in result["checks"] if one["what"].startswith("every read is found")]
    assert plans["held"], plans["detail"]
