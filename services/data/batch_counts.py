"""What a batcher has done: how large its batches were, and how long rows waited for them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

# Upper bounds of the buckets: rows of a batch, and seconds that a caller waited for its batch.
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)
WAITS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


@dataclass(slots=True)
class Counts:
    """Totals since the start; sizes and waits have one bucket more, for what is above the last.

    again: rows queued once more, because others had locked what they need. left_out: callers that
    left, or whose deadline passed, before their batch began. taken_apart: batches that failed and
    were run in parts, to find the rows that fail alone.
    """

    batches: int = 0
    rows: int = 0
    calls: int = 0
    again: int = 0
    left_out: int = 0
    taken_apart: int = 0
    failed_alone: int = 0
    waited_s: float = 0.0
    sizes: list[int] = field(default_factory=lambda: [0] * (len(SIZES) + 1))
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAITS_S) + 1))

    def began(self, rows: int) -> None:
        """A batch of so many rows begins."""
        self.batches += 1
        self.rows += rows
        self.sizes[bisect_left(SIZES, rows)] += 1

    def waited(self, wait_s: float) -> None:
        """A caller has waited so long for its batch to begin."""
        self.calls += 1
        self.waited_s += wait_s
        self.waits[bisect_left(WAITS_S, wait_s)] += 1
