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
SHORT = ("--seconds", "1", "--warm-up-s", "0.2", "--payments-rate", "20", "--rate", "100")


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


async def load(results: Path, *arguments: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.load", "--results", str(results), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    file = results / "load.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode(), result)


async def test_a_run_prints_and_writes_what_it_measured(
    start_shop: StartShop, tmp_path: Path
) -> None:
    async with start_shop() as shop:
        ended = await load(tmp_path, "--url", shop.url, "--arrivals", "constant", *SHORT)
    assert ended.code == 0, ended.err
    assert ended.err == ""
    for head in ("QPS", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "PSS MiB", "CPU s"):
        assert head in ended.out
    assert "product page: 100 due, 100 sent, 0 unsent" in ended.out
    assert "checkout (order, payment): 20 due, 20 sent, 0 unsent" in ended.out
    assert ended.result["name"] == "load"
    assert ended.result["settings"]["rate"] == 100
    assert 80 < ended.value("product page") <= 101
    assert 0 < ended.value("product page, p50") <= ended.value("product page, p99.9")
    assert ended.value("product page, unsent") == 0
    assert ended.value("CPU of the generator") > 0
    assert all(row["peer_value"] is None and row["note"] for row in ended.result["rows"])


async def test_an_overloaded_shop_fails_the_run(start_shop: StartShop, tmp_path: Path) -> None:
    async with start_shop("--work-ms", "50") as shop:
        few = ("--connections", "2", "--timeout-s", "0.5", "--payments-rate", "0")
        ended = await load(tmp_path, "--url", shop.url, *SHORT, *few)
    assert ended.code == 1
    assert "failed: product page: arrivals unsent or errors" in ended.err
    assert ended.value("product page, unsent") > 20


async def test_what_is_sold_out_is_refused_and_does_not_fail_the_run(
    start_shop: StartShop, tmp_path: Path
) -> None:
    async with start_shop("--sold-out") as shop:
        ended = await load(tmp_path, "--url", shop.url, *SHORT, "--rate", "0")
    assert ended.code == 0, ended.err
    assert ended.value("checkout (order, payment), refused: sold out") > 0
    assert "its payment alone" not in ended.out


async def test_a_payment_that_does_not_succeed_fails_the_run(
    start_shop: StartShop, tmp_path: Path
) -> None:
    async with start_shop("--state", "UNKNOWN") as shop:
        ended = await load(tmp_path, "--url", shop.url, *SHORT, "--rate", "0")
    assert ended.code == 1
    assert ended.value("checkout (order, payment), error: payment: UNKNOWN") > 0


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


@pytest.mark.parametrize(
    "arguments", [("--rate", "-1"), ("--seconds", "0"), ("--rate", "0", "--payments-rate", "0")]
)
async def test_an_option_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ended = await load(tmp_path, *arguments)
    assert ended.code == 2
    assert "usage:" in ended.err
