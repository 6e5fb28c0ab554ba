"""Rounds of measurements of several servers by turns, and the rows of a result made of them."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from loadtests.measure import Figures
from loadtests.result import Aim, Row

OURS: Final = "access"  # the side that all others are compared with
# Shares of a core from which a figure says less than it seems to.
IDLE_LIMIT: Final = 0.1
OTHERS_LIMIT: Final = 0.1
AT_MOST_THEIRS: Final = Aim("at most", 1.0)

Measure = Callable[[], Awaitable[Figures]]


async def take_turns(sides: Mapping[str, Measure], rounds: int) -> dict[str, list[Figures]]:
    """Measure all sides one after the other, that many times.

    Every other round goes backwards, so that a machine that gets slower favours nobody.
    """
    figures: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)
        for name in reversed(names) if number % 2 else names:
            figures[name].append(await sides[name]())
    return figures


def rate_row(
    work: str,
    ours: Sequence[Figures],
    peer: str,
    theirs: Sequence[Figures],
    *,
    aim: Aim | None,
    side: str = OURS,
) -> Row:
    """Answers a second of both, and their ratio round by round."""
    return ratio_row(
        work,
        "req/s",
        [figures.rate for figures in ours],
        peer,
        [figures.rate for figures in theirs],
        aim=aim,
        note="; ".join(filter(None, (remark(side, ours), remark(peer, theirs)))) or None,
    )


def p99_row(
    work: str, ours: Sequence[Figures], peer: str, theirs: Sequence[Figures], *, aim: Aim | None
) -> Row:
    """The 99th percentile of both: from asking to the whole answer, in a closed loop."""
    return ratio_row(
        f"{work}, p99",
        "ms",
        [figures.p99_ms for figures in ours],
        peer,
        [figures.p99_ms for figures in theirs],
        aim=aim,
    )


def cpu_row(work: str, ours: Sequence[Figures], peer: str, theirs: Sequence[Figures]) -> Row:
    """CPU time of both for an answer. Says the most where other programs disturb a run."""
    return ratio_row(
        f"{work}, CPU",
        "us each",
        [figures.cpu_us for figures in ours],
        peer,
        [figures.cpu_us for figures in theirs],
        aim=None,
    )


def ratio_row(
    work: str,
    unit: str,
    ours: Sequence[float],
    peer: str,
    theirs: Sequence[float],
    *,
    aim: Aim | None,
    note: str | None = None,
) -> Row:
    """Any figure of both sides: medians, and the ratio of each round."""
    return Row(
        work,
        round(statistics.median(ours), 3),
        unit,
        peer,
        round(statistics.median(theirs), 3),
        aim,
        [round(our / their, 4) for our, their in zip(ours, theirs, strict=True)],
        note,
    )


def remark(side: str, figures: Sequence[Figures]) -> str | None:
    """What a reader has to know of these figures: failures, and whether its core was the limit."""
    errors = sum(one.errors for one in figures)
    idle = statistics.median(one.idle for one in figures)
    others = statistics.median(one.others for one in figures)
    remarks = []
    if errors:
        remarks.append(f"{errors} failed requests")
    if idle > IDLE_LIMIT:
        remarks.append(f"its core was idle for {idle:.0%} of the time, so it can do more")
    if others > OTHERS_LIMIT:
        remarks.append(f"other programs took {others:.0%} of its core")
    return f"{side}: {', '.join(remarks)}" if remarks else None
