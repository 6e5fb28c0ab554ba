"""The file of figures: merged by run, and honest about what failed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.figures import Figures

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def rows_of(figures: Figures, path: Path) -> list[dict[str, Any]]:
    figures.write(path, started_at=AT)
    document = json.loads(path.read_text())
    assert list(document) == ["name", "commit", "machine", "started_at", "rows"]
    assert document["started_at"] == "2026-01-02T03:04:05+00:00"
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def brief(rows: list[dict[str, Any]]) -> list[tuple[int | None, str, bool]]:
    return [(row["experiment"], row["name"], row["passed"]) for row in rows]


def test_a_row_has_its_experiment_and_its_figures(tmp_path: Path) -> None:
    figures = Figures()
    figures.record(46, "slow heads", True, closed_after_s=10.2, connections=2000)
    (row,) = rows_of(figures, tmp_path / "results" / "faults.json")
    assert list(row) == ["experiment", "name", "passed", "figures", "commit"]
    assert row["figures"] == {"closed_after_s": 10.2, "connections": 2000}


def test_a_run_replaces_its_own_rows_and_keeps_the_others(tmp_path: Path) -> None:
    first, second = Figures(), Figures()
    first.record(50, "streams", False, disagreements=1)
    first.record(46, "slow heads", True)
    second.record(50, "streams", True, disagreements=0)
    rows_of(first, tmp_path / "faults.json")
    rows = rows_of(second, tmp_path / "faults.json")
    assert brief(rows) == [(46, "slow heads", True), (50, "streams", True)]
    assert rows[1]["figures"] == {"disagreements": 0}


def test_what_was_recorded_by_a_test_that_fails_has_not_passed(tmp_path: Path) -> None:
    figures = Figures()
    figures.begins("one")
    figures.record(1, "before", True)
    figures.begins("two")
    figures.record(2, "then", True)
    figures.failed("two")
    assert brief(rows_of(figures, tmp_path / "f.json")) == [(1, "before", True), (2, "then", False)]


def test_a_failure_that_recorded_nothing_is_there_until_its_test_runs_again(
    tmp_path: Path,
) -> None:
    first, second = Figures(), Figures()
    first.begins("tests/x.py::test_y")
    first.failed("tests/x.py::test_y")
    assert brief(rows_of(first, tmp_path / "f.json")) == [(None, "tests/x.py::test_y", False)]
    second.begins("tests/x.py::test_y")
    second.record(3, "y", True)
    assert brief(rows_of(second, tmp_path / "f.json")) == [(3, "y", True)]


def test_a_figure_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Figures().record(1, "x", True, took_s=float("nan"))
