"""What is read from wrk."""

from __future__ import annotations

import pytest

from loadtests import wrk

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
    assert command[:5] == ["wrk", "-t1", "-c360", "-d3s", "--latency"]
    assert command[5:] == ["-H", "Connection: close", "http://h/"]
