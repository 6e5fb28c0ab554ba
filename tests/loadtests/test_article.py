"""`python -m loadtests.article` with tiny counts, and the tables that are made of samples."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from loadtests.article import read_options
from loadtests.article_loads import LOADS
from loadtests.article_sides import HELLO, OURS, PAGE, Sample
from loadtests.article_tables import Key, Measured, distributions, rows, tables
from loadtests.readings import Reading

WITHIN_S = 60.0
TINY = ("--only", "short-360", "--rounds", "1", "--seconds", "0.3", "--warm-up-s", "0")
KEPT, _, SHORT, _ = LOADS


async def test_what_can_not_be_had_is_skipped_and_the_page_is_measured(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # as where no toolchain and no other generator is
    command = [sys.executable, "-m", "loadtests.article", *TINY, "--peers", "gin,node"]
    process = await asyncio.create_subprocess_exec(
        *(*command, "--data-dir", str(data_dir), "--results", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = (said.decode() for said in await process.communicate())
    assert (process.returncode, err) == (0, "")
    assert "skipped: Node std: node is not installed" in out
    assert "skipped: Gin: go is not installed" in out
    document = json.loads((tmp_path / "article-short-360.json").read_text())
    page_bytes = document["settings"]["page_bytes"]
    assert page_bytes > 1024
    table, columns = document["tables"]
    assert table["title"].endswith(f"by our loop: the same {page_bytes:,} bytes")
    (row,) = table["rows"]
    figures = dict(zip(table["columns"], row, strict=True))
    assert figures["server"] == OURS
    assert figures["QPS"] > 10
    assert 0 < figures["p50 ms"] <= figures["p99 ms"] <= figures["p99.9 ms"]
    assert (figures["errors %"], figures["reused %"]) == (0, 0)
    assert 0 < figures["connect ms"] <= figures["average ms"]
    assert figures["MB/s"] > 0
    assert figures["memory MiB"] > 10
    assert figures["CPU us each"] > 1
    assert any("Stdev" in note for (note,) in columns["rows"])
    assert document["distributions"][0]["count"] > 10


def sample(rate: float, *, errors: dict[str, int] | None = None, own: float = 0.5) -> Sample:
    reading = Reading(
        answers=round(rate),
        seconds=1.0,
        errors=errors or {},
        mean_ms=2.0,
        percentiles=[(50.0, 1.0), (90.0, 2.0), (99.0, 3.0), (100.0, 9.0)],
        received_bytes_s=5e6,
        connect_ms=None,
        reused=0.99,
        own_cpu_share=own,
    )
    return Sample(reading, cpu_us=20.0, memory_bytes=2**20, idle=0.0)


def measured(**sides: list[Sample]) -> Measured:
    hello: Key = (KEPT.key, "wrk", HELLO)
    page: Key = (KEPT.key, "wrk", PAGE)
    ours = {OURS: sides.pop("tercet")}
    return Measured({hello: sides, page: ours}, {"Gin": "go is not installed"}, 1300)


def test_ratios_are_taken_within_a_round_and_stand_beside_the_articles() -> None:
    sides = {
        "Tokio": [sample(1000), sample(2000), sample(500)],
        "Node std": [sample(500), sample(900), sample(400)],
    }
    both = measured(**sides, tercet=[sample(700), sample(1600), sample(300)])
    (table,) = tables(both)
    by_name = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(by_name) == ["Tokio", "Node std", OURS]
    node = by_name["Node std"]
    assert (node["QPS"], node["to Tokio's"]) == (500, 0.5)
    assert (node["article's QPS"], node["article's to Tokio's"]) == (139_412, 0.41)
    assert (node["article's MB"], node["memory MiB"]) == (186, 1)
    assert (node["p99 ms"], node["p99.9 ms"]) == (3.0, None) if "p99.9 ms" in node else True
    assert by_name[OURS]["to Tokio's"] == 0.7
    assert by_name[OURS]["article's QPS"] is None
    assert "connect ms" not in table.columns  # nobody could tell
    assert "Gin: not measured. go is not installed" in table.notes
    compared = {row.work.partition(",")[0]: row for row in rows(both)}
    assert compared["Node std"].runs == [0.5, 0.45, 0.8]
    assert compared["Tokio"].ratio is None
    assert compared[OURS].peer == "Tokio, hello"


def test_failures_and_a_generator_at_its_limit_are_told_beside_the_figures() -> None:
    failing = [sample(900, errors={"timeout": 100}, own=0.99)]
    (table,) = tables(measured(Tokio=failing, tercet=[sample(10)]))
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells["errors %"] == 10.0
    remark = "Tokio: errors: 100 timeout; the generator was the limit, it can do more."
    assert remark in table.notes


def test_curves_are_drawn_of_our_own_loops_pages_alone() -> None:
    assert distributions(measured(Tokio=[sample(10)], tercet=[sample(10)])) == []
    own = {(KEPT.key, "own", PAGE): {"Tokio": [sample(10)], OURS: [sample(12)]}}
    drawn = distributions(Measured(own, {}, 1300))  # type: ignore[arg-type]
    assert [(one.name, one.count, one.chart) for one in drawn] == [
        ("Tokio", 10, KEPT.title),
        (OURS, 12, KEPT.title),
    ]


def test_quick_measures_less(monkeypatch: pytest.MonkeyPatch) -> None:
    thorough = read_options(())
    monkeypatch.setenv("QUICK", "1")
    quick = read_options(("--rounds", "2"))
    assert (quick.rounds, quick.quick) == (2, True)
    assert quick.seconds < thorough.seconds


def test_without_a_round_of_its_own_there_is_no_row_and_tokios_reason_is_told() -> None:
    alone = {(SHORT.key, "own", PAGE): {OURS: [sample(12)]}}
    only = Measured(alone, {"Tokio": "cargo is not installed"}, 1300)  # type: ignore[arg-type]
    (row,) = rows(only)
    assert row.note == "Tokio: cargo is not installed"
    assert (row.peer_value, row.met) == (None, None)
