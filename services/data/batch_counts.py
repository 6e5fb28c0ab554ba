"""What a batcher has done: how large its batches were, and how long rows waited for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from services.histogram import Histogram

SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)  # rows
# A batch takes some milliseconds, and a caller waits for one or two of them.
WAITS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


@dataclass(slots=True)
class Counts:
    """Totals since the start: sizes in rows of a batch, waits in seconds of a caller.

    again: rows queued once more, because others had locked what they need. left_out: callers that
    left, or whose deadline passed, before their batch began. taken_apart: batches that failed and
    were run in parts, to find the rows that fail alone.
    """

    again: int = 0
    left_out: int = 0
    taken_apart: int = 0
    failed_alone: int = 0
    sizes: Histogram = field(default_factory=lambda: Histogram(SIZES))
    waits: Histogram = field(default_factory=lambda: Histogram(WAITS_S))

    @property
    def batches(self) -> int:
        return self.sizes.count

    @property
    def rows(self) -> int:
        return int(self.sizes.sum_s)

    @property
    def calls(self) -> int:
        return self.waits.count
