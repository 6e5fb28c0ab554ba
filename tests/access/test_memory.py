"""services/access/memory.py: steps up and down, and what the system says of this process."""

from __future__ import annotations

import sys

import pytest

from services.access.memory import Memory, resident_bytes


def test_steps_begin_and_end_where_they_should_and_do_not_flutter() -> None:
    used = [0]
    memory = Memory(1000, lambda: used[0])
    seen = []
    for used[0] in (840, 851, 830, 805, 799, 960, 910, 899, 700, 0):
        changed = memory.look()
        seen.append((used[0], memory.pressure, changed))
    assert seen == [
        (840, 0, False),
        (851, 1, True),
        (830, 1, False),
        (805, 1, False),
        (799, 0, True),
        (960, 2, True),
        (910, 2, False),
        (899, 1, True),
        (700, 0, True),
        (0, 0, False),
    ]


def test_without_a_limit_there_is_no_pressure() -> None:
    memory = Memory(0, lambda: 10**12)
    assert not memory.look()
    assert (memory.pressure, memory.resident_bytes) == (0, 10**12)


@pytest.mark.skipif(sys.platform != "linux", reason="only there is it read")
def test_the_memory_of_this_process_is_what_the_system_says() -> None:
    before = resident_bytes()
    block = bytearray(32 * 1024 * 1024)
    block[::4096] = b"x" * (len(block) // 4096)
    grown = resident_bytes() - before
    assert 30 * 1024 * 1024 < grown < 48 * 1024 * 1024
