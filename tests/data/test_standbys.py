"""How late a standby is: dated by what the primary was seen to do, and by nothing else."""

from __future__ import annotations

import time

import pytest

from services.data.db import Database
from services.data.pool import Pool
from services.data.sources import Primary, Replica
from services.data.standbys import Watch

NOBODY = "postgresql://tercet_read@127.0.0.1:1/tercet"


@pytest.fixture
def watch() -> Watch:
    """A watch that has looked at a primary three times, and whose clock goes on."""
    pool = Pool("test", NOBODY, password="none", size=1, statement_timeout_ms=100)
    made = Watch(Database(Primary(pool), [Replica(pool)], lag_limit_ms=1000))
    now = time.monotonic()
    made._samples.extend([(now - 60.0, 100), (now - 50.0, 200), (now - 49.5, 300)])
    return made


def test_a_standby_where_the_primary_was_last_seen_is_not_late(watch: Watch) -> None:
    assert watch._lag_ms(300) == 0.0
    assert watch._lag_ms(400) == 0.0


def test_a_standby_is_as_late_as_the_primary_had_been_past_it(watch: Watch) -> None:
    assert watch._lag_ms(250) == 0.0
    assert watch._lag_ms(200) == pytest.approx(0.0)
    assert watch._lag_ms(150) == pytest.approx(500.0)


def test_a_primary_that_is_gone_makes_no_standby_later(watch: Watch) -> None:
    before = watch._lag_ms(150)
    assert before == pytest.approx(500.0)  # though the last look was 49.5 s ago
    assert watch._lag_ms(150) == before


def test_nobody_knows_how_late_a_standby_is_that_was_behind_before_the_first_look(
    watch: Watch,
) -> None:
    assert watch._lag_ms(99) is None


def test_without_a_primary_from_the_start_standbys_are_read_from(watch: Watch) -> None:
    watch._samples.clear()
    assert watch._lag_ms(0) == 0.0
