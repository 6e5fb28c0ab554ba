"""A score that decays by itself: what was looked at an hour ago counts less than what is now.

Forward decay (Cormode et al., Forward Decay, ICDE 2009): an event weighs 2 ** (age of a fixed
moment in half-lives), which never changes, so scores are sums that need no refreshing, and the
order of events does not matter. Kept as logarithms to 2, because the weights outgrow a double.
"""

from __future__ import annotations

import math
from typing import Final

HALF_LIFE_S: Final = 6 * 3600  # yesterday at this time counts a sixteenth
EPOCH_S: Final = 1_767_225_600  # 2026-01-01: any moment would do
FORGOTTEN: Final = 40.0  # half-lives: ten days, after which 10^12 views are worth one


def log_score(at_ms: int, weight: float) -> float:
    """The logarithm of what an event of that weight adds to a score."""
    return (at_ms / 1000 - EPOCH_S) / HALF_LIFE_S + math.log2(weight)


def log_sum(a: float, b: float) -> float:
    """The logarithm of the sum of two scores."""
    high, low = max(a, b), min(a, b)
    return high + math.log2(1 + 2 ** max(-60.0, low - high))


def score_at(log_of_score: float, at_ms: int) -> float:
    """A score as it is at a moment: one view right then is 1."""
    return float(2 ** min(64.0, log_of_score - log_score(at_ms, 1.0)))


def forgotten_at(at_ms: int) -> float:
    """The logarithm of a score that is as good as none."""
    return log_score(at_ms, 1.0) - FORGOTTEN
