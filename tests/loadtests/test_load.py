"""`python -m loadtests.load` as its users run it: what it prints, writes and returns."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.loadtests.conftest import StartShop

WITHIN_S = 60.0
SHORT = ("--seconds", "1", "--warm-up-s", "0")
SCENARIO = """
title = "a small shop"

[[traffic]]
does = "page"
name = "product page"
rate = 100
arrivals = "constant"
connections = {connections}
timeout_s = {timeout_s}
targets = {{ p99_ms = {p99_ms} }}

[[traffic]]
does = "checkout"
rate = {checkouts}
arrivals = "constant"
"""


def scenario(folder: Path, **changes: float) -> tuple[str, ...]:
    """The options for a scenario file of a test."""
    values = {"connections": 16, "timeout_s": 5, "p99_ms": 2000, "checkouts": 20, **changes}
    file = folder / "small.toml"
    file.write_text(SCENARIO.format(**values))
    return ("--scenario", str(file), *SHORT)


@dataclass
class Ended:
    """A run that is over."""

    code: int
    out: str
    err: str
    result: dict[str, Any]

    def value(self, work: str) -> float:
        values = [row["value"] for row in self.result["rows"] if row["work"] == work]
        assert len(values) == 1, work
        return float(values[0])


async def load(results: Path, *arguments: str, file: str = "load-small.json") -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.load", "--results", str(results), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    written = results / file
    result = json.loads(written.read_text()) if written.exists() else {}
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode(), result)


async def test_a_run_prints_and_writes_what_it_measured(
    start_shop: StartShop, tmp_path: Path
) -> None:
    """Two processes, each with its share: the figures are of both."""
    async with start_shop() as shop:
        options = scenario(tmp_path)
        ended = await load(tmp_path, "--url", shop.url, *options, "--processes", "2")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    for head in ("QPS", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "PSS MiB", "CPU s"):
        assert head in ended.out
    assert "product page: 100 due, 100 sent, 0 unsent" in ended.out
    assert "checkout: 20 due, 20 sent, 0 unsent" in ended.out
    assert "held    product page: p99 <= 2000 ms" in ended.out
    assert ended.result["name"] == "load-small"
    assert ended.result["settings"]["processes"] == 2
    assert ended.value("product page") == 100
    assert 0 < ended.value("product page, p50") <= ended.value("product page, p99.9")
    assert ended.value("checkout: its payment alone") == 20
    assert ended.value("CPU of the generator") > 0
    assert all(row["peer_value"] is None and row["note"] for row in ended.result["rows"])
    over_time = {(one["name"], one["unit"]): one["points"] for one in ended.result["series"]}
    assert over_time["product page", "req/s"] == [[0, 100]]
    assert {one["name"]: one["count"] for one in ended.result["distributions"]} == {
        "product page": 100,
        "checkout": 20,
        "checkout: its payment alone": 20,
    }
    assert all(check["held"] for check in ended.result["checks"])


@pytest.mark.faults
async def test_an_overloaded_shop_fails_the_run(start_shop: StartShop, tmp_path: Path) -> None:
    async with start_shop("--work-ms", "50") as shop:
        options = scenario(tmp_path, connections=2, timeout_s=0.5, checkouts=1)
        ended = await load(tmp_path, "--url", shop.url, *options)
    assert ended.code == 1
    assert "failed: product page: all that was due was sent" in ended.err
    assert ended.value("product page, unsent") > 20


async def test_a_target_that_is_missed_fails_the_run(start_shop: StartShop, tmp_path: Path) -> None:
    async with start_shop("--work-ms", "5") as shop:
        options = scenario(tmp_path, p99_ms=4)
        ended = await load(tmp_path, "--url", shop.url, *options)
    assert ended.code == 1
    assert "failed: product page: p99 <= 4 ms" in ended.err
    assert ended.value("product page, unsent") == 0


@pytest.mark.faults
async def test_the_knee_is_the_last_step_that_held(start_shop: StartShop, tmp_path: Path) -> None:
    """50 pages a second and not one more: the third step asks for 78, and the second for 62."""
    async with start_shop("--work-ms", "20") as shop:
        options = scenario(tmp_path, connections=4, timeout_s=0.6, checkouts=1, p99_ms=500)
        ended = await load(tmp_path, "--url", shop.url, *options, "--profile", "breakpoint")
    lines = [line for line in ended.out.splitlines() if line.startswith("load ")]
    once_more = [line for line in lines if line.endswith("; once more")]
    steps = [line for line in lines if line not in once_more]
    missed = [line for line in steps if "missed: " in line]
    assert ended.code == 0, ended.out
    assert missed
    assert all("  held" in step for step in steps if step not in missed)
    (curve,) = ended.result["curves"]
    points = [point[0] for point in curve["lines"][0]["points"]]
    assert points == sorted(points)
    assert len(points) == len(steps)
    knee = ended.value("the knee: arrivals at the last load that held")
    assert knee in points[:-1]
    assert f"the knee: {knee:.0f} arrivals/s" in ended.out
    assert all(check["held"] for check in ended.result["checks"])  # of the knee, as it is shown


@pytest.mark.faults
async def test_what_is_sold_out_is_refused_and_does_not_fail_the_run(
    start_shop: StartShop, tmp_path: Path
) -> None:
    async with start_shop("--sold-out") as shop:
        ended = await load(tmp_path, "--url", shop.url, *scenario(tmp_path))
    assert ended.code == 0, ended.err
    assert ended.value("checkout, refused: sold out") > 0
    assert "its payment alone" not in ended.out


@pytest.mark.faults
async def test_a_payment_that_does_not_succeed_fails_the_run(
    start_shop: StartShop, tmp_path: Path
) -> None:
    async with start_shop("--state", "UNKNOWN") as shop:
        ended = await load(tmp_path, "--url", shop.url, *scenario(tmp_path))
    assert ended.code == 1
    assert ended.value("checkout, error: payment: UNKNOWN") > 0


async def test_a_stack_that_does_not_run_is_named_plainly(tmp_path: Path) -> None:
    ended = await load(tmp_path, "--data-dir", str(tmp_path / "nothing"))
    assert ended.code == 69
    assert ended.err.startswith("no stack is running on ")
    assert "Traceback" not in ended.err


async def test_an_address_where_nobody_listens_is_named_plainly(
    start_shop: StartShop, tmp_path: Path
) -> None:
    async with start_shop() as shop:
        pass
    ended = await load(tmp_path, "--url", shop.url)
    assert ended.code == 69
    assert ended.err.startswith(f"nothing to load at {shop.url}")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("arguments", [("--load", "-1"), ("--seconds", "0"), ("--profile", "none")])
async def test_an_option_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ended = await load(tmp_path, *arguments)
    assert ended.code == 2
    assert "usage:" in ended.err


@pytest.mark.faults
async def test_overload_is_measured_before_a_business_of_known_capacity(tmp_path: Path) -> None:
    """300 a second and not one more: 1,425 come, and what is too much is refused by access."""
    options = ("--scenario", "overload", "--own-stack", "--seconds", "2", "--warm-up-s", "0")
    ended = await load(tmp_path, *options, "--load", "0.5", file="load-overload.json")
    assert ended.code in (0, 1), ended.err
    pages, checkouts = ended.value("pages"), ended.value("checkouts")
    # In two seconds, and what had waited when they were over.
    assert 0 < pages + checkouts <= 500
    assert ended.value("pages, error: status 503, overloaded") > 1000
    assert ended.value("memory of access") > 0
    assert any("checkouts: goodput >= 100/s" in check["what"] for check in ended.result["checks"])


async def test_two_results_are_compared_by_ratios_and_their_spread(tmp_path: Path) -> None:
    for name, factor in (("a", 1), ("b", 2)):
        points = [[second, factor * (10 + second % 3)] for second in range(10)]
        result = {
            "commit": name,
            "rows": [{"work": "page, max", "unit": "ms", "value": 4 * factor, "runs": []}],
            "series": [{"name": "page", "unit": "req/s", "points": points}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    ended = await load(tmp_path, "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert ended.code == 0, ended.err
    assert "commit differs: a and b" in ended.out
    by_second, single = ended.out.splitlines()[-2:]
    assert by_second.split()[-5:] == ["answers/s", "11.00", "22.00", "2.00", "1.67-2.40"]
    assert single.split()[-4:] == ["ms", "4.00", "8.00", "2.00"]
    (tmp_path / "b.json").write_text("[]")
    ended = await load(tmp_path, "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert (ended.code, ended.err) == (69, f"{tmp_path / 'b.json'} is no result\n")
