"""Experiment 39: every process started while what it depends on is away, and that coming back.

Access, business and the workers are started beside the shared stack, which stays whole: between
them and its servers stand proxies on which nobody listens. Then one after another begins to.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from infra.local.addresses import free_port
from infra.process import WORKERS
from tests.faults.proxy import Accept, FaultProxy
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.security.guests import Goods, new_key, plenty_of_goods
from tests.security.processes import environment_of, process
from tests.shopping import OPERATOR_FIELDS

READY_LIMIT_S: Final = 2.0  # what reliability.md asks for, from the dependency's return
START_LIMIT_S: Final = 30.0  # importing on a loaded machine
DEPENDENCIES: Final = {
    "standby": "TERCET_STANDBY_DSNS",
    "primary": "TERCET_PRIMARY_DSN",
    "provider": "TERCET_PROVIDER_URL",
    "valkey": "TERCET_VALKEY_URL",
}


@dataclass
class Started:
    """The processes, the proxies before what they depend on, and how to ask them."""

    processes: dict[str, subprocess.Popen[bytes]]
    proxies: dict[str, FaultProxy]
    access: httpx.AsyncClient
    business: httpx.AsyncClient
    ready_files: dict[str, Path]
    goods: Goods
    internal_secret: str

    async def comes_back(self, name: str) -> None:
        await self.proxies[name].accept(Accept.FORWARD)

    async def status(self, client: httpx.AsyncClient, path: str) -> int:
        try:
            return (await client.get(path)).status_code
        except httpx.TransportError:
            return 0

    async def answers(
        self, client: httpx.AsyncClient, path: str, status: int, limit: float
    ) -> float:
        async def does() -> bool:
            return await self.status(client, path) == status

        return await until(does, within_s=limit, what=f"{path} answers {status}")

    async def primary_is_given_up(self) -> None:
        """Business has stopped asking it: customers asked in vain until its breaker opened.

        Without them it stays closed, for the watch has connections of its own. A standby that is
        away has no such state: only the watch asks it.
        """

        async def is_open() -> bool:
            assert (await self.order()).status_code == 503
            # Of business itself: without a database nobody can say whose token it is.
            headers = {"x-internal-secret": self.internal_secret, **OPERATOR_FIELDS}
            answer = await self.business.get("/operator/upstreams", headers=headers)
            states = {item["name"]: item["state"] for item in answer.json()["items"]}
            return bool(states["primary"] == "open")

        await until(is_open, within_s=START_LIMIT_S, what="the primary is given up")

    async def order(self) -> httpx.Response:
        line = {"variant_id": self.goods.variant_id, "quantity": 1}
        return await self.access.post(
            "/orders", json={"lines": [line]}, headers={"idempotency-key": new_key()}
        )

    async def pay(self) -> httpx.Response:
        placed = await self.order()
        if placed.status_code != 201:
            return placed
        return await self.access.post(
            f"/orders/{placed.json()['order_id']}/payments",
            json={"payment_method": "tok_approve"},
            headers={"idempotency-key": new_key()},  # the client keeps the guest's cookie
        )


@dataclass
class Seen:
    """What was seen while the dependencies came back one by one: standby, primary, rest."""

    without_any: dict[str, int] = field(default_factory=dict)
    ready_after_s: float = 0.0
    page_without_primary: int = 0
    order_without_primary: httpx.Response | None = None
    order_after_s: float = 0.0
    workers_after_s: float = 0.0
    without_cache_and_provider: dict[str, int] = field(default_factory=dict)
    payment_without_provider: httpx.Response | None = None
    paid_after_s: float = 0.0
    ended: dict[str, int | None] = field(default_factory=dict)


@pytest.fixture(scope="module")
async def seen(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One start of everything with nothing there, and each dependency's return."""
    goods = plenty_of_goods(stack)
    async with started(stack, goods, tmp_path_factory.mktemp("start")) as shop:
        seen = Seen()
        page = f"/products/{goods.slug}"
        await shop.answers(shop.business, "/live", 200, START_LIMIT_S)
        await shop.answers(shop.access, "/live", 200, START_LIMIT_S)
        seen.without_any = {
            "business": await shop.status(shop.business, "/ready"),
            "access": await shop.status(shop.access, "/ready"),
            "page": await shop.status(shop.access, page),
            "order": (await shop.order()).status_code,
        }
        # The worst moment to come back: it has been given up for a while.
        await shop.primary_is_given_up()
        await shop.comes_back("standby")
        seen.ready_after_s = await shop.answers(shop.access, "/ready", 200, START_LIMIT_S)
        seen.page_without_primary = await shop.status(shop.access, page)
        seen.order_without_primary = await shop.order()
        await shop.primary_is_given_up()
        await shop.comes_back("primary")
        seen.order_after_s = await until(
            lambda: says(shop.order, 201), within_s=START_LIMIT_S, what="an order is placed"
        )

        async def paid_in_some_way() -> bool:
            seen.payment_without_provider = await shop.pay()
            return seen.payment_without_provider.status_code == 201

        # The first requests after a return are probes, and what comes besides them is refused.
        await until(paid_in_some_way, within_s=START_LIMIT_S, what="a payment is made")
        seen.without_cache_and_provider = {
            "ready": await shop.status(shop.access, "/ready"),
            "page": await shop.status(shop.access, page),
            "list": await shop.status(shop.access, "/products"),
        }
        await shop.comes_back("provider")
        seen.paid_after_s = await until(
            lambda: is_paid(shop), within_s=START_LIMIT_S, what="a payment is approved"
        )
        await shop.comes_back("valkey")
        seen.workers_after_s = await until(
            lambda: all(path.exists() for path in shop.ready_files.values()),
            within_s=START_LIMIT_S,
            what="every worker is ready",
        )
        seen.ended = {name: process.poll() for name, process in shop.processes.items()}
    return seen


