"""What the report shows of a result file: its charts, tables and verdicts, for the template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from loadtests import result_charts
from loadtests.result import NO_PEER
from loadtests.result_charts import Drawn
from loadtests.small_charts import against_aim

# In this order; what is not named here comes after them, by its name.
ORDER: Final = ("article", "peak", "scenario", "growth", "pool-sweep", "bench", "load", "faults")
TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "article": (
        "The article's four loads",
        "Seven servers under the loads of the article behind this project, one core each, and the "
        "product page of a running shop under the same.",
    ),
    "bench-access": ("The access tier", "A held page and a forwarded one, against servers known."),
    "bench-business": ("The business tier", "Against the usual way to write it."),
    "bench-data": ("The data tier", "Against pgbench, asyncpg's pool and redis-py."),
    "bench-payments": ("Payments and claims", "Through all three tiers, against pgbench."),
    "bench-live": ("Live streams", "Ten thousand open streams: memory, delay, and what they cost."),
    "bench-events": ("Behaviour events", "Counted, acknowledged on disk, and none of them lost."),
    "bench-login": ("Logins", "On short connections, and what a flood of them does to the rest."),
    "growth": ("Growth", "What a request costs as the catalog and the connections grow."),
    "pool-sweep": ("Pool sizes", "Throughput and waiting against the size of access' pools."),
    "peak": ("A peak that proves itself", "The promotion in small, with faults on a timetable."),
    "load": ("An open load", "Requests on a schedule, whatever the answers do."),
    "faults": ("Faults", "What each experiment did, and what it cost."),
}
LOAD: Final = re.compile(r"(long|short)-(\d+)-?")  # of the article, in a name
HIGHER: Final = ">="


def read(folder: Path) -> list[dict[str, Any]]:
    """All results of a folder, the article's first."""
    documents = []
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text())
        if isinstance(document, dict) and "rows" in document and "name" in document:
            documents.append(document)
    return sorted(documents, key=lambda document: _place(str(document["name"])))


def _place(name: str) -> tuple[int, str]:
    places = [at for at, start in enumerate(ORDER) if name.startswith(start)]
    return (places[0] if places else len(ORDER) - 2, name)


@dataclass(frozen=True, slots=True)
class Compared:
    """A row with a peer. chart: its ratio beside its aim, where it has one."""

    row: Mapping[str, Any]
    spread: str
    chart: Markup | None
    verdict: str  # "met", "missed" or nothing


@dataclass(frozen=True, slots=True)
class ArticleLoad:
    """One of the article's loads: charts above, tables below."""

    title: str
    ratios: Drawn | None
    latencies: Sequence[Drawn]
    tables: Sequence[Mapping[str, Any]]


class View:
    """One result file."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.name = str(document["name"])
        words = TITLES.get(self.name) or TITLES.get(self.name.partition("-")[0])
        self.title, self.intro = words or (self.name, "")
        if self.title != self.name and self.name not in TITLES:
            part = LOAD.sub(r"\1 \2, ", self.name.partition("-")[2])
            self.title = f"{self.title}: {part.strip('-, ').replace('_', ' ')}"
        self.rows: Sequence[Mapping[str, Any]] = document["rows"]
        self.machine: Mapping[str, Any] = document.get("machine") or {}
        self.settings: Mapping[str, Any] = document.get("settings") or {}
        self.versions: Mapping[str, Any] = document.get("versions") or {}
        self.checks: Sequence[Mapping[str, Any]] = document.get("checks") or ()
        self.marks: Sequence[Mapping[str, Any]] = document.get("marks") or ()

    @property
    def anchor(self) -> str:
        return "".join(sign if sign.isalnum() else "-" for sign in self.name)

    @property
    def command(self) -> str:
        if told := self.document.get("command"):
            return str(told)
        return "make faults" if self.name == "faults" else f"make {self.name}"

    @cached_property
    def verdict(self) -> str:
        """How many aims were met, targets held, or experiments passed."""
        says = []
        met = [row["met"] for row in self.rows if row.get("met") is not None]
        if met:
            says.append(f"{sum(met)} of {len(met)} aims met")
        if self.checks:
            held = sum(bool(check["held"]) for check in self.checks)
            says.append(f"{held} of {len(self.checks)} checks held")
        if self.experiments:
            passed = sum(bool(row["passed"]) for row in self.experiments)
            says.append(f"{passed} of {len(self.experiments)} experiments passed")
        return ", ".join(says)

    @cached_property
    def experiments(self) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if "experiment" in row]

    @cached_property
    def compared(self) -> list[Compared]:
        """Rows that have a peer, or should have had one. The article's are in its tables."""
        if self.is_article:
            return []
        return [
            _compared(row)
            for row in self.rows
            if row.get("peer") and (row.get("ratio") is not None or row.get("aim"))
        ]

    @cached_property
    def plain(self) -> list[Mapping[str, Any]]:
        """Figures without a peer."""
        if self.is_article:
            return []
        told = [one.row for one in self.compared]
        return [row for row in self.rows if "work" in row and row not in told]

    @cached_property
    def notes(self) -> list[tuple[str, str]]:
        """Each note once, with the work that it stands beside."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.get("note") and row["note"] != NO_PEER and not self.is_article:
                found.setdefault(str(row["note"]), []).append(str(row["work"]))
        return [
            (works[0] + (" and others" if len(set(works)) > 1 else ""), note)
            for note, works in found.items()
        ]

    @property
    def is_article(self) -> bool:
        return self.name.partition("-")[0] == "article"

    @cached_property
    def loads(self) -> list[ArticleLoad]:
        """The article's."""
        if not self.is_article:
            return []
        drawn = result_charts.distributions(self.document)
        grouped: dict[str, list[Mapping[str, Any]]] = {}
        for table in self.document.get("tables") or ():
            load, by, _ = str(table["title"]).partition(", by ")
            if by:
                grouped.setdefault(load, []).append(table)
        return [
            ArticleLoad(
                load,
                result_charts.ratios(load, tables),
                [one for one in drawn if one.title == load],
                tables,
            )
            for load, tables in grouped.items()
        ]

    @cached_property
    def tables(self) -> list[Mapping[str, Any]]:
        """Those that no load of the article has."""
        own = [table for load in self.loads for table in load.tables]
        return [table for table in self.document.get("tables") or () if table not in own]

    @cached_property
    def over_time(self) -> list[Drawn]:
        return result_charts.over_time(self.document)

    @cached_property
    def parts(self) -> list[result_charts.Part]:
        return result_charts.parts(self.document)

    @cached_property
    def others(self) -> list[Drawn]:
        """Latencies by percentile, and curves."""
        drawn = [] if self.is_article else result_charts.distributions(self.document)
        return [*drawn, *result_charts.curves(self.document)]


def _compared(row: Mapping[str, Any]) -> Compared:
    runs = row.get("runs") or ()
    spread = f"{min(runs):.2f}–{max(runs):.2f}" if len(runs) > 1 else ""
    aim, ratio = row.get("aim"), row.get("ratio")
    chart = None
    if aim and ratio is not None:
        kind, _, value = str(aim).partition(" ")
        chart = against_aim(ratio, runs, float(value), at_least=kind == HIGHER)
    verdict = {True: "met", False: "missed"}.get(row.get("met"), "")  # type: ignore[arg-type]
    return Compared(row, spread, chart, verdict)


def machines(views: Sequence[View]) -> list[Mapping[str, Any]]:
    """On which the results were taken, each once."""
    found: list[Mapping[str, Any]] = []
    for view in views:
        if view.machine and view.machine not in found:
            found.append(view.machine)
    return found
