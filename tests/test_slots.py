"""services/slots.py: sums of what processes say do not go down when one ends."""

from __future__ import annotations

import os
import signal

import pytest

from services.slots import HALF_BYTES, HEAD, SLOT_BYTES, Slots


def test_a_process_reads_what_another_one_has_said() -> None:
    slots = Slots()
    slot = slots.take()
    assert slots.read_all() == []
    pid = os.fork()
    if pid == 0:
        slots.write(slot, b"a" * HALF_BYTES)
        slots.write(slot, b"second")
        os._exit(0)
    os.waitpid(pid, 0)
    assert [(said.slot, said.alive, said.data) for said in slots.read_all()] == [
        (slot, True, b"second")
    ]


def test_what_was_said_stays_and_the_next_process_takes_it_over() -> None:
    slots = Slots()
    first, second = slots.take(), slots.take()
    for slot in (first, second):
        slots.write(slot, b"%d" % slot)
    slots.free(first)
    assert [said.alive for said in slots.read_all()] == [False, True]
    assert slots.take() == first
    assert slots.read(first) == b"%d" % first


def test_a_process_killed_while_it_writes_leaves_what_was_there() -> None:
    slots = Slots()
    slot = slots.take()
    slots.write(slot, b"whole")
    pid = os.fork()
    if pid == 0:
        half = 1 - slots._memory[slot * SLOT_BYTES + 1]
        begin = slot * SLOT_BYTES + HEAD.size + half * HALF_BYTES
        slots._memory[begin : begin + 4] = b"half"  # as far as write() has come when it is killed
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert slots.read(slot) == b"whole"


def test_more_than_a_slot_holds_is_refused() -> None:
    slots = Slots()
    with pytest.raises(ValueError, match="more than a slot holds"):
        slots.write(slots.take(), b"a" * (HALF_BYTES + 1))
