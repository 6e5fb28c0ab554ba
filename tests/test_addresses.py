"""services/addresses.py: which servers there are, and which of them are left out."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from services.addresses import Addresses
from services.balance import Balance
from services.keepalive import AnswerTimedOut, ConnectFailed, ConnectTimedOut
from services.members import EJECTED_S, FAILURES
from tests.access.upstream import Upstream, always, answer
from tests.balances import (
    Gate,
    asked,
    balance_over,
    closing,
    get,
    never,
    own,
    part_of,
    post,
    traffic,
)
from tests.faults.waiting import until

# Who is left out


async def test_one_that_fails_is_left_out_asked_and_returns() -> None:
    async with Upstream(closing()) as bad, Upstream() as good, balance_over(bad, good) as (b, addr):
        for _ in range(20):
            await get(b)
        member = part_of(b, bad).address
        assert [each.port for each in addr.members.used] == [good.port]
        waited_s = await until(lambda: bool(asked(bad)), within_s=3, what="it is asked")
        assert waited_s > EJECTED_S / 2
        assert asked(bad)[0].target == b"/ready"
        assert len(own(bad)) == FAILURES
        bad.script = always(answer())
        await until(lambda: len(addr.members.used) == 2, within_s=3, what="it is used again")
        for _ in range(200):
            await get(b)
        some = len(own(bad)) - FAILURES
        assert 1 <= some <= 60  # a tenth and not a half: it returns slowly
        assert addr.members.all[0].ejected_total == 1
        assert member.failures == 0


async def test_one_that_says_it_is_not_ready_does_not_return() -> None:
    async with Upstream(closing()) as bad, Upstream() as good, balance_over(bad, good) as (b, addr):
        for _ in range(20):
            await get(b)
        bad.script = always(answer(status=503, retry_after="1"))
        await until(lambda: len(asked(bad)) >= 2, within_s=5, what="it was asked twice")
        assert len(addr.members.used) == 1


@pytest.mark.parametrize(
    ("data", "sick"),
    [
        (answer(b"{}", 503, content_type="application/problem+json", retry_after="1"), False),
        (answer(b"{}", 502, content_type="application/problem+json"), False),
        (answer(b"{}", 500, content_type="application/problem+json"), False),
        (answer(b"busy", 503, retry_after="1"), False),
        (answer(b"no", 404), False),
        (answer(b"Internal Server Error", 500, content_type="text/plain"), True),
        (answer(b"Bad Gateway", 502, content_type="text/html"), True),
        (answer(b"", 503, connection="close"), True),
    ],
)
async def test_what_business_says_by_name_does_not_count_against_it(
    data: bytes, sick: bool
) -> None:
    async with (
        Upstream(always(data)) as one,
        Upstream() as other,
        balance_over(one, other) as (balance, addresses),
    ):
        for _ in range(20):
            await get(balance)
        assert len(addresses.members.used) == (1 if sick else 2)
        assert len(own(one)) == (FAILURES if sick else 10)


async def test_a_deadline_that_is_too_short_does_not_count_against_a_server() -> None:
    async with (
        Upstream(Gate()) as one,
        Upstream(Gate()) as other,
        balance_over(one, other) as (balance, addresses),
    ):
        late = 0
        while late < 3 * FAILURES:
            # On a busy machine there is not always a connection within that time.
            with pytest.raises((AnswerTimedOut, ConnectTimedOut)) as ended:
                await get(balance, seconds=0.01)
            late += ended.type is AnswerTimedOut
        assert len(addresses.members.used) == 2


async def test_a_connection_that_was_given_too_little_time_does_not_count_either() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with ExitStack() as fillers:
            for _ in range(4):  # the backlog is full: the next SYN is dropped
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            addresses = Addresses([f"http://127.0.0.1:{port}", f"http://127.0.0.2:{port}"])
            balance = Balance(addresses, size=4)
            addresses.members.replace(addresses.members.all[:1])
            balance.changed()
            with pytest.raises(ConnectTimedOut):
                await get(balance, seconds=0.03)
            assert addresses.members.all[0].failed_total == 0
            with pytest.raises(ConnectTimedOut):
                await get(balance, seconds=5)
            assert addresses.members.all[0].failed_total == 1
            await balance.aclose()
            await addresses.aclose()


async def test_one_that_falls_silent_is_left_out_within_a_second() -> None:
    """It accepts and never answers, as a stopped process does; who waits is answered by another."""
    async with Upstream() as silent, Upstream() as good, balance_over(silent, good) as (b, addr):
        for _ in range(10):
            await get(b)
        silent.script = never
        started_at = time.monotonic()
        waiting = [asyncio.create_task(get(b)) for _ in range(6)]
        sent = asyncio.create_task(traffic(b))
        await until(lambda: len(addr.members.used) == 1, within_s=2, what="it is left out")
        assert time.monotonic() - started_at < 1.5  # 0.7; the rest is for a busy machine
        assert [(await call).status for call in waiting] == [200] * len(waiting)
        assert asked(silent)[0].target == b"/live"
        sent.cancel()
        silent.script = always(answer())
        await until(lambda: len(addr.members.used) == 2, within_s=3, what="it is used again")


async def test_a_post_waits_for_a_silent_server_until_its_deadline() -> None:
    async with Upstream(never) as silent, Upstream() as good, balance_over(silent, good) as (b, m):
        calls = [asyncio.create_task(post(b, seconds=1.0)) for _ in range(2)]
        sent = asyncio.create_task(traffic(b))
        await until(lambda: len(m.members.used) == 1, within_s=2, what="it is left out")
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["AnswerTimedOut", "Response"]
        posts = [seen for seen in [*own(silent), *own(good)] if seen.method == b"POST"]
        assert len(posts) == 2
        sent.cancel()


async def test_one_that_is_slow_but_lives_is_not_left_out() -> None:
    gate = Gate()
    async with Upstream(gate) as slow, Upstream() as good, balance_over(slow, good) as (b, addr):
        call = asyncio.create_task(get(b))
        sent = asyncio.create_task(traffic(b))
        await until(lambda: len(asked(slow)) >= 2, within_s=3, what="it was asked twice")
        assert [member.ejected_total for member in addr.members.all] == [0, 0]
        gate.open()
        slow.script = always(answer())
        assert (await call).status == 200
        sent.cancel()


async def test_nobody_is_left_out_when_all_are_silent() -> None:
    async with (
        Upstream(never) as one,
        Upstream(never) as other,
        balance_over(one, other) as (balance, addresses),
    ):
        calls = [get(balance, seconds=0.8) for _ in range(4)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {AnswerTimedOut}
        assert len(addresses.members.used) == 2
        assert not asked(one) and not asked(other)


async def test_classes_of_traffic_share_what_is_known_of_a_server() -> None:
    async with Upstream(closing()) as bad, Upstream() as good, balance_over(bad, good) as (b, addr):
        payments = Balance(addr, size=4)
        for _ in range(10):
            await get(b)
        assert {(await post(payments)).status for _ in range(10)} == {200}
        assert [seen.method for seen in own(bad)] == [b"GET"] * FAILURES
        await payments.aclose()


# Names


class Resolver:
    """Answers for one name in place of the system's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.ips, self.asked = "business.example", ["127.0.0.1"], 0
        self._of_system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host: str, port: Any, *more: Any, **named: Any) -> list[Any]:
        if host != self.name:
            return list(self._of_system(host, port, *more, **named))
        self.asked += 1
        if not self.ips:
            raise socket.gaierror(-2, "Name or service not known")
        kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6 if ":" in ip else socket.AF_INET, *kind, (ip, port)) for ip in self.ips
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


