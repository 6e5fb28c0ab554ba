"""Windows: every event is in one of each width, wherever and whenever it is counted."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.business.trending import HALF_LIFE_S, log_score, log_sum, score_at
from services.business.windows import (
    AHEAD_MS,
    DAY_MS,
    LATENESS_MS,
    WIDTHS_S,
    Arrived,
    Tally,
    place_of,
    plain_query,
    seen_day,
    start_of,
)
from services.events import TYPES, AddToCart, Checkout, Event, Purchase, Search, View

NOW_MS = 1_795_000_000_000
MOMENTS_MS = st.integers(0, 4_000_000_000_000)
NEAR_MS = st.integers(NOW_MS - 2 * LATENESS_MS, NOW_MS + 2 * AHEAD_MS)


def moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at_ms)


@given(MOMENTS_MS, st.sampled_from(WIDTHS_S))
def test_a_moment_is_in_one_window_which_lies_in_one_wider_window(at_ms: int, width_s: int) -> None:
    start = start_of(at_ms, width_s)
    assert start <= moment(at_ms) < start + timedelta(seconds=width_s)
    assert start.timestamp() % width_s == 0
    for wider_s in WIDTHS_S:
        if wider_s >= width_s:
            assert start_of(int(start.timestamp() * 1000), wider_s) == start_of(at_ms, wider_s)


@given(NEAR_MS)
def test_an_event_is_on_time_late_or_ahead(at_ms: int) -> None:
    late, ahead = NOW_MS - at_ms > LATENESS_MS, at_ms - NOW_MS > AHEAD_MS
    wanted = "late" if late else "future" if ahead else "on time"
    assert place_of(at_ms, NOW_MS) == wanted


@pytest.mark.parametrize(
    ("at_ms", "place"),
    [
        (NOW_MS - LATENESS_MS, "on time"),
        (NOW_MS - LATENESS_MS - 1, "late"),
        (NOW_MS + AHEAD_MS, "on time"),
        (NOW_MS + AHEAD_MS + 1, "future"),
        (-62_135_596_800_000, "late"),  # the first moment that can be written
    ],
)
def test_the_edges_of_being_on_time(at_ms: int, place: str) -> None:
    assert place_of(at_ms, NOW_MS) == place


@given(MOMENTS_MS, st.integers(0, DAY_MS))
def test_a_copy_is_looked_for_on_the_day_of_the_event(at_ms: int, later_ms: int) -> None:
    """Whenever it comes, for a day: so that one that comes after midnight is found."""
    assert seen_day(at_ms, at_ms) == seen_day(at_ms, at_ms + later_ms)


@st.composite
def arrivals(draw: st.DrawFn) -> Arrived:
    number, at = UUID(int=draw(st.integers(0, 2**128 - 1))), moment(draw(NEAR_MS))
    kinds: list[Event] = [
        View(number, at),
        View(number, at, "a"),
        AddToCart(number, at, "b"),
        Search(number, at, " Red  lamp", 0),
        Search(number, at, "red lamp", 2),
        Checkout(number, at),
        Purchase(number, at),
    ]
    event = draw(st.sampled_from(kinds))
    return Arrived(NOW_MS, draw(st.sampled_from([b"", b"x" * 8, b"y" * 8])), event)


def tallied(events: list[Arrived]) -> Tally:
    tally = Tally()
    for event in events:
        tally.add(event)
    return tally


@given(st.lists(arrivals(), max_size=30), st.randoms())
def test_the_order_does_not_matter_and_nothing_is_lost(
    events: list[Arrived], dice: random.Random
) -> None:
    tally = tallied(events)
    mixed = tallied(dice.sample(events, len(events)))
    for name in ("views", "carts", "searches", "viewed", "days"):
        assert getattr(tally, name) == getattr(mixed, name)
    assert (tally.added(), tally.visitors()) == (mixed.added(), mixed.visitors())
    for slug, trend in tally.trends().items():
        assert math.isclose(trend, mixed.trends()[slug], rel_tol=1e-12)
    added = tally.added()
    for width_s in WIDTHS_S:
        assert sum(sum(add) for key, add in added.items() if key.width_s == width_s) == len(events)
    for key, visitors in tally.visitors().items():
        inner = [
            found
            for narrow, found in tally.visitors().items()
            if narrow.width_s == 1
            and narrow.type == key.type
            and start_of(int(narrow.starts_at.timestamp() * 1000), key.width_s) == key.starts_at
        ]
        assert set().union(*inner) == visitors
    assert {key.type for key in added} <= set(TYPES)
    assert sum(day.totals().taken for day in tally.days.values()) == len(events)


def test_what_was_searched_for_is_told_the_same() -> None:
    assert plain_query("  Red\tLAMP ") == plain_query("red lamp") == "red lamp"
    assert plain_query("a\0b") == "a b"  # no text for PostgreSQL has a zero byte
    assert len(plain_query("x y " * 100)) <= 100


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_score_halves_with_each_half_life_and_adds_up(first_s: int, second_s: int) -> None:
    both = log_sum(log_score(first_s * 1000, 1.0), log_score(second_s * 1000, 3.0))
    now_s = max(first_s, second_s)
    wanted = 2 ** ((first_s - now_s) / HALF_LIFE_S) + 3 * 2 ** ((second_s - now_s) / HALF_LIFE_S)
    assert math.isclose(score_at(both, now_s * 1000), wanted, rel_tol=1e-6)
