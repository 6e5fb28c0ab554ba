"""When a standby is read from: at its first good look, and more warily the more often it fell."""

from __future__ import annotations

import pytest

from services.data.standing import CALM_S, FIRST_WAIT_S, LONGEST_WAIT_S, Standing

LOOK_S = 0.1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def standing(clock: Clock) -> Standing:
    return Standing(clock)


def look(standing: Standing, clock: Clock, *, well: bool, for_s: float) -> float:
    """So many seconds of looks; returns for how many of them it stood."""
    stood_s = 0.0
    for _ in range(round(for_s / LOOK_S)):
        clock.now += LOOK_S
        standing.see(well=well)
        stood_s += LOOK_S * standing.stands
    return stood_s


def test_a_new_standby_stands_at_its_first_good_look(standing: Standing) -> None:
    stood = [standing.stands]
    standing.see(well=True)
    assert [*stood, standing.stands] == [False, True]
    assert standing.ejections_total == 0


def test_one_that_falls_is_out_at_once_and_back_after_some_good_looks(
    standing: Standing, clock: Clock
) -> None:
    standing.see(well=True)
    standing.see(well=False)
    assert not standing.stands
    assert standing.ejections_total == 1
    stood_s = look(standing, clock, well=True, for_s=FIRST_WAIT_S + 1.0)
    assert stood_s == pytest.approx(1.0, abs=2 * LOOK_S)


def test_one_bad_look_begins_the_wait_anew(standing: Standing, clock: Clock) -> None:
    standing.see(well=True)
    standing.see(well=False)
    for _ in range(10):
        assert look(standing, clock, well=True, for_s=FIRST_WAIT_S - LOOK_S) == 0.0
        look(standing, clock, well=False, for_s=LOOK_S)
    assert standing.ejections_total == 1


def test_one_that_flaps_is_hardly_tried_and_one_that_is_well_is_never_out_for_long(
    standing: Standing, clock: Clock
) -> None:
    """Ten times down and up in 30 s, as experiment 9 has it."""
    standing.see(well=True)
    for _ in range(10):
        look(standing, clock, well=False, for_s=1.5)
        look(standing, clock, well=True, for_s=1.5)
    assert standing.ejections_total <= 4
    look(standing, clock, well=False, for_s=LOOK_S)
    stood_s = look(standing, clock, well=True, for_s=10.0)
    assert 10.0 - stood_s <= LONGEST_WAIT_S + 2 * LOOK_S


def test_one_that_stood_for_a_while_is_forgiven(standing: Standing, clock: Clock) -> None:
    standing.see(well=True)
    for _ in range(5):
        look(standing, clock, well=False, for_s=LOOK_S)
        look(standing, clock, well=True, for_s=LONGEST_WAIT_S + 1.0)
    look(standing, clock, well=True, for_s=CALM_S)
    look(standing, clock, well=False, for_s=LOOK_S)
    stood_s = look(standing, clock, well=True, for_s=1.0)
    assert stood_s == pytest.approx(1.0 - FIRST_WAIT_S, abs=2 * LOOK_S)