@asynccontextmanager
async def named(resolver: Resolver, port: int) -> AsyncIterator[tuple[Balance, Addresses]]:
    addresses = Addresses([f"http://{resolver.name}:{port}"], resolve_every_s=0.02)
    balance = Balance(addresses, size=8)
    try:
        yield balance, addresses
    finally:
        await balance.aclose()
        await addresses.aclose()


@asynccontextmanager
async def two_of_one_port() -> AsyncIterator[tuple[Upstream, Upstream]]:
    async with Upstream() as one:
        other = Upstream()
        await other.listen(one.port, "127.0.0.2")
        try:
            yield one, other
        finally:
            await other.stop()


def ips(addresses: Addresses) -> list[str]:
    return [member.ip for member in addresses.members.all]


async def test_a_name_of_several_addresses_is_several_servers(resolver: Resolver) -> None:
    resolver.ips = ["127.0.0.2", "127.0.0.1", "127.0.0.2"]
    async with two_of_one_port() as (one, other), named(resolver, one.port) as (balance, addresses):
        await asyncio.gather(*(get(balance) for _ in range(8)))
        assert ips(addresses) == ["127.0.0.1", "127.0.0.2"]
        assert (len(one.requests), len(other.requests)) == (4, 4)
        host = b"business.example:%d" % one.port
        assert {seen.header(b"host") for seen in other.requests} == {host}


