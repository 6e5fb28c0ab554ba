"""services/balance.py and services/client.py against servers on real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.addresses import Addresses
from services.balance import Balance
from services.deadline import Deadline
from services.keepalive import (
    AnswerTimedOut,
    ConnectionLost,
    ExchangeError,
    PoolClosed,
    PoolTimedOut,
    Repeatable,
    Response,
    UnsafeRequest,
)
from services.members import FAILURES
from tests.access.upstream import Seen, Upstream, always, answer
from tests.balances import Gate, balance_over, closing, get, own, part_of, post, unused_port
from tests.faults.waiting import until

# Who gets a request


async def test_requests_one_after_another_go_to_all_addresses() -> None:
    async with Upstream() as one, Upstream() as other, balance_over(one, other) as (balance, _):
        for _ in range(10):
            await get(balance)
        assert (len(one.requests), len(other.requests)) == (5, 5)
        assert (balance.open, balance.idle) == (2, 2)
        assert (balance.opened_total, balance.reused_total) == (2, 8)
        assert (balance.requests_total, balance.retried_total) == (10, 0)


async def test_a_request_goes_where_fewer_are_in_flight() -> None:
    gate = Gate()
    async with Upstream(gate) as busy, Upstream() as free, balance_over(busy, free) as (balance, _):
        calls = [asyncio.create_task(get(balance)) for _ in range(2)]
        await until(lambda: len(gate.held) == 1, within_s=5, what="one is held")
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)  # the other one is free
        for _ in range(10):
            await get(balance)
        assert (len(busy.requests), len(free.requests)) == (1, 11)
        gate.open()
        await asyncio.gather(*calls)


async def test_three_and_more_share_the_load() -> None:
    gate = Gate()
    async with (
        Upstream(gate) as one,
        Upstream(gate) as two,
        Upstream(gate) as three,
        balance_over(one, two, three, size=60) as (balance, _),
    ):
        calls = [asyncio.create_task(get(balance)) for _ in range(60)]
        await until(lambda: len(gate.held) == 60, within_s=5, what="all are held")
        for upstream in (one, two, three):
            assert 12 <= len(upstream.requests) <= 28  # 20 of each; a third by chance strays more
        gate.open()
        await asyncio.gather(*calls)


async def test_each_address_is_called_by_its_own_name() -> None:
    async with Upstream() as one, Upstream() as other, balance_over(one, other) as (balance, _):
        await asyncio.gather(*(get(balance) for _ in range(6)))
        for upstream in (one, other):
            host = b"127.0.0.1:%d" % upstream.port
            assert {seen.header(b"host") for seen in upstream.requests} == {host}


async def test_a_request_of_unsafe_characters_goes_nowhere() -> None:
    async with Upstream() as one, Upstream() as other, balance_over(one, other) as (balance, _):
        with pytest.raises(UnsafeRequest):
            await get(balance, b"/a b")
        assert not one.requests and not other.requests


# Places


async def test_all_addresses_together_have_no_more_than_size_connections() -> None:
    gate = Gate()
    async with (
        Upstream(gate) as one,
        Upstream(gate) as other,
        balance_over(one, other, size=3) as (balance, _),
    ):
        calls = [asyncio.create_task(get(balance)) for _ in range(8)]
        await until(lambda: len(gate.held) == 3, within_s=5, what="three are held")
        assert (balance.size, balance.open, balance.in_flight, balance.waiting) == (3, 3, 3, 5)
        one.script = other.script = always(answer())
        gate.open()
        assert [(await call).status for call in calls] == [200] * 8
        assert one.connections + other.connections == 3


async def test_a_place_goes_to_the_address_that_has_too_few() -> None:
    gate = Gate()
    async with (
        Upstream(gate) as one,
        Upstream(gate) as other,
        balance_over(one, other, size=4) as (balance, addresses),
    ):
        first, second = addresses.members.all
        addresses.members.replace((first,))
        balance.changed()
        calls = [asyncio.create_task(get(balance)) for _ in range(4)]
        await until(lambda: len(gate.held) == 4, within_s=5, what="all are held")
        gate.open()
        await asyncio.gather(*calls)
        one.script = other.script = always(answer())
        addresses.members.replace((first, second))
        balance.changed()
        for _ in range(10):
            await get(balance)
        held = [len(part.idle) for part in balance.parts]
        assert sum(held) <= 4 and min(held) >= 1
        assert balance.open <= 4


async def test_who_waits_is_served_by_whichever_address_is_free_first() -> None:
    stays, opens = Gate(), Gate()
    async with (
        Upstream(stays) as one,
        Upstream(opens) as other,
        balance_over(one, other, size=2) as (balance, _),
    ):
        calls = [asyncio.create_task(get(balance)) for _ in range(2)]
        await until(lambda: bool(stays.held and opens.held), within_s=5, what="both are held")
        waiting = [asyncio.create_task(get(balance)) for _ in range(3)]
        await until(lambda: balance.waiting == 3, within_s=5, what="three wait")
        other.script = always(answer())
        opens.open()
        assert [(await call).status for call in waiting] == [200] * 3
        assert (len(one.requests), len(other.requests), other.connections) == (1, 4, 1)
        stays.open()
        await asyncio.gather(*calls)


# Sending once more


async def test_a_get_whose_server_breaks_off_is_answered_by_another() -> None:
    async with Upstream(closing()) as bad, Upstream() as good, balance_over(bad, good) as (b, _):
        assert {(await get(b)).status for _ in range(20)} == {200}
        assert len(own(bad)) == FAILURES  # then it is left out
        assert (b.retried_total, b.budget.taken_total) == (FAILURES, FAILURES)
        assert part_of(b, bad).address.failures >= FAILURES


async def test_a_post_that_was_sent_is_never_sent_again() -> None:
    async with (
        Upstream(closing()) as one,
        Upstream(closing()) as other,
        balance_over(one, other) as (balance, _),
    ):
        for _ in range(5):
            with pytest.raises(ConnectionLost) as caught:
                await post(balance)
            assert not isinstance(caught.value, Repeatable)
        assert len(one.requests) + len(other.requests) == 5
        assert balance.retried_total == 0


async def test_what_could_not_be_sent_is_sent_elsewhere_whatever_it_is() -> None:
    async with Upstream() as good:
        addresses = Addresses([f"http://127.0.0.1:{unused_port()}", good.url])
        balance = Balance(addresses, size=4)
        assert {(await post(balance)).status for _ in range(10)} == {200}
        assert len(good.requests) == 10
        assert addresses.members.used == (addresses.members.all[1],)
        await balance.aclose()
        await addresses.aclose()


async def test_a_get_that_was_partly_answered_is_not_sent_again() -> None:
    async def half(_: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-le"

    async with (
        Upstream(half) as one,
        Upstream(half) as other,
        balance_over(one, other) as (balance, _),
    ):
        with pytest.raises(ConnectionLost):
            await get(balance)
        assert len(one.requests) + len(other.requests) == 1


async def test_a_get_is_sent_thrice_at_most() -> None:
    upstreams = [Upstream(closing()) for _ in range(5)]
    async with AsyncExitStack() as stack:
        for upstream in upstreams:
            await stack.enter_async_context(upstream)
        balance, _ = await stack.enter_async_context(balance_over(*upstreams))
        with pytest.raises(ConnectionLost):
            await get(balance)
        assert sum(len(upstream.requests) for upstream in upstreams) == 3


async def test_one_address_alone_is_tried_again_on_a_fresh_connection() -> None:
    """As when one of several processes that share a port is killed."""
    gate = Gate()
    async with Upstream(gate) as upstream, balance_over(upstream) as (balance, _):
        calls = [asyncio.create_task(get(balance)) for _ in range(4)]
        await until(lambda: len(gate.held) == 4, within_s=5, what="all are held")
        upstream.script = always(answer())
        for connection in list(upstream.open):
            connection.close()
        assert [(await call).status for call in calls] == [200] * 4
        assert upstream.connections == 8


async def test_nothing_is_sent_again_after_its_deadline() -> None:
    async def late(_: Seen) -> None:
        await asyncio.sleep(0.1)

    async with (
        Upstream(late) as one,
        Upstream(late) as other,
        balance_over(one, other) as (balance, _),
    ):
        with pytest.raises((AnswerTimedOut, ConnectionLost)):
            await get(balance, seconds=0.05)
        with pytest.raises(PoolTimedOut):
            await get(balance, seconds=0)
        assert len(one.requests) + len(other.requests) == 1


async def test_clients_that_try_again_and_again_do_not_multiply() -> None:
    """Experiment 42, short: every server breaks every exchange off, clients try thrice at once."""
    async with (
        Upstream(closing()) as one,
        Upstream(closing()) as other,
        balance_over(one, other, size=32) as (balance, _),
    ):

        async def client() -> None:
            for _ in range(3 * 20):
                with pytest.raises(ExchangeError):
                    await get(balance)

        await asyncio.gather(*(client() for _ in range(16)))
        attempts = len(own(one)) + len(own(other))
        assert balance.requests_total == 960
        assert attempts <= 1.1 * balance.requests_total
        assert 0 < balance.retried_total <= balance.budget.taken_total
        assert balance.budget.refused_total > 0


# Without a task


class Called:
    def __init__(self) -> None:
        self.told: list[Response | ExchangeError] = []

    def set_result(self, result: Response) -> None:
        self.told.append(result)

    def set_exception(self, error: ExchangeError) -> None:
        self.told.append(error)

    def done(self) -> bool:
        return False

    async def answered(self) -> Response | ExchangeError:
        await until(lambda: bool(self.told), within_s=5, what="the caller is called")
        return self.told[0]


def begin(balance: Balance, caller: Called, seconds: float = 5) -> bool:
    return balance.begin(b"GET", b"/", deadline=Deadline.after(seconds), caller=caller)


async def test_an_exchange_is_begun_at_the_less_loaded_address() -> None:
    async with Upstream() as one, Upstream() as other, balance_over(one, other) as (balance, _):
        assert not begin(balance, Called())
        await get(balance)
        await get(balance)
        callers = [Called(), Called()]
        assert all(begin(balance, caller) for caller in callers)
        assert {type(await caller.answered()) for caller in callers} == {Response}
        assert (len(one.requests), len(other.requests)) == (2, 2)
        assert not one.requests[-1].header(b"x-deadline-ms")


async def test_what_is_begun_and_lost_is_repeatable_while_the_budget_lasts() -> None:
    async with Upstream() as one, Upstream() as other, balance_over(one, other) as (balance, _):
        kinds: Counter[type[Any]] = Counter()
        for _ in range(60):
            one.script = other.script = always(answer())
            await get(balance)
            await get(balance)
            one.script = other.script = closing()
            caller = Called()
            if begin(balance, caller):
                kinds[type(await caller.answered())] += 1
        assert set(kinds) == {Repeatable, ConnectionLost}
        assert kinds[Repeatable] <= 31


async def test_an_abandoned_exchange_ends_its_connection_only() -> None:
    gate = Gate()
    async with Upstream() as one, Upstream() as other, balance_over(one, other) as (balance, addr):
        await get(balance)
        await get(balance)
        one.script = other.script = gate
        left, stays = Called(), Called()
        assert begin(balance, left) and begin(balance, stays)
        balance.abandon(left)
        assert (balance.open, balance.in_flight) == (1, 1)
        await until(lambda: len(gate.held) >= 1, within_s=5, what="the other is held")
        await until(lambda: len(own(one)) + len(own(other)) >= 3, within_s=5, what="it is there")
        gate.open()
        assert isinstance(await stays.answered(), Response)
        assert left.told == []
        assert all(member.failures == 0 for member in addr.members.all)


async def test_a_closed_balance_takes_nobody() -> None:
    gate = Gate()
    async with (
        Upstream(gate) as one,
        Upstream(gate) as other,
        balance_over(one, other, size=2) as (balance, addresses),
    ):
        calls = [asyncio.create_task(get(balance)) for _ in range(2)]
        await until(lambda: len(gate.held) == 2, within_s=5, what="both are held")
        await balance.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {ConnectionLost}
        with pytest.raises(PoolClosed):
            await get(balance)
        assert (balance.open, balance.waiting) == (0, 0)
        assert all(member.failures == 0 for member in addresses.members.all)
