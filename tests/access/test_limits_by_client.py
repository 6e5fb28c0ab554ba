"""How much one client may do, through a whole access: 429, RateLimit fields, connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.access.conftest import Access, Answer, request, running
from tests.access.upstream import Upstream
from tests.faults.waiting import until

LIMITS: dict[str, Any] = {
    "unlimited_networks": "",
    "customer_rates": "",
    "address_rates": "checkout=0.01/2,other=0.01/1",
    # Nobody is there: each process counts for itself.
    "valkey_url": "redis://127.0.0.1:1/0",
}


async def order(access: Access, *lines: str) -> Answer:
    return await access.get("/orders", *lines, method="POST", body=b"{}")


async def test_a_client_who_orders_too_often_is_told_when_to_come_again() -> None:
    async with Upstream() as upstream, running(upstream, **LIMITS) as access:
        answers = [await order(access) for _ in range(3)]
        assert len(upstream.requests) == 2
    assert [answer.status for answer in answers] == [200, 200, 429]
    policies = {answer.headers["ratelimit-policy"] for answer in answers}
    assert policies == {'"address";q=2;w=200'}
    assert [answer.headers["ratelimit"] for answer in answers[:2]] == [
        '"address";r=1;t=100',
        '"address";r=0;t=200',
    ]
    refused = answers[2].headers
    assert refused["content-type"] == "application/problem+json"
    assert refused["ratelimit"] == f'"address";r=0;t={refused["retry-after"]}'


async def test_a_class_that_is_counted_here_alone_is_refused_too_and_pages_are_not() -> None:
    async with Upstream() as upstream, running(upstream, **LIMITS) as access:
        assert [(await access.get("/carts/1")).status for _ in range(2)] == [200, 429]
        assert [(await access.get("/products/a")).status for _ in range(3)] == [200] * 3


async def test_behind_a_trusted_proxy_each_client_has_limits_of_its_own() -> None:
    proxied = LIMITS | {"trusted_proxies": "127.0.0.0/8"}
    async with Upstream() as upstream, running(upstream, **proxied) as access:
        for client in ("203.0.113.1", "203.0.113.2"):
            lines = f"x-forwarded-for: 198.51.100.9, {client}"
            assert [(await order(access, lines)).status for _ in range(3)] == [200, 200, 429]
        seen = {one.header(b"x-forwarded-for") for one in upstream.requests}
    assert seen == {b"203.0.113.1", b"203.0.113.2"}


async def test_who_is_no_trusted_proxy_can_not_choose_whose_limit_it_uses() -> None:
    async with Upstream() as upstream, running(upstream, **LIMITS) as access:
        lines = [f"x-forwarded-for: 203.0.113.{number}" for number in range(3)]
        answers = [(await order(access, line)).status for line in lines]
    assert answers == [200, 200, 429]


@pytest.mark.parametrize(
    "limits", [{"connection_limit": 3}, {"connection_limit_by_address": 3}], ids=str
)
async def test_a_connection_too_many_costs_those_who_are_there_nothing(
    limits: dict[str, Any],
) -> None:
    settings = limits | {"unlimited_networks": ""}
    async with Upstream() as upstream, running(upstream, **settings) as access:
        clients = [await access.connect() for _ in range(3)]
        for client in clients:
            assert (await client.send(request("/live"))).status == 200
        one_more = await access.connect()
        refused = await one_more.answer()
        assert refused.status == 503
        assert refused.headers["connection"] == "close"
        for client in clients:
            assert (await client.send(request("/live"))).status == 200
        await asyncio.gather(one_more.close(), clients.pop().close())

        async def is_let_in() -> bool:
            client = await access.connect()
            try:
                return (await client.send(request("/live"))).status == 200
            finally:
                await client.close()

        await until(is_let_in, within_s=5, what="the place of who has left is free")
        for client in clients:
            await client.close()
