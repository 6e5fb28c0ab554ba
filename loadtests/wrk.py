"""wrk as the generator: run, and read from what it prints."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

# wrk's own is 2 s. Node std answers some of 360 connections that late, which is a latency to be
# measured, and no error.
TIMEOUT_S: Final = 10
IN_TURN: Final = Path(__file__).with_name("in_turn.lua")
IN_FULL: Final = Path(__file__).with_name("in_full.lua")
UNITS_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
RATE: Final = re.compile(r"^Requests/sec: +([\d.]+)$", re.MULTILINE)
TOTAL: Final = re.compile(r"^ +(\d+) requests in ", re.MULTILINE)
PERCENTILE: Final = re.compile(r"^ +(50|99)% +([\d.]+)(us|ms|s|m) *$", re.MULTILINE)
STATUS: Final = re.compile(r"^ +Non-2xx or 3xx responses: (\d+)$", re.MULTILINE)
SOCKETS: Final = re.compile(
    r"^ +Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)$", re.MULTILINE
)


def command(
    url: str,
    *,
    connections: int,
    seconds: float,
    close: bool,
    headers: Sequence[tuple[str, str]] = (),
    targets_file: Path | None = None,
    in_full: bool = False,
) -> list[str]:
    """One thread, because the generator has one core. wrk takes whole seconds only.

    in_full: for read_in_full(), instead of targets in turn.
    """
    whole_s = max(1, math.ceil(seconds))
    fields = [*headers, *([("Connection", "close")] if close else [])]
    lines = [word for name, value in fields for word in ("-H", f"{name}: {value}")]
    run = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{whole_s}s",
        f"--timeout={TIMEOUT_S}s",
        "--latency",
    ]
    run += lines
    if in_full:
        return [*run, "-s", str(IN_FULL), url]
    if targets_file is None:
        return [*run, url]
    return [*run, "-s", str(IN_TURN), url, "--", str(targets_file)]


def read(printed: str) -> tuple[float, int, float, float, dict[str, int]]:
    """Good answers a second and in all, p50 and p99 in ms, errors by kind.

    The latencies are of all answers: wrk does not tell those of failures apart. ValueError for
    text that is not from wrk.
    """
    rate, total = RATE.search(printed), TOTAL.search(printed)
    latencies = {
        percent: float(value) * UNITS_MS[unit]
        for percent, value, unit in PERCENTILE.findall(printed)
    }
    if rate is None or total is None or set(latencies) != {"50", "99"}:
        raise ValueError(f"not what wrk prints: {printed[:200]!r}")
    errors = {}
    if status := STATUS.search(printed):
        errors["not 2xx"] = int(status[1])
    if sockets := SOCKETS.search(printed):
        kinds = ("connect", "read", "write", "timeout")
        errors |= {
            kind: int(n) for kind, n in zip(kinds, sockets.groups(), strict=True) if n != "0"
        }
    good = int(total[1]) - errors.get("not 2xx", 0)
    good_rate = float(rate[1]) * good / max(1, int(total[1]))
    return good_rate, good, latencies["50"], latencies["99"], errors


def read_in_full(printed: str) -> dict[str, Any]:
    """What in_full.lua has it say: all answers, seconds, bytes, mean_ms, errors by kind, and
    percentiles as [(percent, ms), …]. ValueError for text that is not so.
    """
    found = re.search(r"^in full: (.*)$", printed, re.MULTILINE)
    if found is None:
        raise ValueError(f"not what wrk prints: {printed[:200]!r}")
    said = json.loads(found[1])
    kinds = ("connect", "read", "write", "not 2xx", "timeout")
    return {
        "answers": said["answers"],
        "seconds": said["us"] / 1e6,
        "bytes": said["bytes"],
        "mean_ms": said["mean"] / 1000,
        "errors": {kind: said[kind] for kind in kinds if said[kind]},
        "percentiles": sorted({(percent, us / 1000) for percent, us in said["percentiles"]}),
    }
