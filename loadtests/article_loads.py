"""The article that this project follows, as figures: its four loads, and what it found.

Its commands ran against a bare "Hello" on machines of its own, so only its ratios can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from loadtests.readings import Tool

BASE: Final = "Tokio"  # whom the article's and our ratios are to


@dataclass(frozen=True, slots=True)
class Load:
    """One of the four: who asked, over how many connections, kept or not, and what came of it."""

    key: str
    title: str
    command: str  # as the article has it
    tool: Tool
    connections: int
    close: bool
    qps: Mapping[str, float]


LOADS: Final = (
    Load(
        "long-360",
        "Long connections, 360 of them",
        "wrk -c360 -d60s URL",
        "wrk",
        360,
        close=False,
        qps={
            "Tokio": 340_130.92,
            "Hyperlane": 334_888.27,
            "Rocket": 298_945.31,
            "Rust std": 291_218.96,
            "Gin": 242_570.16,
            "Go std": 234_178.93,
            "Node std": 139_412.13,
        },
    ),
    Load(
        "long-1000",
        "Long connections, 1,000 of them",
        "ab -n 1000000 -c 1000 -r -k URL",
        "ab",
        1000,
        close=False,
        qps={
            "Tokio": 308_596.26,
            "Hyperlane": 316_211.63,
            "Rocket": 267_931.52,
            "Rust std": 260_514.56,
            "Gin": 224_296.16,
            "Go std": 226_550.34,
            "Node std": 85_357.18,
        },
    ),
    Load(
        "short-360",
        "Short connections, 360 at a time",
        'wrk -c360 -d60s -H "Connection: close" URL',
        "wrk",
        360,
        close=True,
        qps={
            "Tokio": 49_555.87,
            "Hyperlane": 51_031.27,
            "Rocket": 49_345.76,
            "Rust std": 30_142.55,
            "Gin": 40_149.75,
            "Go std": 38_364.06,
            "Node std": 28_286.96,
        },
    ),
    Load(
        "short-1000",
        "Short connections, 1,000 at a time",
        "ab -n 1000000 -c 1000 -r URL",
        "ab",
        1000,
        close=True,
        qps={
            "Tokio": 51_825.13,
            "Hyperlane": 51_554.47,
            "Rocket": 49_621.02,
            "Rust std": 31_511.00,
            "Gin": 47_081.05,
            "Go std": 47_915.20,
            "Node std": 44_763.11,
        },
    ),
)
MEMORY_MB: Final[Mapping[str, int]] = {
    "Tokio": 128,
    "Hyperlane": 96,
    "Rocket": 156,
    "Rust std": 84,
    "Gin": 112,
    "Go std": 98,
    "Node std": 186,
}  # its table of long connections by wrk
ERRORS: Final[Mapping[tuple[str, str], float]] = {("long-1000", "Node std"): 0.812}

# Its tables name some columns for what they are not.
MISLABELLED: Final = (
    'What the article calls "P99" is wrk\'s Stdev column: its Go std has an average of 1.58 ms and '
    'a "P99" of 1.15 ms, which can not be. p99 here is the 99th percentile.',
    'What it calls "connection set-up time" is the standard deviation of ab\'s Connect row. Here '
    "it is the mean time from connect() to established.",
    'What it calls "connection reuse" is ab without -k, with which no connection is used again: it '
    "is the load of short connections. The reuse rate here is the share of answers on a connection "
    "that had brought one before.",
)
CLOSED_LOOPS: Final = (
    "wrk, ab and loadtests.closed are closed loops: while a server stands still they ask for "
    "nothing, and its worst moments are missing from the percentiles. `make load` and the "
    "scenarios ask on a schedule."
)
