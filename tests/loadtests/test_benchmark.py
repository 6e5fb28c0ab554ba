"""What the benchmarks do alike: works by turns, and how a run ends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from loadtests.benchmark import EXIT_INTERRUPTED, Found, by_turns, measured
from loadtests.programs import BrokenRunError
from loadtests.result import NO_PEER, Row

ROW = Row("a work", 1.0, "ms", note=NO_PEER)


async def works_well(_: object) -> list[Row]:
    return [ROW]


async def breaks(_: object) -> list[Row]:
    raise BrokenRunError("the server left")


async def says_nothing(_: object) -> list[Row]:
    raise TimeoutError


WORKS = {"well": works_well, "broken": breaks, "late": says_nothing}


async def test_a_work_that_breaks_takes_no_other_with_it() -> None:
    rows, failures = await by_turns(WORKS, ["broken", "late", "well"], None)
    assert rows == [ROW]
    assert failures == ["broken: the server left", "late: TimeoutError"]


async def found(works: list[str]) -> Found:
    return await by_turns(WORKS, works, None)


async def ended_by(error: BaseException) -> Found:
    raise error


def test_the_exit_code_says_how_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(results=tmp_path, data_dir=None, rounds=2)
    assert measured("small", options, found(["well"]), {"more": 1}) == 0
    result = json.loads((tmp_path / "small.json").read_text())
    assert result["settings"] == {"rounds": 2, "more": 1}
    assert [row["work"] for row in result["rows"]] == ["a work"]
    assert measured("small", options, found(["well", "broken"]), {}) == 1
    assert "broke: broken: the server left" in capsys.readouterr().err
    (tmp_path / "small.json").unlink()
    assert measured("small", options, ended_by(BrokenRunError("no stack")), {}) == 1
    assert measured("small", options, ended_by(KeyboardInterrupt()), {}) == EXIT_INTERRUPTED
    assert "interrupted: nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "small.json").exists()
