"""When a standby that was ejected is read from again: soon, and later each time it falls again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Three looks of the watch. Doubled while it keeps falling, so that a standby that flaps is tried
# more and more rarely, but never left out for long once it is well.
FIRST_WAIT_S: Final = 0.3
LONGEST_WAIT_S: Final = 4.0
CALM_S: Final = 10.0  # one that stood this long starts again with the shortest wait


class Standing:
    """Fed by every look of the watch. Out at the first bad look, back after a while of good ones.

    ejections_total: how often it fell while it was read from.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stands_since: float | None = None
        self._well_since: float | None = None
        self._wait_s = 0.0  # one that has never stood begins at its first good look
        self.ejections_total = 0

    @property
    def stands(self) -> bool:
        return self._stands_since is not None

    def see(self, *, well: bool) -> None:
        """One look: whether it answered as a standby and keeps up."""
        now = self._clock()
        if not well:
            self._well_since = None
            if self._stands_since is not None:
                self._eject(now - self._stands_since)
            return
        if self._well_since is None:
            self._well_since = now
        if self._stands_since is None and now - self._well_since >= self._wait_s:
            self._stands_since = now

    def _eject(self, stood_s: float) -> None:
        self.ejections_total += 1
        self._stands_since = None
        again = self._wait_s > 0 and stood_s < CALM_S
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S) if again else FIRST_WAIT_S
