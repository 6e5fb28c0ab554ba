"""Token buckets by customer and by address, and the number of connections."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access import buckets as buckets_module
from services.access.buckets import Buckets, Connections, Rate, Rates, rates_of
from services.access.client_address import Networks
from services.access.routes import Route

HERE = Networks("127.0.0.0/8,::1/128")


def buckets(customer: Rate | None = None, address: Rate | None = None) -> Buckets:
    return Buckets({Route.OTHER: Rates(customer, address)}, exempt=HERE)


def taken(
    some: Buckets, count: int, now: float, *, address: str = "1.2.3.4", customer: str | None = None
) -> int:
    """How many of so many are allowed."""
    return sum(some.take(Route.OTHER, address, customer, now) is None for _ in range(count))


def test_a_burst_is_allowed_and_then_so_many_a_second() -> None:
    some = buckets(address=Rate(10, burst=50))
    assert taken(some, 60, now=1000.0) == 50
    assert taken(some, 60, now=1000.5) == 5
    assert taken(some, 60, now=1010.0) == 50
    assert some.refused_total == 10 + 55 + 10


def test_a_refusal_says_which_limit_and_when_to_come_again() -> None:
    some = buckets(customer=Rate(0.5, burst=2))
    assert taken(some, 2, now=1000.0, customer="c") == 2
    refusal = some.take(Route.OTHER, "1.2.3.4", "c", 1000.0)
    assert refusal is not None
    problem = refusal.problem()
    assert problem.status == 429
    headers = problem.headers()
    assert headers["retry-after"] == "2"
    assert headers["ratelimit-policy"] == '"customer";q=2;w=4'
    assert headers["ratelimit"] == '"customer";r=0;t=2'
    assert some.take(Route.OTHER, "1.2.3.4", "c", 1001.9) is not None
    assert some.take(Route.OTHER, "1.2.3.4", "c", 1002.0) is None


def test_what_one_limit_refuses_is_not_taken_from_the_other() -> None:
    some = buckets(customer=Rate(1, burst=1), address=Rate(1, burst=10))
    assert taken(some, 10, now=1000.0, customer="one") == 1
    assert taken(some, 10, now=1000.0, customer="two") == 1
    assert taken(some, 20, now=1000.0) == 8


def test_customers_and_addresses_have_buckets_of_their_own() -> None:
    some = buckets(customer=Rate(1, burst=5), address=Rate(1, burst=5))
    assert taken(some, 9, now=1000.0, address="1.2.3.4", customer="a") == 5
    assert taken(some, 9, now=1000.0, address="1.2.3.5", customer="b") == 5


def test_addresses_of_one_ipv6_network_share_a_bucket() -> None:
    some = buckets(address=Rate(1, burst=5))
    assert taken(some, 3, now=1000.0, address="2001:db8::1") == 3
    assert taken(some, 9, now=1000.0, address="2001:db8::2") == 2
    assert taken(some, 9, now=1000.0, address="2001:db8:0:1::1") == 5


def test_addresses_of_nobody_in_particular_and_other_classes_are_not_counted() -> None:
    some = buckets(address=Rate(1, burst=1))
    assert taken(some, 9, now=1000.0, address="127.0.0.1") == 9
    assert taken(some, 9, now=1000.0, address="::1") == 9
    assert all(some.take(Route.PAGE, "1.2.3.4", None, 1000.0) is None for _ in range(9))


def test_the_table_is_bounded_and_forgets_who_has_not_come_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buckets_module, "HALF_LIMIT", 100)
    some = buckets(customer=Rate(0.001, burst=2))
    table = some._tables[Route.OTHER][1]
    assert table is not None
    for number in range(1000):
        some.take(Route.OTHER, "", f"c{number}", 1000.0)
        assert taken(some, 2, now=1000.0, customer="busy") == (2 if number == 0 else 0)
        assert len(table.young) + len(table.old) <= 200
    assert taken(some, 2, now=1000.0, customer="c0") == 2


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_window_of_time_has_more_than_the_burst_and_the_rate_allow(
    rate: float, burst: int, gaps: list[float]
) -> None:
    some = buckets(address=Rate(rate, burst))
    allowed = [
        now
        for now in itertools.accumulate(gaps, initial=1000.0)
        if some.take(Route.OTHER, "1.2.3.4", None, now) is None
    ]
    for first, last in itertools.combinations(range(len(allowed)), 2):
        window_s = allowed[last] - allowed[first]
        assert last - first + 1 <= burst + window_s * rate + 1e-6


def test_rates_are_read_from_the_settings() -> None:
    rates = rates_of("checkout=10/50, other=0.5/5", "other=200/1000,beacon=1/1")
    assert rates[Route.CHECKOUT] == Rates(customer=Rate(10.0, 50))
    assert rates[Route.OTHER] == Rates(customer=Rate(0.5, 5), address=Rate(200.0, 1000))
    assert Route.PAGE not in rates
    assert rates_of("", "") == {}


def test_connections_have_a_limit_in_all_and_by_address() -> None:
    connections = Connections(limit=10, limit_by_address=3, exempt=HERE)
    assert [connections.opened("1.2.3.4") for _ in range(5)] == [True, True, True, False, False]
    assert connections.opened("1.2.3.5")
    assert [connections.opened("127.0.0.1") for _ in range(7)] == [True] * 6 + [False]
    assert connections.open == 10
    assert connections.refused_total == 1
    assert connections.refused_by_address_total == 2
    connections.closed("1.2.3.4")
    connections.closed("127.0.0.1")
    assert connections.opened("1.2.3.4")
    assert not connections.opened("1.2.3.4")


def test_connections_of_one_ipv6_network_are_counted_together_and_leave_nothing() -> None:
    connections = Connections(limit=100, limit_by_address=2)
    opened = [f"2001:db8::{number:x}" for number in range(1, 5)]
    assert [connections.opened(address) for address in opened] == [True, True, False, False]
    for address in opened[:2]:
        connections.closed(address)
    assert connections.open == 0
    assert connections._open_by_group == {}


def test_without_a_limit_half_of_the_files_may_be_connections() -> None:
    assert 0 < Connections(limit=0, limit_by_address=1).limit <= 2**19