async def test_a_name_is_asked_for_once_however_many_wait(resolver: Resolver) -> None:
    async with Upstream() as upstream, named(resolver, upstream.port) as (balance, addresses):
        addresses._resolve_every_s = 60.0
        await asyncio.gather(*(get(balance) for _ in range(8)))
        assert resolver.asked == 1


async def test_a_server_that_is_added_is_found_and_one_that_goes_finishes(
    resolver: Resolver,
) -> None:
    gate = Gate()
    async with (
        two_of_one_port() as (one, _other),
        named(resolver, one.port) as (balance, addresses),
    ):
        one.script = gate
        leaving = asyncio.create_task(get(balance))
        await until(lambda: len(gate.held) == 1, within_s=5, what="the request is held")
        one.script = always(answer())
        resolver.ips = ["127.0.0.1", "127.0.0.2"]
        await until(lambda: len(ips(addresses)) == 2, within_s=5, what="the other is found")
        assert addresses.members.all[1].share(time.monotonic()) < 1  # little at first
        assert (await get(balance)).status == 200
        resolver.ips = ["127.0.0.2"]
        await until(lambda: ips(addresses) == ["127.0.0.2"], within_s=5, what="the first is gone")
        assert (await get(balance)).status == 200
        assert balance.in_flight == 1
        gate.open()
        assert (await leaving).status == 200
        await until(lambda: not one.open, within_s=2, what="its connection is closed")
        assert len(balance.parts) == 2  # its figures stay until something changes again


async def test_while_nobody_knows_the_name_the_servers_stay(resolver: Resolver) -> None:
    async with Upstream() as upstream, named(resolver, upstream.port) as (balance, addresses):
        await get(balance)
        asked_before, resolver.ips = resolver.asked, []
        await until(lambda: resolver.asked > asked_before + 2, within_s=5, what="asked in vain")
        assert (await get(balance)).status == 200
        assert ips(addresses) == ["127.0.0.1"]


async def test_a_name_that_is_not_known_at_first_is_asked_for_again(resolver: Resolver) -> None:
    resolver.ips = []
    async with Upstream() as upstream, named(resolver, upstream.port) as (balance, _):
        with pytest.raises(ConnectFailed):
            await get(balance)
        assert balance.open == 0
        resolver.ips = ["127.0.0.1"]
        assert (await get(balance)).status == 200


async def test_a_host_of_both_families_counts_once(resolver: Resolver) -> None:
    resolver.ips = ["::1", "127.0.0.1"]
    async with Upstream() as upstream, named(resolver, upstream.port) as (balance, addresses):
        assert (await get(balance)).status == 200
        assert ips(addresses) == ["127.0.0.1"]
