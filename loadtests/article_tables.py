"""The article's tables as we measure them: its columns, its own figures, and both to Tokio's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.article_loads import (
    BASE,
    CLOSED_LOOPS,
    ERRORS,
    LOADS,
    MEMORY_MB,
    MISLABELLED,
    Load,
)
from loadtests.article_sides import HELLO, OURS, PAGE, Sample
from loadtests.readings import COLUMNS, Tool
from loadtests.result import Row
from loadtests.story import Distribution, Table

MIB: Final = 1024 * 1024
# Shares from which a figure says less than it seems to.
GENERATOR_LIMIT: Final = 0.95
IDLE_LIMIT: Final = 0.1
TOOLS: Final[Mapping[Tool, str]] = {"own": "our loop", "wrk": "wrk", "ab": "ab"}
HEADS: Final = (
    "server",
    "QPS",
    f"to {BASE}'s",
    "article's QPS",
    f"article's to {BASE}'s",
    "average ms",
    *(f"p{percent:g} ms" for percent in COLUMNS),
    "errors %",
    "MB/s",
    "connect ms",
    "reused %",
    "memory MiB",
    "article's MB",
    "CPU us each",
)

Key = tuple[str, Tool, str]  # load, tool, body


@dataclass(frozen=True, slots=True)
class Measured:
    """Samples of all rounds: (load, tool, body) -> server -> one a round."""

    samples: Mapping[Key, Mapping[str, Sequence[Sample]]]
    absent: Mapping[str, str]
    page_bytes: int

    def of(self, load: Load, tool: Tool, body: str) -> dict[str, Sequence[Sample]]:
        """With Tercet's page beside whatever the others answer."""
        sides = dict(self.samples.get((load.key, tool, body), {}))
        ours = self.samples.get((load.key, tool, PAGE), {}).get(OURS)
        return sides | ({OURS: ours} if ours else {})

    def each(self) -> Iterator[tuple[Load, Tool, str, dict[str, Sequence[Sample]]]]:
        """Those that were measured: by load, the tool of the article before ours, hello first."""
        for load in LOADS:
            for body in (HELLO, PAGE):
                for tool in dict.fromkeys((load.tool, "own")):
                    sides = self.of(load, tool, body)
                    if set(sides) - {OURS} or (sides and body == PAGE and not self._compared()):
                        yield load, tool, body, sides

    def _compared(self) -> bool:
        return any(set(sides) - {OURS} for sides in self.samples.values())


def tables(measured: Measured) -> list[Table]:
    return [_table(measured, *one) for one in measured.each()]


def _table(
    measured: Measured, load: Load, tool: Tool, body: str, sides: Mapping[str, Sequence[Sample]]
) -> Table:
    answered = '"Hello"' if body == HELLO else f"the same {measured.page_bytes:,} bytes"
    rows = [_cells(load, body, name, sides) for name in sides]
    notes = [f"The article: {load.command}."] if body == HELLO else []
    if body == HELLO:
        notes += [
            f"In the article {share:.1%} of {name}'s requests failed."
            for (key, name), share in ERRORS.items()
            if key == load.key
        ]
        notes.append(f"{OURS} answers its product page of {measured.page_bytes:,} bytes.")
    notes += [remark for name in sides if (remark := _remark(name, sides[name]))]
    notes += [f"{name}: not measured. {why}" for name, why in measured.absent.items()]
    title = f"{load.title}, by {TOOLS[tool]}: {answered}"
    filled = [at for at in range(len(HEADS)) if any(row[at] is not None for row in rows)]
    return Table(
        title, [HEADS[at] for at in filled], [[row[at] for at in filled] for row in rows], notes
    )


