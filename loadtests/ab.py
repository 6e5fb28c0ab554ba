"""ab (ApacheBench) as the generator: run, and read from what it prints and writes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final

# What ab is told to send at most: the time ends a run. It keeps 32 bytes for each of these, and
# no core here answers it as fast.
REQUESTS_A_SECOND: Final = 150_000
KIB: Final = 1024
NUMBER: Final = r"([\d.]+)"
FIELDS: Final = {
    "answers": rf"^Complete requests: +{NUMBER}$",
    "seconds": rf"^Time taken for tests: +{NUMBER} seconds$",
    "failed": rf"^Failed requests: +{NUMBER}$",
    "mean_ms": rf"^Time per request: +{NUMBER} \[ms\] \(mean\)$",
    "received_kib_s": rf"^Transfer rate: +{NUMBER} \[Kbytes/sec\] received$",
}
OPTIONAL: Final = {
    "kept": rf"^Keep-Alive requests: +{NUMBER}$",
    "not 2xx": rf"^Non-2xx responses: +{NUMBER}$",
    "connect_mean_ms": rf"^Connect: +[\d.]+ +{NUMBER} ",
}
KINDS: Final = re.compile(
    r"^ +\(Connect: (\d+), Receive: (\d+), Length: (\d+), Exceptions: (\d+)\)$", re.MULTILINE
)


def command(url: str, *, connections: int, seconds: float, close: bool, csv: Path) -> list[str]:
    """The article's `ab -c 1000 -r [-k]`, for a time instead of a number. Whole seconds only."""
    whole_s = max(1, math.ceil(seconds))
    # -t first: it sets -n.
    run = ["ab", "-q", "-r", f"-c{connections}", f"-t{whole_s}"]
    run += [f"-n{REQUESTS_A_SECOND * whole_s}", "-e", str(csv)]
    return [*run, *([] if close else ["-k"]), url]


def read(printed: str, csv: str) -> dict[str, Any]:
    """Its figures by name, "errors" by kind, "percentiles" as [[percent, ms], …] up to 99.

    ValueError for text that is not from ab.
    """
    found: dict[str, Any] = {}
    for name, pattern in (FIELDS | OPTIONAL).items():
        if match := re.search(pattern, printed, re.MULTILINE):
            found[name] = float(match[1])
        elif name in FIELDS:
            raise ValueError(f"not what ab prints: no {name} in {printed[:200]!r}")
    lines = (line.split(",") for line in csv.splitlines()[1:])
    found["percentiles"] = [(float(percent), float(ms)) for percent, ms in lines]
    errors = {}
    if match := KINDS.search(printed):
        kinds = ("connect", "receive", "length", "exception")
        errors = {kind: int(n) for kind, n in zip(kinds, match.groups(), strict=True) if n != "0"}
    if found.get("not 2xx"):
        errors["not 2xx"] = int(found["not 2xx"])
    found["errors"] = errors
    return found
