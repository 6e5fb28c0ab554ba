"""Which server is the primary, what a COMMIT waits for, and how the standbys were seen last.

With two standbys a COMMIT waits for either of them, so that a dead primary has acknowledged
nothing that is not on one. With a single one it waits for none: its crash would stop every write.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final, NamedTuple

from infra.local.folder import DataFolder
from infra.local.node import Node

STANDBYS_TO_WAIT_FOR_ONE: Final = 2
# A standby reports every second (wal_receiver_status_interval): two missed reports and some more.
SILENT_S: Final = 3.0

REPLICATION: Final = """
    select coalesce(json_agg(standby), '[]') as standbys from (
        select application_name as name, state,
            extract(epoch from now() - reply_time)::float8 as silent_s,
            pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn)::bigint as behind_bytes
        from pg_stat_replication
    ) standby
"""


class Seen(NamedTuple):
    """A standby as the primary saw it."""

    at: float
    state: str
    silent_s: float
    behind_bytes: int

    @property
    def streams(self) -> bool:
        return self.state == "streaming" and self.silent_s < SILENT_S


class Cluster:
    """The servers of one data folder. `changing` is held while it is decided who leads."""

    def __init__(self, folder: DataFolder) -> None:
        self._file = folder.root / "cluster.json"
        self._kept: dict[str, Any] = _read(self._file)
        self.nodes: list[Node] = []
        self.seen: dict[str, Seen] = {}
        self.changing = asyncio.Lock()

    @property
    def leader_name(self) -> str:
        return str(self._kept.get("leader", "primary"))

    @property
    def leader(self) -> Node:
        return next(node for node in self.nodes if node.name == self.leader_name)

    @property
    def followers(self) -> list[Node]:
        return [node for node in self.nodes if not node.leads]

    @property
    def alone(self) -> bool:
        """Whether the primary acknowledges by itself until a standby streams."""
        return bool(self._kept.get("alone"))

    @property
    def waits(self) -> bool:
        """Whether a COMMIT is to wait for one of the standbys."""
        return len(self.nodes) > STANDBYS_TO_WAIT_FOR_ONE

    @property
    def synchronous_names(self) -> str:
        """synchronous_standby_names; the same at every server, because any may be promoted."""
        if not self.waits or self.alone:
            return ""
        names = ", ".join(f'"{node.name}"' for node in self.nodes)
        return f"ANY 1 ({names})"

    def keep(self, *, leader: str | None = None, alone: bool | None = None) -> None:
        """Remember it beyond this run, before it is done: the next start goes on from there."""
        changes = {"leader": leader, "alone": alone}
        self._kept |= {name: value for name, value in changes.items() if value is not None}
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self._kept))
        fresh.replace(self._file)

    async def look(self, primary: Node) -> str:
        """Ask the primary how its standbys are; returns what there is to say of it."""
        if not self.waits:
            return ""
        streaming = await self.look_at_standbys(primary)
        confirms = "it acknowledges alone" if self.alone else "one confirms each COMMIT"
        return f", {streaming} of {len(self.nodes) - 1} standbys stream, {confirms}"

    async def look_at_standbys(self, primary: Node) -> int:
        """How many of them stream."""
        row = await primary.ask(REPLICATION)
        now = time.monotonic()
        names = {node.name for node in self.nodes}
        self.seen = {
            entry["name"]: Seen(
                now, entry["state"], entry["silent_s"] or 0.0, entry["behind_bytes"] or 0
            )
            for entry in json.loads(row["standbys"])
            if entry["name"] in names
        }
        return sum(seen.streams for seen in self.seen.values())


def _read(file: Any) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return kept if isinstance(kept, dict) else {}
