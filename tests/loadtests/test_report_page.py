"""`python -m loadtests.report_page`: the page of small results, and the block in a README."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from loadtests import readme_numbers
from loadtests.charts import NARROW, Chart, Line, Span, spread
from loadtests.report_figures import figure
from loadtests.report_page import main
from loadtests.result import NO_PEER, Aim, Row, write
from loadtests.small_charts import against_aim
from loadtests.story import Check, Curve, Distribution, Mark, Series, Story, Table

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """What a browser would see: words, tags, and every attribute that names another resource."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.names: list[str] = []
        self._within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._within.append(tag)
        self.names += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._within:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    compared = Row(
        "held page", 92_123.0, "req/s", "Node std", 46_050.0, Aim("at least", 1.4), [2.1, 1.9, 2.0]
    )
    missed = Row("held page, p99", 28.6, "ms", "Gin", 23.6, Aim("at most", 1.0), [1.21])
    absent = Row("held page", 92_123.0, "req/s", "Go std", note="go is not installed")
    own = Row(HOSTILE, 12.5, "ms", note=NO_PEER)
    write("bench-access", [compared, missed, absent, own], settings={}, started_at=AT,
          folder=tmp_path)  # fmt: skip
    story = Story(
        command="make peak",
        versions={"wrk": "4.1.0"},
        series=[
            Series("pages", "req/s", [(0, 900), (1, 950), (2, 10)]),
            Series(HOSTILE, "req/s", [(0, 1), (2, 1)]),
            Series("pages", "errors/s", [(0, 0), (1, 3), (2, 0)]),
            Series("cpu", "cores", [(0, 0.5), (2, 0.75)], part="access"),
            Series("memory", "bytes", [(0, 2**26), (2, 2**26)], part="access"),
        ],
        marks=[Mark(1.0, f"Valkey killed {HOSTILE}", 1.5)],
        distributions=[Distribution("pages", 1000, [(0, 1.0), (50, 2.0), (99, 7.5), (100, 9.0)])],
        curves=[
            Curve("growth", "products", "us", {"held": [(1000, 26), (10_000, 27)]}, log_x=True)
        ],
        checks=[Check("nothing oversold", held=True), Check("p99 below 5 ms", held=False)],
    )
    write("peak", [own], settings={"seed": 7}, started_at=AT, folder=tmp_path, story=story)
    columns = ["server", "QPS", "to Tokio's", "article's QPS", "article's to Tokio's"]
    table = Table(
        "Long connections, 360 of them, by wrk: hello",
        columns,
        [["Tokio", 80_000, 1.0, 340_131, 1.0], ["Tercet", 40_321, 0.51, None, None]],
        ["Rocket: not measured. cargo is not installed"],
    )
    ours = Row("Tercet, product page: x", 40_321.0, "req/s", "Tokio, hello", 8e4, runs=[0.51])
    write(
        "article", [ours], settings={}, started_at=AT, folder=tmp_path, story=Story(tables=[table])
    )
    return tmp_path


def rendered(results: Path) -> Page:
    assert main(["--results", str(results)]) == 0
    return Page((results / "report.html").read_text())


def test_every_figure_of_the_results_is_on_the_page(results: Path) -> None:
    text = rendered(results).text
    for said in (
        "92,123",
        "46,050",
        "2.00",
        "1.90–2.10",
        ">= 1.4",
        "28.6",
        "go is not installed",
        "1 of 2 aims met",
        "1 of 2 checks held",
        "12.5",
        "Valkey killed",
        "until 1.5",
        "0.75",
        "64.0 MiB",
        "40,321",
        "0.51",
        "340,131",
        "Rocket: not measured. cargo is not installed",
        "make peak",
        "4.1.0",
    ):
        assert said in text, said
    assert text.index("The article's four loads") < text.index("The access tier")


def test_the_page_needs_nothing_but_itself(results: Path) -> None:
    page = rendered(results)
    assert all(name.startswith("#") for name in page.names), page.names
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    source = (results / "report.html").read_text()
    assert "url(" not in source
    assert "@import" not in source
    assert not re.search(r"https?://", source)
    anchors = set(re.findall(r'id="([^"]*)"', source))
    assert {name.removeprefix("#") for name in page.names} <= anchors


def test_what_a_result_says_is_text_and_never_markup(results: Path) -> None:
    page = rendered(results)
    assert HOSTILE in page.text
    assert "<script" not in (results / "report.html").read_text()


