"""What the log of events has taken, against what was counted: not one event more or less."""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis

from services.data.log_reader import Appended, look
from services.data.proofs import Finding
from services.data.rules import Rule
from services.data.sources import Primary, Transaction

# The log is looked at first. What has been counted since is known by its place: places grow, and
# entries are remembered for hours.
COUNTED_BY: Final = """
    select coalesce((select sum(taken) from event_totals where log_id = $1), 0)::bigint,
        coalesce((select sum(events) from rolled_up_entries
            where (entry_ms, entry_seq) > ($2::bigint, $3::bigint)), 0)::bigint
"""
COUNTED_AMONG: Final = """
    select entry_ms, entry_seq from rolled_up_entries
    join unnest($1::bigint[], $2::bigint[]) as waiting (entry_ms, entry_seq)
        using (entry_ms, entry_seq)
"""
LOG_RULE: Final = Rule(
    "analytics",
    "every event that the log has taken is counted once, a duplicate, late, or still in the log",
    "",
    "",
)


async def prove_log(primary: Primary, valkey: Redis) -> Finding:
    """Compare, while the shop goes on. Raises LogAway."""
    log = await look(valkey)
    async with primary.transaction("repeatable read, read only") as tx:
        counted, waiting = await _split(tx, log)
    broken = []
    if log.events != counted + waiting:
        broken.append(f"taken {log.events}, counted {counted}, still in the log {waiting}")
    return Finding(LOG_RULE, log.events, broken)


async def _split(tx: Transaction, log: Appended) -> tuple[int, int]:
    """Of what was in the log then: how many events are counted now, and how many are not."""
    (row,) = await tx.fetch(COUNTED_BY, log.log_id, *log.newest)
    counted = row[0] - row[1]
    places = [list(column) for column in zip(*log.entries, strict=True)] or [[], []]
    known = {(found[0], found[1]) for found in await tx.fetch(COUNTED_AMONG, *places)}
    waiting = sum(number for place, number in log.entries.items() if place not in known)
    return counted, waiting
