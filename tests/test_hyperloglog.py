"""Sketches: the order does not matter, nor how often, and the estimate is near."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.hyperloglog import EMPTY, added, estimate, united

VALUES = st.lists(st.binary(min_size=8, max_size=8), max_size=60)


def named(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=8).digest()


@pytest.mark.parametrize("count", [0, 1, 2, 10, 100, 700, 5_000, 20_000, 60_000])
def test_the_estimate_is_near(count: int) -> None:
    sketch = added(EMPTY, (named(number) for number in range(count)))
    assert abs(estimate(sketch) - count) <= max(0.05 * count, 0.5)  # three standard errors
    assert len(sketch) <= 4097


@settings(max_examples=20)
@given(VALUES, VALUES)
def test_a_sketch_is_of_what_was_seen_and_of_nothing_else(
    one: list[bytes], two: list[bytes]
) -> None:
    both = added(EMPTY, [*one, *two])
    assert both == added(added(EMPTY, two), one)
    assert both == added(both, one)
    assert both == united([added(EMPTY, one), added(EMPTY, two)])
    assert both == united([both, added(EMPTY, one), EMPTY])


@settings(max_examples=20)
@given(st.integers(500, 1500), st.integers(0, 10**9))
def test_small_and_whole_sketches_say_the_same(size: int, first: int) -> None:
    numbers = range(first, first + size)
    half = len(numbers) // 2
    parts = [added(EMPTY, map(named, part)) for part in (numbers[:half], numbers[half:])]
    assert united(parts) == added(EMPTY, map(named, numbers))
