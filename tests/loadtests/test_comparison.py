"""Turns of several servers, and the rows made of them."""

from __future__ import annotations

from loadtests.comparison import Measure, p99_row, rate_row, take_turns
from loadtests.measure import Figures
from loadtests.result import Aim


def figures(rate: float, *, errors: int = 0, idle: float = 0.0, others: float = 0.0) -> Figures:
    return Figures(rate, 1.0, 1000 / rate, errors, 10.0, idle, others)


async def test_all_sides_take_turns_and_every_other_round_goes_backwards() -> None:
    order: list[str] = []

    def side(name: str) -> Measure:
        async def measure() -> Figures:
            order.append(name)
            return figures(len(order))

        return measure

    taken = await take_turns({name: side(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"
    assert [one.rate for one in taken["c"]] == [3, 4, 9]


def test_the_ratio_is_taken_within_each_round() -> None:
    ours, theirs = [figures(r) for r in (100, 50, 400)], [figures(r) for r in (50, 50, 100)]
    row = rate_row("page", ours, "peer", theirs, aim=Aim("at least", 2.0))
    assert (row.value, row.peer_value) == (100, 50)
    assert row.runs == [2.0, 1.0, 4.0]
    assert (row.ratio, row.met, row.note) == (2.0, True, None)
    slowest = p99_row("page", ours, "peer", theirs, aim=Aim("at most", 0.4))
    assert (slowest.work, slowest.ratio, slowest.met) == ("page, p99", 0.5, False)


def test_a_figure_that_says_less_than_it_seems_to_has_a_note() -> None:
    ours, theirs = [figures(100, errors=2)], [figures(50, idle=0.3, others=0.2)]
    note = rate_row("page", ours, "peer", theirs, aim=None).note or ""
    assert "access: 2 failed requests" in note
    assert "peer: its core was idle for 30% of the time" in note
    assert "other programs took 20% of its core" in note
