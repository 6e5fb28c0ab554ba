"""What a result says besides its rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram

from loadtests.recorder import HIGHEST_US, SIGNIFICANT_DIGITS
from loadtests.result import write
from loadtests.story import (
    Check,
    Curve,
    Distribution,
    Mark,
    Series,
    Story,
    Table,
    percentiles_of,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_story_is_written_as_members_of_the_result(tmp_path: Path) -> None:
    story = Story(
        command="make peak",
        series=[Series("pages", "req/s", [(0, 10), (1, 12.5)], part="access")],
        marks=[Mark(1.0, "standby paused", 2.0), Mark(3.0, "sale opens")],
        curves=[Curve("cost", "products", "us", {"held": [(1000, 11), (10_000, 12)]}, log_x=True)],
        checks=[Check("nothing oversold", held=True)],
        tables=[Table("one", ["server", "QPS"], [["Tokio", 1.5], ["Gin", None]])],
    )
    path = write("peak", [], settings={}, started_at=AT, folder=tmp_path, story=story)
    document = json.loads(path.read_text())
    assert list(document)[6:] == ["command", "series", "marks", "curves", "checks", "tables"]
    assert document["series"] == [
        {"name": "pages", "unit": "req/s", "points": [[0, 10], [1, 12.5]], "part": "access"}
    ]
    assert document["marks"] == [
        {"t": 1.0, "what": "standby paused", "until": 2.0},
        {"t": 3.0, "what": "sale opens"},
    ]
    assert document["curves"][0]["lines"] == [
        {"name": "held", "points": [[1000, 11], [10_000, 12]]}
    ]
    assert document["tables"][0]["rows"] == [["Tokio", 1.5], ["Gin", None]]


def test_a_distribution_goes_as_far_as_its_count_can_tell() -> None:
    histogram = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
    for value_us in range(1, 1001):
        histogram.record_value(value_us)
    document = Distribution.of("pages", histogram).document()
    points = dict(map(tuple, document["percentiles"]))
    assert document["count"] == 1000
    assert (points[50.0], points[75.0], points[100.0]) == (0.5, 0.75, 1.0)
    assert max(percent for percent in points if percent < 100) <= 99.9
    assert percentiles_of(0) == []
    assert percentiles_of(1) == [0.0, 100.0]


@pytest.mark.parametrize("points", [[(0.0, float("nan"))], [(2.0, 1.0), (1.0, 1.0)]])
def test_points_that_can_not_be_drawn_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="pages: "):
        Series("pages", "req/s", points)


def test_a_row_of_a_table_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="not as long"):
        Table("one", ["server", "QPS"], [["Tokio"]])
