"""The block of numbers in the README: ratios to aims, written from results and never by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtests.article_sides import OURS

BEGIN: Final = "<!-- numbers: make report ARGS=--readme -->"
END: Final = "<!-- end of numbers -->"


class NoPlaceError(ValueError):
    """The file has no block for numbers."""


def rewrite(readme: Path, documents: Sequence[Mapping[str, Any]]) -> None:
    """Put the table of these results between the two marks."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoPlaceError(f"{readme} has no block between {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n{block(documents)}\n{END}{after}")


def block(documents: Sequence[Mapping[str, Any]]) -> str:
    """What was compared with an aim, and Tercet among the article's seven."""
    lines = []
    for document in documents:
        for row in document["rows"]:
            if line := _line(str(document["name"]), row):
                lines.append(line)
    if not lines:
        return "No result has been taken yet."
    machine = next(document["machine"] for document in documents if document.get("machine"))
    where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"
    heads = [
        "| work | against | ratio | aim | | command |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([f"Ratios of single runs on {_cell(where)}.", "", *heads, *lines])


def _line(name: str, row: Mapping[str, Any]) -> str | None:
    ratio = row.get("ratio")
    if ratio is None:
        return None
    is_ours = name.startswith("article") and str(row["work"]).startswith(f"{OURS},")
    if row.get("aim") is None and not is_ours:
        return None
    met = {True: "met", False: "missed"}.get(row["met"], "")
    command = "article" if name.startswith("article") else name
    cells = [row["work"], row["peer"], f"{ratio:.2f}", row["aim"] or "", met, f"`make {command}`"]
    return f"| {' | '.join(_cell(str(cell)) for cell in cells)} |"


def _cell(said: str) -> str:
    """Nothing in it ends a cell or begins a tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", said.replace("|", "/").replace("\n", " "))
