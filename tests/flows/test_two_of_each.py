"""Two of each worker at the same work: all is done, nothing twice, and both stop cleanly."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from redis.asyncio import Redis

from infra.local.addresses import free_port, get
from infra.process import WORKERS
from services.data.publisher import EVENTS_STREAM
from tests.access.test_metrics import value
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.security.processes import environment_of, process
from tests.shopping import Books, Customer, ProviderBooks

ORDERS: Final = 20  # expired, and as many paid by what the provider says 3 s later
DONE_WITHIN_S: Final = 60.0  # 6 s, on a machine that has nothing else to do


@dataclass
class Second:
    """The second of each worker, beside those of the stack."""

    processes: dict[str, subprocess.Popen[bytes]]
    ports: dict[str, int]
    logs: dict[str, Path]

    async def items(self, name: str) -> float:
        _, text = await get("127.0.0.1", self.ports[name], "/metrics", 5.0)
        return value(text, "tercet_worker_items_total", name=name)

    def said(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.logs[name].read_text().splitlines()]


@pytest.fixture
async def second(stack: RunningStack, tmp_path: Path) -> AsyncIterator[Second]:
    started = Second({}, {}, {})
    with ExitStack() as stop:
        for name in WORKERS:
            ready, log = tmp_path / f"{name}.ready", tmp_path / f"{name}.log"
            started.logs[name], started.ports[name] = log, free_port()
            environment = environment_of(
                stack,
                TERCET_READY_FILE=str(ready),
                TERCET_WORKER_INTERNAL_PORT=str(started.ports[name]),
            )
            one = process("worker", name, environment=environment, log=log)
            started.processes[name] = stop.enter_context(one)
        for name in WORKERS:
            ready = tmp_path / f"{name}.ready"
            await until(ready.exists, within_s=30, what=f"the second {name} is ready")
        yield started


@pytest.mark.faults
async def test_two_of_each_worker_do_everything_once_and_stop_cleanly(
    second: Second,
    books: Books,
    provider: ProviderBooks,
    customer: Customer,
    stack: RunningStack,
) -> None:
    goods = await books.goods(available=1_000)
    over = [await customer.placed({goods.variant: 1}) for _ in range(ORDERS)]
    pending = [await customer.placed({goods.variant: 1}) for _ in range(ORDERS)]
    paid = await asyncio.gather(*(customer.pay(order_id, "tok_pending") for order_id in pending))
    payments = [UUID(answer.json()["payment_id"]) for answer in paid]
    ids = [UUID(order_id) for order_id in over]
    for table, column in (("orders", "hold_expires_at"), ("stock_holds", "expires_at")):
        await books.rows(
            f"update {table} set {column} = now() where order_id = any($1)", ids  # noqa: S608 - names of ours
        )  # fmt: skip

    async def all_is_done() -> bool:
        expired = "select count(*) from orders where order_id = any($1) and state = 'expired'"
        settled = "select count(*) from payments where payment_id = any($1) and state = 'SUCCESS'"
        published = "select count(*) from outbox where published_at is null"
        left = [
            ORDERS - await books.value(expired, ids),
            ORDERS - await books.value(settled, payments),
            await books.value(published),
        ]
        return not any(left)

    await until(all_is_done, within_s=DONE_WITHIN_S, what="all expired, settled and published")
    events = await published_events(stack, {*over, *pending})
    assert sorted(events) == sorted(set(events)), "an event is published twice"
    assert sum(name == "order_expired" for name, _ in events) == ORDERS
    for payment_id in payments:
        assert len(await books.transfers(payment_id)) == 1
    charged = await asyncio.gather(*map(provider.charges, payments[:3]))
    assert [len(charges) for charges in charged] == [1, 1, 1]
    assert await books.stock(goods.variant) == (1_000 - ORDERS, 0, ORDERS)
    assert await books.broken_rules() == []
    await stops_cleanly(second)


async def published_events(stack: RunningStack, orders: set[str]) -> list[tuple[str, str]]:
    """What the stream of events has of these orders: the event's name and the order's id."""
    async with Redis.from_url(stack.events_url) as valkey:
        entries: Any = await valkey.xrange(EVENTS_STREAM)
    # Tests of the stream itself leave entries of other forms.
    told = [
        (fields[b"name"].decode(), fields[b"aggregate_id"].decode())
        for _, fields in entries
        if b"name" in fields
    ]
    return [(name, order_id) for name, order_id in told if order_id in orders]


async def stops_cleanly(second: Second) -> None:
    """On SIGTERM each ends by itself, with exit code 0, and has said what it has done."""
    items = {name: await second.items(name) for name in WORKERS}
    for one in second.processes.values():
        one.send_signal(signal.SIGTERM)
    for name, one in second.processes.items():
        assert await asyncio.to_thread(one.wait, 10) == 0
        lines = second.said(name)
        assert lines[-1]["event"] == "worker stops"
        said = sum(line.get("items", 0) for line in lines if line["event"] == "worker has worked")
        assert said >= items[name]
        assert not [line for line in lines if line["level"] == "error"]
