"""Bringing the rows of a product together, however far apart they stand in a file.

Google's feed lists the variants of a product in any order, so a reader that goes row by row can
not know when it has seen the last one. Up to SORT_ROWS rows are grouped in memory, in the order
of the file; more are sorted on disk in runs of that many and merged, in the order of their keys.
A key with more than ROWS_MAX rows is cut off after one more, so that no key fills the memory.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby, islice
from typing import IO, Final

from services.business.imports.rows import ROWS_MAX, Row

SORT_ROWS: Final = 20_000  # some 20 MB of rows as they are usual in product files


def together(rows: Iterable[Row], sort_rows: int = SORT_ROWS) -> Iterator[list[Row]]:
    """The rows of each key, in their order in the file."""
    source = iter(rows)
    run = list(islice(source, sort_rows))
    if len(run) < sort_rows:
        yield from _grouped(run).values()
        return
    with ExitStack() as files:
        runs: list[Iterator[Row]] = []
        while run:
            run.sort(key=_place)
            runs.append(_spilled(run, files))
            run = list(islice(source, sort_rows))
        for _, group in groupby(heapq.merge(*runs, key=_place), key=lambda row: row.key):
            yield list(islice(group, ROWS_MAX + 1))


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    return groups


def _place(row: Row) -> tuple[str, int]:
    return row.key, row.line


def _spilled(run: Iterable[Row], files: ExitStack) -> Iterator[Row]:
    """Write a run to a file that is gone when it is closed; gives its rows back one by one."""
    file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by the stack
    for row in run:
        # The standard library's json, because a field may hold bytes that are not UTF-8 in the
        # form of lone surrogates, which orjson refuses.
        file.write(json.dumps(row).encode() + b"\n")
    file.seek(0)
    return _rows(file)


def _rows(file: IO[bytes]) -> Iterator[Row]:
    for line in file:
        key, number, fields = json.loads(line)
        yield Row(key, number, fields)
