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
    presses: bool = True  # whether the classes below give way while this one waits


TERMS: Final = {
    "payment": Terms(0, 1.0, adaptive=False),  # a slow provider is not overload
    # What a login waits for is a processor for its password, of which business lends a few: nobody
    # who gives way brings it forward, and a flood of them must not take pages away.
    "login": Terms(1, 1.0, presses=False),
    "checkout": Terms(1, 1.0),
    "page": Terms(2, 0.5),
    "other": Terms(2, 0.5),
    "operator": Terms(2, 0.5),
    "beacon": Terms(3, 0.0),
}
