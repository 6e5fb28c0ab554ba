"""The result file of every benchmark: what was measured, where, of which commit, against whom."""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from loadtests.story import Story
from services.settings import cores

PROJECT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = PROJECT / "loadtests" / "results"
NO_PEER: Final = "nothing to compare with in this run"


@dataclass(frozen=True, slots=True)
class Aim:
    """What the ratio to the peer has to be."""

    kind: Literal["at least", "at most"]
    ratio: float

    def met(self, ratio: float) -> bool:
        return ratio >= self.ratio if self.kind == "at least" else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{'>=' if self.kind == 'at least' else '<='} {self.ratio:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `runs` are the ratios of the rounds; their median is the row's ratio.

    Without a peer there is no ratio, and `note` says why.
    """

    work: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    aim: Aim | None = None
    runs: Sequence[float] = field(default=())
    note: str | None = None

    def __post_init__(self) -> None:
        if (self.peer_value is None) != (not self.runs):
            raise ValueError(f"{self.work}: a peer's value and the rounds' ratios come together")
        if self.peer_value is None and not self.note:
            raise ValueError(f"{self.work}: without a peer's value, a note says why")

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.runs) if self.runs else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without an aim or without a peer."""
        return None if self.aim is None or self.ratio is None else self.aim.met(self.ratio)

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "work": self.work,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": self.peer_value,
            "ratio": self.ratio,
            "aim": None if self.aim is None else str(self.aim),
            "met": self.met,
            "runs": list(self.runs),
        }
        return document if self.note is None else document | {"note": self.note}


def write(
    name: str,
    rows: Sequence[Row],
    *,
    settings: Mapping[str, Any],
    started_at: datetime,
    folder: Path = RESULTS,
    story: Story | None = None,
) -> Path:
    """Write folder/NAME.json and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "commit": commit(),
        "machine": machine(),
        "started_at": started_at.astimezone(UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "rows": [row.document() for row in rows],
        **(story.document() if story else {}),
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def commit() -> str | None:
    """The commit, marked where files differ from it; None outside of a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