async def says(send: Callable[[], Any], status: int) -> bool:
    return bool((await send()).status_code == status)


async def is_paid(shop: Started) -> bool:
    answer = await shop.pay()
    return answer.status_code == 201 and answer.json()["state"] == "SUCCESS"


@asynccontextmanager
async def started(stack: RunningStack, goods: Goods, folder: Path) -> AsyncIterator[Started]:
    """Access, business and every worker, with all they depend on behind closed ports."""
    environment = environment_of(stack)
    proxies = {}
    async with AsyncExitStack() as stop:
        for name, variable in DEPENDENCIES.items():
            place = urlsplit(environment[variable])
            proxy = FaultProxy(str(place.hostname), int(place.port or 0))
            proxies[name] = await stop.enter_async_context(proxy)
            await proxy.accept(Accept.REFUSE)
            there = place.netloc.replace(f":{place.port}", f":{proxy.port}")
            environment[variable] = place._replace(netloc=there).geturl()
        ports = {"access": free_port(), "business": free_port()}
        environment |= {
            f"TERCET_{name.upper()}_PORT": str(port) for name, port in ports.items()
        } | {"TERCET_BUSINESS_URL": f"http://127.0.0.1:{ports['business']}"}
        ready = {name: folder / f"{name}.ready" for name in WORKERS}
        processes = {}
        for name in ("business", "access"):
            one = process(name, environment=environment, log=folder / f"{name}.log")
            processes[name] = stop.enter_context(one)
        for name in WORKERS:
            own = {**environment, "TERCET_READY_FILE": str(ready[name])}
            one = process("worker", name, environment=own, log=folder / f"{name}.log")
            processes[name] = stop.enter_context(one)
        clients = {
            name: await stop.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)
            )
            for name, port in ports.items()
        }
        yield Started(
            processes,
            proxies,
            clients["access"],
            clients["business"],
            ready,
            goods,
            stack.secret("internal_secret"),
        )


def test_without_anything_they_live_and_are_not_ready(seen: Seen) -> None:
    assert seen.without_any == {"business": 503, "access": 503, "page": 503, "order": 503}


def test_they_are_ready_soon_after_a_standby_is_there(seen: Seen) -> None:
    assert seen.ready_after_s <= READY_LIMIT_S


def test_without_the_primary_pages_are_served_and_orders_say_when_to_come_back(seen: Seen) -> None:
    assert seen.page_without_primary == 200
    assert seen.order_without_primary is not None
    assert seen.order_without_primary.status_code == 503
    assert int(seen.order_without_primary.headers["retry-after"]) >= 1


def test_orders_are_placed_soon_after_the_primary_is_there(seen: Seen) -> None:
    assert seen.order_after_s <= READY_LIMIT_S


def test_without_valkey_and_provider_they_are_ready_and_serve_pages(seen: Seen) -> None:
    assert seen.without_cache_and_provider == {"ready": 200, "page": 200, "list": 200}


def test_a_payment_without_a_provider_is_named_and_not_lost(seen: Seen) -> None:
    assert seen.payment_without_provider is not None
    assert seen.payment_without_provider.status_code == 201
    assert seen.payment_without_provider.json()["state"] == "ERRORED"


def test_payments_are_approved_soon_after_the_provider_is_there(seen: Seen) -> None:
    assert seen.paid_after_s <= READY_LIMIT_S


def test_every_worker_is_ready_soon_after_the_last_dependency_is_there(seen: Seen) -> None:
    assert seen.workers_after_s <= READY_LIMIT_S


def test_nothing_has_crashed_in_between(seen: Seen) -> None:
    assert set(seen.ended.values()) == {None}