def test_charts_are_drawn_for_a_desk_and_for_a_phone(results: Path) -> None:
    rendered(results)
    source = (results / "report.html").read_text()
    assert source.count('class="wide"') == source.count('class="narrow"') >= 5
    assert 'class="span"' in source  # the fault, as long as it lasted
    assert source.count('class="spark"') == 2
    assert "NaN" not in source.replace("Nancy", "")


def test_without_results_it_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path)]) == 69
    assert "no results" in capsys.readouterr().err


def test_the_readmes_block_is_written_from_results(results: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{readme_numbers.BEGIN}\nold\n{readme_numbers.END}\nafter\n")
    assert main(["--results", str(results), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{readme_numbers.END}\nafter\n")
    assert "old" not in text
    assert "| held page | Node std | 2.00 | >= 1.4 | met | `make bench-access` |" in text
    assert "| held page, p99 | Gin | 1.21 | <= 1 | missed | `make bench-access` |" in text
    assert "| Tercet, product page: x | Tokio, hello | 0.51 |" in text
    assert "92,123" not in text  # absolute figures belong to a machine
    assert main(["--results", str(results), "--readme", str(readme)]) == 0
    assert readme.read_text() == text


def test_a_readme_without_a_block_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no block\n")
    with pytest.raises(readme_numbers.NoPlaceError):
        readme_numbers.rewrite(readme, [])
    assert readme.read_text() == "no block\n"


def test_labels_are_moved_apart_and_stay_within() -> None:
    assert spread([10.0, 11.0, 12.0], 14, 0, 100) == [10.0, 24.0, 38.0]
    assert spread([98.0, 99.0], 14, 0, 100) == [86.0, 100.0]
    assert spread([], 14, 0, 100) == []


def test_long_names_are_told_apart_by_their_ends() -> None:
    names = ["orders and payments, short", "orders and payments, short: its payment alone"]
    lines = [Line(name, [(0.0, 1.0), (1.0, 2.0)], n) for n, name in enumerate(names)]
    svg = str(Chart("latency", "ms", lines, "linear").svg(NARROW))
    assert "orders and…nts, short" in svg
    assert "orders and…ment alone" in svg


def test_a_percentile_axis_gives_each_nine_the_same_width() -> None:
    points = [(0.0, 1.0), (90.0, 2.0), (99.0, 3.0), (99.9, 4.0), (99.99, 4.5), (100.0, 5.0)]
    svg = str(Chart("latency", "ms", [Line("a", points, 0)], "percentile").svg(NARROW))
    path = re.search(r'<path class="line c0" d="([^"]*)"', svg)
    assert path is not None
    xs = [float(step.split(" ")[0]) for step in re.split(r" ?[ML]", path[1])[1:]]
    assert len(xs) == 4  # the least and the greatest have no place on such an axis
    steps = [there - here for here, there in pairwise(xs)]
    assert max(steps) - min(steps) < 0.3


def test_a_chart_of_nothing_but_zeros_can_be_drawn() -> None:
    chart = Chart("errors", "errors/s", [Line("a", [(0, 0), (1, 0)], 0)], spans=[Span(1, 0.5)])
    assert "<svg" in chart.svg(NARROW)


@pytest.mark.parametrize(
    ("ratio", "at_least", "verdict"),
    [(2.0, True, "good"), (1.0, True, "bad"), (1.0, False, "good"), (2.0, False, "bad")],
)
def test_better_than_the_aim_is_on_the_right(ratio: float, at_least: bool, verdict: str) -> None:
    svg = str(against_aim(ratio, [ratio], 1.4, at_least=at_least))
    assert f"dot {verdict}" in svg
    place = re.search(r'cx="([\d.]+)"', svg)
    assert place is not None
    assert (float(place[1]) > 60) == (verdict == "good")


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (92_123.4, "req/s", "92,123"),
        (1.2345, "", "1.23"),
        (0.01234, "ms", "0.012"),
        (2**26, "bytes", "64.0 MiB"),
        (2**35, "bytes", "32 GiB"),
        (None, "", ""),
        ("text", "", "text"),
    ],
)
def test_figures_are_written_to_be_read(value: object, unit: str, said: str) -> None:
    assert figure(value, unit) == said


def test_other_files_in_the_folder_are_no_results(results: Path) -> None:
    (results / "notes.json").write_text(json.dumps(["not", "a", "result"]))
    assert "make peak" in rendered(results).text
