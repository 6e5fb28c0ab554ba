"""What became of what a cache was asked for, in plain numbers that a scrape reads later."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What became of what was asked for, since the process started."""

    memory: int = 0  # answered from memory …
    stale: int = 0  # … of these, past its time, and loaded anew meanwhile
    valkey: int = 0
    loads: int = 0  # from the database; a load may be repeated for a purge that came meanwhile
    failures: int = 0
    lease_waits: int = 0  # loads that another process was at
    lease_hits: int = 0  # of these, ended by its value
