"""Memory that the processes of one parent share: each has a slot that it alone writes to.

What a process leaves there stays when it ends, and is taken over by the next one that gets the
slot. So sums over all slots never go down.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final, NamedTuple

HALF_BYTES: Final = 64 * 1024  # a process says some 12 KB about itself
SLOT_BYTES: Final = 2 * HALF_BYTES + 16
# Pages that nobody has written to take no memory, so this is a limit and not a size.
SLOTS: Final = 192
HEAD: Final = struct.Struct("=BBxxII4x")  # alive, the half that counts, the length of each half


class Said(NamedTuple):
    """What a process has said last, and whether it still runs."""

    slot: int
    alive: bool
    data: bytes


class Slots:
    """Made by the parent before it forks, and inherited."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SLOTS * SLOT_BYTES)
        self._taken: set[int] = set()

    def take(self) -> int:
        """The lowest free slot: one that was used before, if there is one. For the parent."""
        slot = next(number for number in range(SLOTS) if number not in self._taken)
        self._taken.add(slot)
        self._memory[slot * SLOT_BYTES] = 1
        return slot

    def free(self, slot: int) -> None:
        """Its process has ended. For the parent."""
        self._taken.discard(slot)
        self._memory[slot * SLOT_BYTES] = 0

    def write(self, slot: int, data: bytes) -> None:
        """Say something in the place of what was said before. For the slot's process.

        It goes to the half that does not count, so a process that is killed while it writes
        leaves what was there.
        """
        if len(data) > HALF_BYTES:
            raise ValueError(f"{len(data)} bytes are more than a slot holds")
        at = slot * SLOT_BYTES
        half = 1 - self._memory[at + 1]
        begin = at + HEAD.size + half * HALF_BYTES
        self._memory[begin : begin + len(data)] = data
        struct.pack_into("=I", self._memory, at + 4 + 4 * half, len(data))
        self._memory[at + 1] = half

    def read(self, slot: int) -> bytes:
        """What was said there last; nothing if nothing ever was."""
        at = slot * SLOT_BYTES
        _, half, *lengths = HEAD.unpack_from(self._memory, at)
        begin = at + HEAD.size + half * HALF_BYTES
        return self._memory[begin : begin + lengths[half]]

    def read_all(self) -> list[Said]:
        """What every process has said, those included that have ended."""
        said = []
        for slot in range(SLOTS):
            data = self.read(slot)
            if data:
                said.append(Said(slot, bool(self._memory[slot * SLOT_BYTES]), data))
        return said
