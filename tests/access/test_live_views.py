"""Whatever is lost, and whoever leaves and comes back: what each client has at last is the truth.

A small world by a seed: things that change, a worker that tells what is asked for and what has
changed, clients of two processes of access that come and go with Last-Event-ID, connections to
Valkey that are cut, and a Valkey that dies and comes back empty.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest
import pytest_asyncio

from services.live_watch import ASKED
from services.tasks import end_tasks
from services.valkey import LOST
from tests.access.conftest import Access
from tests.access.live_client import Listener, close_all, listen
from tests.access.test_live import listened_to
from tests.faults.waiting import until
from tests.own_valkey import OwnValkey, own_valkey

THINGS = 8
CLIENTS = 10
STEPS = 60
ENDS_WITHIN_S = 20.0
Step = Callable[[], Awaitable[None]]


@pytest_asyncio.fixture(autouse=True)
async def all_closed() -> AsyncIterator[None]:
    yield
    await close_all()


class Things:
    """What there is, and who tells it: as the worker does, from its own memory of what it told."""

    def __init__(self, valkey: OwnValkey) -> None:
        self.truth = {f"product:thing-{number}": 0 for number in range(THINGS)}
        self._valkey = valkey
        self._told: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            with suppress(*LOST, TimeoutError):
                asked: Any = await self._valkey.client.spop(ASKED, 1000)  # at once, as the worker
                for topic in asked:
                    self._told.pop(topic.decode(), None)
                await self._tell()
            await asyncio.sleep(0.005)

    async def _tell(self) -> None:
        for topic, number in self.truth.items():
            if self._told.get(topic) != number:
                data = orjson.dumps({"topic": topic, "number": number})
                await self._valkey.tell(topic, data)
                self._told[topic] = number


class Viewer:
    """A client over all its connections. view: what its page shows, by topic."""

    def __init__(self, chance: random.Random, ports: list[int]) -> None:
        self._ports, self._chance = ports, chance
        self.topics = chance.sample(range(THINGS), chance.randint(1, 3))
        self.view: dict[str, int] = {}
        self.resets = 0
        self._listener: Listener | None = None
        self._last_id = ""

    async def come(self) -> None:
        if self._listener is None:
            query = "products=" + ",".join(f"thing-{number}" for number in self.topics)
            lines = [f"Last-Event-ID: {self._last_id}"] if self._last_id else []
            self._listener = await listen(self._chance.choice(self._ports), query, *lines)

    async def leave(self) -> None:
        if self._listener is not None:
            self.look()
            await self._listener.close()
            self._last_id = self._listener.last_id or self._last_id
            self._listener = None

    def look(self) -> None:
        """Take in what has come, in order; a reset makes the page begin anew."""
        if self._listener is None:
            return
        events, self._listener.events = self._listener.events, []
        for event, data in events:
            if event == "reset":
                self.view.clear()
                self.resets += 1
            else:
                state = orjson.loads(data)
                self.view[state["topic"]] = state["number"]

    def has(self, truth: dict[str, int]) -> bool:
        self.look()
        return self.view == {
            topic: truth[topic] for topic in (f"product:thing-{number}" for number in self.topics)
        }


async def world(seed: int, valkey: OwnValkey, accesses: list[Access], *, killed: bool) -> int:
    """Let it go its way, and look at the end; returns how many resets there were."""
    chance = random.Random(seed)
    things = Things(valkey)
    viewers = [Viewer(chance, [access.port for access in accesses]) for _ in range(CLIENTS)]

    async def change() -> None:
        things.truth[chance.choice(list(things.truth))] += 1

    async def cut() -> None:
        with suppress(*LOST):
            await valkey.client.client_kill_filter(_type="normal", skipme=True)

    async def wait() -> None:
        await asyncio.sleep(chance.random() * 0.02)

    telling = asyncio.create_task(things.run())
    try:
        for number in range(STEPS):
            if killed and number == STEPS // 2:
                valkey.kill()
                await asyncio.sleep(chance.random() * 0.3)
                await valkey.start()
            viewer = chance.choice(viewers)
            steps: list[Step] = [*[change] * 8, *[wait] * 4, cut]
            steps += [*[viewer.come] * 5, *[viewer.leave] * 3]
            await chance.choice(steps)()
        for viewer in viewers:
            await viewer.come()
        for viewer in viewers:

            def is_right(one: Viewer = viewer) -> bool:
                return one.has(things.truth)

            what = f"the view of {viewer.topics} is the truth (seed {seed}): {viewer.view}"
            await until(is_right, within_s=ENDS_WITHIN_S, what=what)
    finally:
        await end_tasks(telling)
        for viewer in viewers:
            await viewer.leave()
    return sum(viewer.resets for viewer in viewers)


async def worlds(seeds: range, *, killed: bool) -> int:
    async with own_valkey() as valkey, listened_to(valkey) as one, listened_to(valkey) as two:
        return sum([await world(seed, valkey, [one, two], killed=killed) for seed in seeds])


async def test_views_end_with_the_truth_and_without_a_reset_where_only_connections_are_cut() -> (
    None
):
    assert await worlds(range(3), killed=False) == 0


async def test_views_end_with_the_truth_though_valkey_dies_and_comes_back_empty() -> None:
    assert await worlds(range(2), killed=True) > 0


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_views_end_with_the_truth_in_many_worlds() -> None:
    first = int(os.environ.get("TERCET_TEST_SEED", random.randrange(10**6)))
    await worlds(range(first, first + 60), killed=True)
