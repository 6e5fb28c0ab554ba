"""The limit on requests at business, before a model of it: every run is the same."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access.limiter import Limiter
from tests.access.modelled import Business, Model, Process


def jittered(latency_s: float, *, by: float = 0.05, seed: int = 2) -> Callable[[float], float]:
    dice = random.Random(seed)
    return lambda _: latency_s * (1 + by * dice.expovariate(1))


def of_two_kinds(slow_share: float, seed: int = 3) -> Callable[[float], float]:
    dice = random.Random(seed)
    return lambda _: 0.06 if dice.random() < slow_share else 0.002


def one_process(business: Business, ceiling: int = 64) -> tuple[Model, Process]:
    process = Process(Limiter(ceiling))
    return Model(business, [process]), process


def p99_ms(latencies_s: list[float]) -> float:
    return latencies_s[int(len(latencies_s) * 0.99)] * 1000


@pytest.mark.parametrize("rate", [600, 1000, 1200])
def test_after_a_step_of_latency_the_limit_is_what_littles_law_asks_for(rate: int) -> None:
    latency_s = 0.005
    model, process = one_process(Business(lambda _: latency_s))
    model.load(rate, 3, even=True)
    for step_s in (0.050, 0.005):
        latency_s = step_s
        settled_at = model.load(rate, 8, even=True) + 5
        need = rate * latency_s
        assert process.refused_since(settled_at) <= 0.01 * rate * 3
        assert 0.75 * need <= min(process.limits_since(settled_at))
        assert max(process.limits_since(settled_at)) <= max(1.25 * need, need + 1)
        assert process.in_flight_since(settled_at) == pytest.approx(need, rel=0.25)


def test_after_a_step_under_random_arrivals_all_of_them_are_let_in_again() -> None:
    latency_s = 0.005
    model, process = one_process(Business(lambda _: latency_s), ceiling=128)
    model.load(1000, 3)
    for step_s in (0.050, 0.005):
        latency_s = step_s
        settled_at = model.load(1000, 10) + 5
        need = 1000 * latency_s
        offered = 1000 * 5
        assert process.refused_since(settled_at) <= 0.01 * offered
        assert process.in_flight_since(settled_at) == pytest.approx(need, rel=0.25)


def test_a_full_server_is_given_little_more_than_it_works_on_at_once() -> None:
    model, process = one_process(Business(jittered(0.020), servers=8))
    model.load(200, 3)
    unloaded_ms = p99_ms(process.latencies_since(1))
    overloaded_at = model.load(4000, 10) + 2
    limits = sorted(process.limits_since(overloaded_at))
    assert limits[len(limits) // 10] >= 7  # less only while it probes
    assert limits[-1] <= 14
    latencies = process.latencies_since(overloaded_at)
    assert p99_ms(latencies) <= 2 * unloaded_ms
    assert len(latencies) >= 0.9 * 8 * (8 / 0.021)


def test_a_process_that_starts_in_an_overload_finds_out_what_latency_is_without_one() -> None:
    model, process = one_process(Business(jittered(0.020), servers=3))
    began_at = model.load(4000, 35)
    assert process.limiter.probes_total >= 1
    assert process.limiter.baseline_s < 0.025
    assert max(process.limits_since(began_at + 32)) <= 8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_processes_that_share_business_share_it_evenly(seed: int) -> None:
    business = Business(jittered(0.020), servers=8)
    processes = [Process(Limiter(16)) for _ in range(4)]
    model = Model(business, processes, seed=seed)
    model.load(200, 3)
    settled_at = model.load(4000, 25) + 5
    limits = [process.limits_since(settled_at) for process in processes]
    assert sum(sum(each) / len(each) for each in limits) <= 14
    done = [len(process.latencies_since(settled_at)) for process in processes]
    assert min(done) >= 0.3 * max(done)
    assert sum(done) >= 0.9 * 20 * (8 / 0.021)


def test_processes_that_start_together_in_an_overload_find_a_way_out() -> None:
    business = Business(jittered(0.020), servers=3)
    processes = [Process(Limiter(64)) for _ in range(4)]
    model = Model(business, processes)
    settled_at = model.load(4000, 45) + 35
    limits = [process.limits_since(settled_at) for process in processes]
    assert sum(sum(each) / len(each) for each in limits) <= 12
    assert all(process.latencies_since(settled_at)[-1] < 0.2 for process in processes)


def test_answers_that_take_seconds_are_not_mistaken_for_what_they_are_without_a_queue() -> None:
    model, process = one_process(Business(jittered(2.0), servers=8))
    model.load(2, 60)
    overloaded_at = model.load(40, 120) + 30
    limits = sorted(process.limits_since(overloaded_at))
    assert limits[len(limits) // 2] <= 14
    assert process.limiter.baseline_s < 2.3
    assert len(process.latencies_since(overloaded_at)) >= 0.8 * 90 * (8 / 2.1)


@pytest.mark.parametrize("slow_share", [0.05, 0.2, 0.5, 0.8])
def test_latency_of_two_kinds_is_no_queue(slow_share: float) -> None:
    model, process = one_process(Business(of_two_kinds(slow_share)))
    mean_s = 0.06 * slow_share + 0.002 * (1 - slow_share)
    settled_at = model.load(0.7 * 64 / mean_s, 15) + 5
    limits = process.limits_since(settled_at)
    assert sum(limits) / len(limits) >= 0.9 * 64
    offered = len(limits)
    assert process.refused_since(settled_at) <= 0.01 * offered


def test_a_quiet_night_does_not_lower_the_limit() -> None:
    dice = random.Random(4)
    model, process = one_process(Business(lambda _: 0.005 * dice.lognormvariate(0, 0.8)))
    model.load(4000, 5)
    by_day = process.limiter.limit
    model.load(10, 120)
    assert process.limiter.limit == by_day


def test_less_capacity_is_noticed_and_so_is_its_return() -> None:
    model, process = one_process(Business(jittered(0.020), servers=32))
    model.load(1000, 6)
    model.business.resize(6, model.now)
    poor_at = model.load(1000, 8) + 2
    poor = sorted(process.limits_since(poor_at))
    model.business.resize(32, model.now)
    rich_at = model.load(1000, 8) + 5
    assert poor[len(poor) // 10] >= 5
    assert poor[-1] <= 12
    assert process.refused_since(rich_at) <= 0.01 * 3000


def test_what_business_drops_lowers_the_limit_until_it_does_so_no_more() -> None:
    model, process = one_process(Business(jittered(0.010)), ceiling=16)
    model.load(800, 4)
    before = process.limiter.limit
    model.dropping = True
    model.load(800, 2)
    assert process.limiter.limit == 1
    assert process.limiter.dropped_share == 1.0
    model.dropping = False
    back_at = model.load(800, 8)
    assert process.limits_since(back_at + 5)[0] >= before
    assert process.refused_since(back_at + 5) <= 0.01 * 800 * 3


def test_nothing_is_learned_while_less_than_half_of_the_limit_is_used() -> None:
    limiter = Limiter(64)
    for number in range(2000):
        limiter.sample(number * 0.01, 0.005 if number < 1000 else 0.050, 3, dropped=False)
    assert limiter.limit == 16


def test_the_limit_grows_only_when_somebody_found_it_reached() -> None:
    limiter = Limiter(64)
    for number in range(2000):
        limiter.sample(number * 0.001, 0.016, 16, dropped=False)
    assert limiter.limit == 16
    for number in range(2000, 4000):
        limiter.missed()
        limiter.sample(number * 0.001, 0.016, 16, dropped=False)
    assert limiter.limit > 20


@given(
    ceiling=st.integers(1, 200),
    samples=st.lists(
        st.tuples(
            st.floats(0, 0.5),
            st.floats(0, 30),
            st.integers(1, 200),
            st.booleans(),
            st.booleans(),
        ),
        min_size=20,
        max_size=200,
    ),
)
def test_the_limit_stays_between_one_and_the_size_of_the_pool(
    ceiling: int, samples: list[tuple[float, float, int, bool, bool]]
) -> None:
    limiter, now = Limiter(ceiling), 0.0
    for gap_s, latency_s, in_flight, dropped, missed in samples:
        now += gap_s
        if missed:
            limiter.missed()
        limiter.sample(now, latency_s, min(in_flight, ceiling), dropped=dropped)
        assert 1 <= limiter.limit <= ceiling
