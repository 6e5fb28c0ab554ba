"""Limits that processes share, on a real Valkey; and what each makes of them without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio
from pydantic import SecretStr
from redis.asyncio import Redis

from services.access.allowances import ALIVE_KEY, EVERY_S, KEYS_A_ROUND, Allowances
from services.access.buckets import Rate, Rates
from services.access.client_address import Networks
from services.access.ledger import Ledger
from services.access.routes import Route
from services.settings import AccessSettings
from services.valkey import connect
from tests.access.conftest import settings_for
from tests.failures.access_process import free_port
from tests.faults.waiting import until

SLOW = Rate(0.01, burst=40)  # what comes back during a test is less than one
CHUNK = 5


@pytest_asyncio.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey_url)
    await client.delete(ALIVE_KEY)
    yield client
    await client.aclose()


def allowances(valkey: Redis | None, rate: Rate = SLOW, **settings: int) -> Allowances:
    return Allowances(
        {Route.CHECKOUT: Rates(customer=rate), Route.OTHER: Rates(customer=Rate(1, burst=3))},
        valkey,
        exempt=Networks("127.0.0.0/8"),
        **settings,
    )


def takes(some: Allowances, customer: str, kind: Route = Route.CHECKOUT) -> bool:
    return some.take(kind, "1.2.3.4", customer, time.monotonic()) is None


def taken(some: Allowances, count: int, customer: str) -> int:
    return sum(takes(some, customer) for _ in range(count))


@pytest.fixture
def customer() -> str:
    return uuid4().hex


def test_alone_a_process_lends_itself_the_whole_limit(customer: str) -> None:
    assert taken(allowances(None), 100, customer) == SLOW.burst


def test_without_valkey_each_of_several_processes_has_its_share(customer: str) -> None:
    assert taken(allowances(None, processes=4), 100, customer) == SLOW.burst // 4


def test_a_class_that_is_not_shared_is_counted_here(customer: str) -> None:
    some = allowances(None, processes=4)
    assert sum(takes(some, customer, Route.OTHER) for _ in range(9)) == 3
    assert some.buckets.refused_total == 6


def test_a_refusal_and_an_answer_tell_the_limit(customer: str) -> None:
    some = allowances(None)
    now = time.monotonic()
    taken(some, 38, customer)
    assert some.headers(Route.CHECKOUT, "1.2.3.4", customer, now) == {
        "ratelimit-policy": '"customer";q=40;w=4000',
        "ratelimit": '"customer";r=2;t=3800',
    }
    assert some.headers(Route.OTHER, "1.2.3.4", customer, now) == {}
    taken(some, 2, customer)
    refusal = some.take(Route.CHECKOUT, "1.2.3.4", customer, now)
    assert refusal is not None
    headers = refusal.problem().headers()
    assert headers["ratelimit"] == f'"customer";r=0;t={headers["retry-after"]}'
    assert 90 <= int(headers["retry-after"]) <= 101


async def test_processes_together_allow_little_more_than_the_limit(
    valkey: Redis, customer: str
) -> None:
    processes = [allowances(valkey, processes=4) for _ in range(4)]
    allowed = 0
    for _ in range(30):
        for one in processes:
            allowed += taken(one, 3, customer)
            await one.draw()
    assert SLOW.burst <= allowed <= SLOW.burst + 2 * CHUNK
    assert not any(takes(one, customer) for one in processes)


async def test_one_process_may_take_what_the_others_do_not(valkey: Redis, customer: str) -> None:
    others = [allowances(valkey, processes=4) for _ in range(3)]
    one = allowances(valkey, processes=4)
    for each in (*others, one):
        await each.draw()
    assert one.processes == 4
    allowed = 0
    for _ in range(20):
        allowed += taken(one, 10, customer)
        await one.draw()
    assert SLOW.burst <= allowed <= SLOW.burst + SLOW.burst // 4


async def test_what_comes_back_in_time_is_given_out_again(valkey: Redis, customer: str) -> None:
    some = allowances(valkey, Rate(50, burst=10))
    began_at = time.monotonic()
    allowed = 0
    while (elapsed_s := time.monotonic() - began_at) < 0.5:
        allowed += taken(some, 5, customer)
        await some.draw()
    assert 10 + 0.5 * 50 * elapsed_s <= allowed <= 2 * 10 + 1.2 * 50 * elapsed_s


async def test_a_key_is_drawn_for_in_the_background_and_not_more_than_ten_times_a_second(
    valkey: Redis, customer: str
) -> None:
    some = allowances(valkey, Rate(1000, burst=100))
    rounds_before = await calls(valkey)
    some.start()
    began_at = time.monotonic()
    while time.monotonic() - began_at < 0.5:
        taken(some, 5, customer)
        await asyncio.sleep(0.002)  # as requests come
    rounds = (await calls(valkey) - rounds_before) / 2  # one script counts, one draws
    await some.aclose()
    assert some.drawn_total > 0
    assert 1 <= rounds <= 0.5 / EVERY_S + 1


async def calls(valkey: Redis) -> int:
    stats = await valkey.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_who_takes_little_is_never_drawn_for(valkey: Redis, customer: str) -> None:
    some = allowances(valkey)
    taken(some, CHUNK - 1, customer)
    assert not some._wanted.is_set()
    taken(some, 1, customer)
    assert some._wanted.is_set()


async def test_a_round_is_bounded_and_the_rest_comes_first_in_the_next(valkey: Redis) -> None:
    some = allowances(valkey)
    customers = [uuid4().hex for _ in range(KEYS_A_ROUND + 10)]
    for each in customers:
        taken(some, CHUNK, each)
    await some.draw()
    assert len(some._waiting) == 10
    assert some._wanted.is_set()
    await some.draw()
    assert not some._waiting
    assert not some._wanted.is_set()


async def test_a_lost_valkey_costs_nothing_but_exactness_and_comes_back(customer: str) -> None:
    port = free_port()
    lost = connect(lost_settings(port), timeout_s=0.2)
    some = allowances(lost, Rate(10, burst=80), processes=2)
    some.start()
    assert taken(some, 100, customer) == 40
    await until(lambda: some.lost_total > 0, within_s=5, what="the loss is noticed")
    await until(lambda: takes(some, customer), within_s=5, what="time brings more")
    await some.aclose()


def lost_settings(port: int) -> AccessSettings:
    return settings_for(
        "http://127.0.0.1:1",
        valkey_url=f"redis://127.0.0.1:{port}/0",
        valkey_password=SecretStr("none"),
    )


def test_what_was_lent_without_valkey_for_long_is_not_paid_back_for_as_long() -> None:
    ledger = Ledger(Route.CHECKOUT, "customer", Rate(10, burst=20))
    account = ledger.account("c")
    for number in range(500):
        now = 1000 + number * 0.1
        if ledger.wait_s(account, now) <= 0:
            ledger.take(account, now)
    assert account.lent > 100
    ledger.settle(account, account.lent, granted=20, left=0, now=1050.0)
    assert account.lent == 20
    assert ledger.wait_s(account, 1050.0) > 0


def test_the_accounts_of_a_process_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.access.ledger.HALF_LIMIT", 200)
    ledger = Ledger(Route.CHECKOUT, "customer", SLOW)
    busy = ledger.account("busy")
    for number in range(1000):
        ledger.account(f"c{number}")
        assert ledger.account("busy") is busy
        assert len(ledger.young) + len(ledger.old) <= 200