def _cells(
    load: Load, body: str, name: str, sides: Mapping[str, Sequence[Sample]]
) -> list[str | float | None]:
    samples, base = sides[name], sides.get(BASE)
    theirs, their_base = load.qps.get(name), load.qps[BASE]
    is_hello = body == HELLO

    def median(of: Callable[[Sample], float | None], digits: int) -> float | None:
        values = [value for sample in samples if (value := of(sample)) is not None]
        return round(statistics.median(values), digits) if values else None

    ratios = _ratios(samples, base) if base else []
    return [
        name,
        median(lambda one: one.reading.rate, 0),
        round(statistics.median(ratios), 2) if ratios else None,
        round(theirs) if theirs and is_hello else None,
        round(theirs / their_base, 2) if theirs and is_hello else None,
        median(lambda one: one.reading.mean_ms, 2),
        *(median(_at(percent), 2) for percent in COLUMNS),
        median(lambda one: one.reading.error_rate * 100, 3),
        median(lambda one: one.reading.received_bytes_s / 1e6, 1),
        median(lambda one: one.reading.connect_ms, 2),
        median(lambda one: None if one.reading.reused is None else one.reading.reused * 100, 1),
        median(lambda one: one.memory_bytes / MIB, 1),
        MEMORY_MB.get(name) if load is LOADS[0] and is_hello else None,
        median(lambda one: one.cpu_us, 1),
    ]


def _at(percent: float) -> Callable[[Sample], float | None]:
    return lambda sample: sample.reading.percentile_ms(percent)


def _ratios(samples: Sequence[Sample], base: Sequence[Sample]) -> list[float]:
    """Round by round."""
    return [
        round(one.reading.rate / other.reading.rate, 4)
        for one, other in zip(samples, base, strict=True)
    ]


def _remark(name: str, samples: Sequence[Sample]) -> str | None:
    """What a reader has to know of these figures."""
    remarks = []
    errors: dict[str, int] = {}
    for sample in samples:
        for kind, count in sample.reading.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    if errors:
        remarks.append("errors: " + ", ".join(f"{n:,} {kind}" for kind, n in errors.items()))
    shares = [one.reading.own_cpu_share for one in samples if one.reading.own_cpu_share is not None]
    if shares and statistics.median(shares) > GENERATOR_LIMIT:
        remarks.append("the generator was the limit, it can do more")
    idle = statistics.median(one.idle for one in samples)
    if idle > IDLE_LIMIT:
        remarks.append(f"its core was idle for {idle:.0%} of the time")
    if name == OURS:
        remarks.append(_of_the_stack(samples))
    return f"{name}: {'; '.join(remarks)}." if remarks else None


def _of_the_stack(samples: Sequence[Sample]) -> str:
    cpu_us = statistics.median(one.stack_cpu_us or 0.0 for one in samples)
    memory = statistics.median(one.stack_memory_bytes or 0 for one in samples)
    return (
        "memory and CPU are those of access, which holds the page; of the whole stack, databases "
        f"and workers included, {memory / MIB:,.0f} MiB and {cpu_us:.1f} us each"
    )


def rows(measured: Measured) -> list[Row]:
    """For the result file: each server's rate against Tokio's."""
    found: list[Row] = []
    for load, tool, body, sides in measured.each():
        base = sides.get(BASE)
        for name, samples in sides.items():
            what = "product page" if name == OURS else body
            work = f"{name}, {what}: {load.title.lower()}, by {TOOLS[tool]}"
            rate = round(statistics.median(one.reading.rate for one in samples), 3)
            if base is None or name == BASE:
                why = "all others are compared with it" if base else _without_base(measured)
                found.append(Row(work, rate, "req/s", note=why))
                continue
            found.append(
                Row(
                    work,
                    rate,
                    "req/s",
                    f"{BASE}, {body}",
                    round(statistics.median(one.reading.rate for one in base), 3),
                    runs=_ratios(samples, base),
                    note=_remark(name, samples),
                )
            )
    return found


def _without_base(measured: Measured) -> str:
    return f"{BASE}: {measured.absent.get(BASE, 'not asked for')}"


def distributions(measured: Measured) -> list[Distribution]:
    """Of the last round, by our own loop, of pages of one size."""
    found = []
    for load, tool, body, sides in measured.each():
        if tool == "own" and body == PAGE:
            for name, samples in sides.items():
                reading = samples[-1].reading
                found.append(
                    Distribution(name, reading.answers, reading.percentiles, chart=load.title)
                )
    return found


NOTES: Final = (*MISLABELLED, CLOSED_LOOPS)
