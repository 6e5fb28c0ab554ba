"""Reading what ab prints and writes, and what wrk says in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests import ab, wrk

PRINTED = """
Server Hostname:        127.0.0.1
Document Length:        13 bytes

Concurrency Level:      1000
Time taken for tests:   2.000 seconds
Complete requests:      40000
Failed requests:        30
   (Connect: 0, Receive: 10, Length: 15, Exceptions: 5)
Non-2xx responses:      7
Keep-Alive requests:    39000
Total transferred:      4000000 bytes
HTML transferred:       520000 bytes
Requests per second:    20000.00 [#/sec] (mean)
Time per request:       50.000 [ms] (mean)
Time per request:       0.050 [ms] (mean, across all concurrent requests)
Transfer rate:          1953.13 [Kbytes/sec] received

Connection Times (ms)
              min  mean[+/-sd] median   max
Connect:        0    5   8.3      2      44
Processing:     1   45  12.0     40     130
"""
CSV = "Percentage served,Time in ms\n0,0.900\n50,40.125\n99,120.500\n"
IN_FULL = (
    'in full: {"answers": 100, "us": 2000000, "bytes": 5000, "connect": 0, "read": 1, "write": 0, '
    '"not 2xx": 4, "timeout": 0, "mean": 1500.5, "percentiles": [[99, 3000], [50, 1000]]}'
)


def test_abs_figures_and_failures_are_read() -> None:
    found = ab.read(PRINTED, CSV)
    assert (found["answers"], found["seconds"], found["mean_ms"]) == (40_000, 2.0, 50.0)
    assert found["errors"] == {"receive": 10, "length": 15, "exception": 5, "not 2xx": 7}
    assert found["percentiles"] == [(0, 0.9), (50, 40.125), (99, 120.5)]
    assert (found["connect_mean_ms"], found["kept"]) == (5, 39_000)


def test_without_keep_alive_ab_is_told_so() -> None:
    kept = ab.command("http://a/", connections=10, seconds=1.2, close=False, csv=Path("x"))
    short = ab.command("http://a/", connections=10, seconds=1.2, close=True, csv=Path("x"))
    assert "-k" in kept
    assert "-k" not in short
    assert kept.index("-t2") < kept.index(f"-n{2 * ab.REQUESTS_A_SECOND}")


def test_wrk_tells_more_in_full() -> None:
    found = wrk.read_in_full(f"Running\n{IN_FULL}\n")
    assert (found["answers"], found["seconds"], found["mean_ms"]) == (100, 2.0, 1.5005)
    assert found["errors"] == {"read": 1, "not 2xx": 4}
    assert found["percentiles"] == [(50, 1.0), (99, 3.0)]


def test_text_of_other_programs_is_refused() -> None:
    with pytest.raises(ValueError, match="not what ab prints"):
        ab.read("Segmentation fault", "")
    with pytest.raises(ValueError, match="not what wrk prints"):
        wrk.read_in_full("unable to connect")
