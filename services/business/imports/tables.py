"""Reading rows of comma- and tab-separated files, one at a time, with their line numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from services.business.imports.rows import PROBLEM, FileProblem, Row

FIELD_MAX: Final = 1024 * 1024  # characters; a lost quote would swallow the rest of the file

OnBytes = Callable[[int], None]


def table_rows(
    path: Path,
    delimiter: str,
    our_name: Callable[[str], str | None],
    *,
    required: Sequence[str],
    keys: Sequence[str],
    on_bytes: OnBytes,
) -> Iterator[Row]:
    """The rows of a file whose first line names its columns; `our_name` gives our name for one.

    A row belongs to the product that the first filled one of the fields `keys` names. Raises
    FileProblem where columns are missing or the rows can not be told apart any more.
    """
    csv.field_size_limit(FIELD_MAX)
    with path.open("rb") as raw:
        text = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=delimiter)
        header = _next_row(path, reader)
        if header is None:
            raise FileProblem(f"{path}: is empty")
        names = [our_name(column.strip()) for column in header]
        missing = [name for name in required if name not in names]
        if missing:
            raise FileProblem(f"{path}: the first line lacks the columns {', '.join(missing)}")
        line = reader.line_num + 1
        while (values := _next_row(path, reader)) is not None:
            if any(value.strip() for value in values):
                fields = _fields(names, values)
                key = next((fields[name].strip() for name in keys if fields.get(name)), "")
                yield Row(key or f"\n{line}", line, fields)
            on_bytes(raw.tell())
            line = reader.line_num + 1


def _next_row(path: Path, reader: Iterator[list[str]]) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        line = getattr(reader, "line_num", 0)
        raise FileProblem(f"{path}:{line}: {error}; is a quote left open?") from None


def _fields(names: Sequence[str | None], values: Sequence[str]) -> dict[str, str]:
    """The fields that are used and not empty; of columns of the same name the first filled one."""
    fields: dict[str, str] = {}
    for name, value in zip(names, values, strict=False):
        if name and value.strip():
            fields.setdefault(name, value)
    if any(value.strip() for value in values[len(names) :]):
        fields[PROBLEM] = f"has {len(values)} fields where the first line names {len(names)}"
    return fields
