"""`make pool-sweep`: what the figures say of the article's rule, and the script."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from loadtests.pool_sweep import ALONE, Measured, points_of, words


def rounds(rates: dict[int, float], alone_ms: float) -> dict[int, list[Measured]]:
    measured = {
        times: [Measured(rate * part, 50.0, 90.0, 3) for part in (0.9, 1.0, 1.1)]
        for times, rate in rates.items()
    }
    return {ALONE: [Measured(10.0, alone_ms, alone_ms, 0)], **measured}


def test_little_says_how_many_connections_are_in_use() -> None:
    points = points_of(rounds({1: 20.0, 16: 320.0}, alone_ms=100.0))
    assert [(point.times, point.rate, point.needed) for point in points] == [
        (1, 20.0, 2.0),
        (16, 320.0, 32.0),
    ]
    assert (points[0].p99_ms, points[0].refused) == (90.0, 3)


def test_the_rule_holds_where_it_gives_nearly_the_best_and_not_where_more_gives_more() -> None:
    page = points_of(rounds({1: 500.0, 2: 950.0, 4: 1000.0, 8: 990.0}, alone_ms=2.0))
    said = words("page", page)
    assert "reached with 2 x cores" in said
    assert "it is 100%, so the rule holds here" in said
    payment = points_of(rounds({1: 20.0, 2: 40.0, 4: 80.0, 16: 320.0}, alone_ms=100.0))
    said = words("payment", payment)
    assert "reached with 16 x cores" in said
    assert "it is 25%, so the rule does not hold here" in said
    assert "at the best: 32.0 connections" in said


@pytest.mark.faults
@pytest.mark.timeout(240)
async def test_both_classes_are_measured_at_each_size(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.pool_sweep", "--results", str(tmp_path)),
        *("--times", "1,4", "--rounds", "1", "--seconds", "1"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    result = json.loads((tmp_path / "pool-sweep.json").read_text())
    throughput = {line["name"]: line["points"] for line in result["curves"][0]["lines"]}
    assert {name: len(points) for name, points in throughput.items()} == {"page": 2, "payment": 2}
    # Payments wait: four times the connections are nearly four times the payments.
    (_, few), (_, many) = throughput["payment"]
    assert 2 < many / few < 5
    assert "page: 90% of the best throughput" in out.decode()
