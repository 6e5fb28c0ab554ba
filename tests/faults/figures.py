"""What the long forms of the fault experiments measured: loadtests/results/faults.json.

A run replaces the rows that it measured itself and keeps the others; each row says of which
commit it is. A test that fails says so in its rows, whatever it recorded before.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from loadtests.result import RESULTS, commit, machine

PATH: Final = RESULTS / "faults.json"
Row = dict[str, Any]


class Figures:
    """The rows of one run, in the order in which they were recorded."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._tests: set[str] = set()
        self._earlier: list[Row] = []  # rows of tests that are over

    def record(self, experiment: int | None, name: str, passed: bool, **figures: object) -> None:
        """Add a row; a second one of the same experiment and name replaces the first."""
        row = {"experiment": experiment, "name": name, "passed": passed, "figures": figures}
        json.dumps(row, allow_nan=False)  # what can not be written is the caller's mistake
        self.rows = [known for known in self.rows if _key(known) != _key(row)]
        self.rows.append(row)

    def begins(self, test: str) -> None:
        self._tests.add(test)
        self._earlier = list(self.rows)

    def failed(self, test: str) -> None:
        """The test that began last has failed: its rows say so, or else one of its own does."""
        rows = [row for row in self.rows if all(row is not known for known in self._earlier)]
        for row in rows:
            row["passed"] = False
        if not rows:
            self.record(None, test, False)

    def write(self, path: Path, *, started_at: datetime) -> None:
        """Merge the rows into the file, ordered by experiment."""
        measured = [row | {"commit": commit()} for row in self.rows]
        replaced = {_key(row) for row in measured} | {(None, test) for test in self._tests}
        kept = [row for row in _written(path) if _key(row) not in replaced]
        document = {
            "name": "faults",
            "commit": commit(),
            "machine": machine(),
            "started_at": started_at.astimezone(UTC).isoformat(timespec="seconds"),
            "rows": sorted(kept + measured, key=lambda row: (row["experiment"] or 0, row["name"])),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _key(row: Row) -> tuple[int | None, str]:
    return row["experiment"], row["name"]


def _written(path: Path) -> list[Row]:
    if not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text())["rows"]
    return rows


_of_this_run: Final = Figures()
_started_at: Final = datetime.now(UTC)


def record(experiment: int, name: str, passed: bool, **figures: object) -> None:
    """What a long form measured, before it asserts: the numbers of a failure matter most."""
    _of_this_run.record(experiment, name, passed, **figures)


# What tests/conftest.py hears from pytest


def begins(test: str) -> None:
    _of_this_run.begins(test)


def reported(report: pytest.TestReport) -> None:
    if report.failed and "faults" in report.keywords:
        _of_this_run.failed(report.nodeid)


def ended(config: pytest.Config) -> None:
    """Only a run of the long forms writes: `make test` must not replace their figures."""
    if config.option.markexpr == "faults" and _of_this_run.rows:
        _of_this_run.write(PATH, started_at=_started_at)
