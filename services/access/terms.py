"""How each class of traffic is treated when more comes than can be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Terms:
    """Lower levels yield to higher ones; 0 is the highest."""

    level: int
    patience_s: float  # longest wait while there is no overload; 0.0: none, and none at all below
    adaptive: bool = True


TERMS: Final = {
    "payment": Terms(0, 1.0, adaptive=False),  # a slow provider is not overload
    "login": Terms(1, 1.0),
    "checkout": Terms(1, 1.0),
    "page": Terms(2, 0.5),
    "other": Terms(2, 0.5),
    "operator": Terms(2, 0.5),
    "beacon": Terms(3, 0.0),
}
