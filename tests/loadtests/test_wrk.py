"""What is read from wrk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loadtests import wrk
from loadtests.peers import PYTHON
from loadtests.programs import output_of, running

# wrk pads its units to two letters.
PRINTED = """Running 3s test @ http://127.0.0.1:29103/
  1 threads and 360 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     9.45ms    8.47ms  77.25ms   88.99%
    Req/Sec    50.64k     3.52k   54.98k    86.67%
  Latency Distribution
     50%  640.00us
     75%    7.02ms
     90%    8.22ms
     99%    1.24s{space}
  151234 requests in 3.02s, 25.71MB read
Requests/sec:  50088.08
Transfer/sec:      8.51MB
""".format(space=" ")
FAILURES = """  Socket errors: connect 0, read 12, write 0, timeout 3
  Non-2xx or 3xx responses: 43879
"""


def test_the_figures_of_wrk_are_read_in_their_units() -> None:
    assert wrk.read(PRINTED) == (50088.08, 151234, 0.64, 1240.0, {})


def test_what_failed_is_told_by_kind_and_is_no_answer() -> None:
    printed = PRINTED.replace("Requests/sec", FAILURES + "Requests/sec")
    rate, answers, _, _, errors = wrk.read(printed)
    assert errors == {"not 2xx": 43879, "read": 12, "timeout": 3}
    assert answers == 151234 - 43879
    assert round(rate) == round(50088.08 * answers / 151234)


def test_text_that_is_not_from_wrk_is_refused() -> None:
    with pytest.raises(ValueError, match="not what wrk prints"):
        wrk.read("unable to connect to 127.0.0.1:1 Connection refused")


def test_wrk_is_given_whole_seconds_and_the_header_that_closes() -> None:
    command = wrk.command("http://h/", connections=360, seconds=2.5, close=True)
    assert command[:6] == ["wrk", "-t1", "-c360", "-d3s", "--timeout=10s", "--latency"]
    assert command[6:] == ["-H", "Connection: close", "http://h/"]


def test_wrk_is_given_fields_and_a_file_of_targets(tmp_path: Path) -> None:
    listed = tmp_path / "targets"
    command = wrk.command(
        "http://h/",
        connections=1,
        seconds=1,
        close=False,
        headers=[("a", "b")],
        targets_file=listed,
    )
    assert command[6:8] == ["-H", "a: b"]
    assert command[8:] == ["-s", str(wrk.IN_TURN), "http://h/", "--", str(listed)]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
async def test_wrk_asks_for_the_targets_in_turn(tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("/\n/nowhere\n")
    async with running(await PYTHON.launch(tmp_path), None, tmp_path / "log") as server:
        command = wrk.command(
            server.url(), connections=1, seconds=1, close=False, targets_file=tmp_path / "targets"
        )
        _, answers, _, _, errors = wrk.read(await output_of(command, None))
    assert answers > 10
    assert abs(errors["not 2xx"] - answers) <= 1
