"""What can be wrong with one direction of a TCP connection, and the pace that follows from it."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any, Final

# A limited direction hands over what fits into this time at once: small enough to look smooth.
BURST_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxics:
    """The faults of one direction. All can be together; the default is a healthy network.

    Counts of bytes are per connection, from its beginning. Bytes are never doubled nor reordered:
    TCP does not do that to its users either.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0  # each piece read is late by latency plus or minus this, evenly spread
    rate_bytes_s: int | None = None
    slice_bytes: int | None = None  # handed over in portions of this size …
    slice_delay_ms: float = 0.0  # … this far apart
    cut_after_bytes: int | None = None  # both sides see an orderly end after so many
    reset_after_bytes: int | None = None  # both sides see a reset after so many
    drop: bool = False  # read and thrown away; the connection stays open

    def __post_init__(self) -> None:
        for name in ("latency_ms", "jitter_ms", "slice_delay_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} can not be negative")
        for name in ("rate_bytes_s", "slice_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("cut_after_bytes", "reset_after_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} can not be negative")

    @classmethod
    def of(cls, values: dict[str, Any]) -> Toxics:
        """From named values, as a command line or a line of JSON has them; None means default."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"there is no toxic {unknown[0]}; there are {', '.join(sorted(known))}"
            )
        return cls(**{name: value for name, value in values.items() if value is not None})

    def delay_s(self, dice: random.Random) -> float:
        """How late the next piece is; never negative."""
        jitter_ms = dice.uniform(-self.jitter_ms, self.jitter_ms) if self.jitter_ms else 0.0
        return max(0.0, self.latency_ms + jitter_ms) / 1000

    def portion_bytes(self, waiting_bytes: int) -> int:
        """How much of what waits this direction hands over at once."""
        size = min(waiting_bytes, self.slice_bytes or waiting_bytes)
        if self.rate_bytes_s is not None:
            size = min(size, max(1, int(self.rate_bytes_s * BURST_S)))
        return size

    def portion_s(self, size_bytes: int) -> float:
        """How long the portion takes on the wire, or how far it is from the one before."""
        on_wire_s = size_bytes / self.rate_bytes_s if self.rate_bytes_s else 0.0
        return max(on_wire_s, self.slice_delay_ms / 1000 if self.slice_bytes else 0.0)

    def left_bytes(self, passed_bytes: int) -> int | None:
        """How many more bytes pass before the connection ends; None without such a fault."""
        limits = [n for n in (self.cut_after_bytes, self.reset_after_bytes) if n is not None]
        return max(0, min(limits) - passed_bytes) if limits else None

    def ends_by_reset(self) -> bool:
        """Whether the fault that comes first is the reset."""
        if self.reset_after_bytes is None:
            return False
        return self.cut_after_bytes is None or self.reset_after_bytes <= self.cut_after_bytes
