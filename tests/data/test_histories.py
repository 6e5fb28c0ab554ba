"""The checker of histories: each anomaly is planted, and found by its name."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.data.histories import Done, Values, anomalies, anomalies_of_two


def done(
    *, append: dict[int, list[int]] | None = None, read: dict[int, Values] | None = None
) -> Done:
    return Done(append or {}, read or {}, "committed")


ABORTED = Done({1: [10]}, {}, "aborted")
UNKNOWN = Done({1: [10]}, {}, "unknown")
Planted = tuple[list[Done], dict[int, Values]]
PLANTED: dict[str, Planted] = {
    "twice": ([done(append={1: [1]})], {1: (1, 1)}),
    "lost append": ([done(append={1: [1]})], {1: ()}),
    "incompatible order": (
        [done(append={1: [1]}), done(append={1: [2]}), done(read={1: (2,)})],
        {1: (1, 2)},
    ),
    "G1a": ([ABORTED, done(read={1: (10,)})], {1: (10,)}),
    "G1b": ([done(append={1: [1, 2]}), done(read={1: (1,)})], {1: (1, 2)}),
    "G0": (
        [done(append={1: [1], 2: [11]}), done(append={1: [2], 2: [12]})],
        {1: (1, 2), 2: (12, 11)},
    ),
    "G1c": (
        [done(append={1: [1]}, read={2: (2,)}), done(append={2: [2]}, read={1: (1,)})],
        {1: (1,), 2: (2,)},
    ),
    "lost update": (
        [done(append={1: [1]}, read={1: ()}), done(append={1: [2]}, read={1: ()})],
        {1: (1, 2)},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_anomaly_is_found(name: str) -> None:
    assert any(found.startswith(name) for found in anomalies(*PLANTED[name]))


def test_three_transactions_in_a_ring_of_which_none_comes_first_are_found() -> None:
    history = [
        done(append={1: [1]}, read={2: ()}),
        done(append={2: [2]}, read={3: ()}),
        done(append={3: [3]}, read={1: ()}),
    ]
    found = anomalies(history, {1: (1,), 2: (2,), 3: (3,)})
    assert [name.partition(":")[0] for name in found] == ["G2"]


def test_what_happened_one_after_the_other_has_no_anomaly() -> None:
    history = [
        done(append={1: [1, 2]}, read={1: ()}),
        done(append={1: [3], 2: [4]}, read={1: (1, 2), 2: ()}),
        done(read={1: (1, 2, 3), 2: (4,)}),
        done(read={1: (1, 2), 2: ()}),  # a standby that is a little behind
        ABORTED,
    ]
    assert anomalies(history, {1: (1, 2, 3), 2: (4,)}) == []


@pytest.mark.parametrize("happened", [True, False])
def test_what_nobody_knows_may_have_happened_or_not(happened: bool) -> None:
    values: Values = (10,) if happened else ()
    assert anomalies([UNKNOWN, done(read={1: values})], {1: values}) == []


@pytest.mark.parametrize("server", ["primary", "standby"])
def test_opposite_orders_are_a_long_fork_at_two_servers_and_an_anomaly_at_one(
    server: Literal["primary", "standby"],
) -> None:
    history = [done(append={1: [1]}), done(append={2: [2]}), done(read={1: (1,), 2: ()})]
    history.append(Done({}, {1: (), 2: (2,)}, "committed", server))
    found, forks = anomalies_of_two(history, {1: (1,), 2: (2,)})
    assert (bool(found), bool(forks)) == ((False, True) if server == "standby" else (True, False))
