"""What was purged, up to which position: the memory by which an answer is found to be old.

The rule is docs/decisions/0004's. Memory is bounded: of what falls out, the highest position is
kept as a floor for every tag that is not remembered, so that forgetting can only cost a fetch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

TAGS_KEPT: Final = 50_000  # about 250 bytes each
TOGETHER_S: Final = 0.02  # a tag is purged at most once in this time; half of the 50 ms allowed


class Purge(NamedTuple):
    """The newest purge of a tag: position in bytes of WAL, its number here, when (monotonic)."""

    position: int
    number: int
    acted_at: float


class Purges:
    """Positions by tag. `number` counts the purges that were acted on."""

    def __init__(self, tags_kept: int = TAGS_KEPT) -> None:
        self.number = 0
        self._tags_kept = tags_kept
        self._purged: OrderedDict[str, Purge] = OrderedDict()
        self._floor = Purge(0, 0, float("-inf"))
        self._put_off: dict[str, int] = {}

    def joined(self, tag: str, position: int) -> bool:
        """Whether a purge takes effect together with one that was put off before it."""
        waiting = self._put_off.get(tag)
        if waiting is None:
            return False
        self._put_off[tag] = max(position, waiting)
        return True

    def put_off(self, tag: str, position: int, now: float) -> float:
        """Seconds after which a purge has to be acted on; 0.0: at once."""
        last = self._purged.get(tag, self._floor)
        wait_s = last.acted_at + TOGETHER_S - now
        if wait_s <= 0:
            return 0.0
        self._put_off[tag] = position
        return wait_s

    def act(self, tag: str, position: int, now: float) -> int:
        """Remember a purge that takes effect now, with what was put off; returns its position."""
        position = max(position, self._put_off.pop(tag, 0))
        last = self._purged.pop(tag, self._floor)
        self.number += 1
        self._purged[tag] = Purge(max(position, last.position), self.number, now)
        while len(self._purged) > self._tags_kept:
            _, lost = self._purged.popitem(last=False)
            self._floor = Purge(
                max(self._floor.position, lost.position),
                max(self._floor.number, lost.number),
                self._floor.acted_at,
            )
        return position

    def needed(self, tags: Iterable[str]) -> int:
        """The position that a fetch of something with these tags has to have seen."""
        return max(
            (
                max(self._purged.get(tag, self._floor).position, self._put_off.get(tag, 0))
                for tag in tags
            ),
            default=0,
        )

    def behind(self, tags: Iterable[str], position: int | None, since: int) -> bool:
        """Whether an answer is behind a purge of one of its tags.

        Without a position it is, if any came after `since`, the number when its fetch began.
        """
        for tag in tags:
            last = self._purged.get(tag, self._floor)
            if last.number > since if position is None else position < last.position:
                return True
        return False
