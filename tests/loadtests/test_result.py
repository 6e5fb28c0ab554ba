"""The form of a result file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtests.result import Aim, Row, write

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROW_MEMBERS = ["work", "value", "unit", "peer", "peer_value", "ratio", "aim", "met", "runs"]


def test_a_result_file_has_exactly_the_agreed_members(tmp_path: Path) -> None:
    rows = [
        Row(
            "held page",
            92_000.0,
            "req/s",
            peer="Node std",
            peer_value=46_000.0,
            aim=Aim("at least", 1.4),
            runs=[2.1, 1.9, 2.0],
        ),
        Row("memory", 12.5, "MiB", note="no peer here"),
    ]
    path = write("hot-page", rows, settings={"seconds": 5}, started_at=AT, folder=tmp_path / "new")
    assert path == tmp_path / "new" / "hot-page.json"
    document = json.loads(path.read_text())
    assert list(document) == ["name", "commit", "machine", "started_at", "settings", "rows"]
    assert document["name"] == "hot-page"
    assert document["started_at"] == "2026-01-02T03:04:05+00:00"
    assert document["machine"]["cores"] >= 1
    with_peer, without = document["rows"]
    assert list(with_peer) == ROW_MEMBERS
    assert (with_peer["ratio"], with_peer["met"], with_peer["aim"]) == (2.0, True, ">= 1.4")
    assert with_peer["runs"] == [2.1, 1.9, 2.0]
    assert list(without) == [*ROW_MEMBERS, "note"]
    assert (without["peer_value"], without["ratio"], without["met"]) == (None, None, None)


@pytest.mark.parametrize(
    ("aim", "ratio", "met"),
    [
        (Aim("at least", 1.4), 1.4, True),
        (Aim("at least", 1.4), 1.39, False),
        (Aim("at most", 0.5), 0.5, True),
        (Aim("at most", 0.5), 0.51, False),
    ],
)
def test_an_aim_is_met_or_not(aim: Aim, ratio: float, met: bool) -> None:
    row = Row("work", 1.0, "s", peer="peer", peer_value=1.0, aim=aim, runs=[ratio])
    assert row.document()["met"] is met


def test_an_aim_without_a_peer_is_neither_met_nor_missed() -> None:
    row = Row("work", 1.0, "s", peer="nginx", aim=Aim("at least", 1), note="nginx is not here")
    assert row.document()["met"] is None


def test_a_row_without_a_peer_has_to_say_why() -> None:
    with pytest.raises(ValueError, match="note"):
        Row("work", 1.0, "s", peer="nginx")


def test_a_ratio_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="together"):
        Row("work", 1.0, "s", peer="nginx", peer_value=2.0)
    with pytest.raises(ValueError, match="together"):
        Row("work", 1.0, "s", runs=[1.0])
