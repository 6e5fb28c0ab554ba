"""The rule by which access believes an identity, in virtual time: whatever is late, lost or frozen,
a session that has ended is refused a second later, and one that lives is never refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final
from unittest.mock import patch
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from services import deadline as deadline_module
from services import tags as tags_module
from services.access.claims import Claim
from services.access.identities import BELIEVED_S, Identities
from services.access.identity import Identity, IdentityDocument
from services.deadline import Deadline
from services.problems import Unauthenticated
from services.tags import HEARTBEAT_S, TagMessage, TagSubscriber
from tests.access.virtual_time import run

CUSTOMER: Final = UUID("0198c0de-0000-7000-8000-000000000001")
CLAIM: Final = Claim(b"a" * 43, bearer=True)
POLL_S: Final = 0.1  # as the relay looks by itself
WITHIN_S: Final = 1.0
LIVES_S: Final = 8.0  # how long a world is looked at
ROUNDING_S: Final = 1e-9

Span = tuple[float, float]
spans = st.lists(
    st.tuples(st.floats(0, LIVES_S), st.floats(0.01, 3)).map(lambda at: (at[0], at[0] + at[1])),
    max_size=3,
)


@dataclass(frozen=True)
class Plan:
    """What happens in a world; times in seconds from its beginning.

    stopped: spans in which the relays stand still; frozen: in which nothing comes through, and
    comes late; cut: in which there is no connection, and what is said is lost.
    """

    ends_at: float
    stopped: list[Span]
    frozen: list[Span]
    cut: list[Span]
    woken: bool  # whether the relay is woken, or has to look by itself
    relays: int
    seed: int


plans = st.builds(
    Plan,
    ends_at=st.floats(0.1, LIVES_S - 2),
    stopped=spans,
    frozen=spans,
    cut=spans,
    woken=st.booleans(),
    relays=st.integers(1, 2),
    seed=st.integers(0, 2**32),
)


def is_in(spans: list[Span], now: float) -> float:
    """When the span ends that now is in; 0.0: it is in none."""
    return max((end for start, end in spans if start <= now < end), default=0.0)


@dataclass
class World:
    """One session, those who tell of its end, and a process of access."""

    plan: Plan
    clock: Callable[[], float]
    lookups: int = 0
    refused: list[float] = field(default_factory=list)
    let_in: list[float] = field(default_factory=list)
    over: bool = False
    told: bool = False  # whether a relay has taken the tag

    def __post_init__(self) -> None:
        self.random = random.Random(self.plan.seed)
        self.subscriber = TagSubscriber(Redis())
        self.identities = Identities(self.lookup, self.subscriber, clock=self.clock)
        self.subscriber.on_purge(self.identities.purge)
        self.wire: asyncio.Queue[bytes] = asyncio.Queue()
        self.woken = asyncio.Event()

    async def lookup(self, _: str, __: int, deadline: Deadline) -> Identity | None:
        """Business: what the primary knew at some moment between question and answer."""
        self.lookups += 1
        await asyncio.sleep(self.random.choice((0.001, 0.05, 0.3)))
        over = self.over
        await asyncio.sleep(self.random.choice((0.001, 0.05, 0.3)))
        return None if over else Identity(IdentityDocument(CUSTOMER, "customer", None, (), 60))

    async def end(self) -> None:
        await asyncio.sleep(self.plan.ends_at)
        self.over = True
        if self.plan.woken:
            self.woken.set()

    async def relay(self, name: str) -> None:
        """Says what there is to say, and that there is nothing, as services/business/outbox.py."""
        sequence, spoke_at = 0, -1.0
        while True:
            until = is_in(self.plan.stopped, self.clock())
            if until:
                await asyncio.sleep(until - self.clock())
            tags = [f"customer-{CUSTOMER}"] if self.over and not self.told else []
            self.told = self.told or bool(tags)
            if tags or self.clock() - spoke_at >= HEARTBEAT_S:
                sequence, spoke_at = sequence + 1, self.clock()
                self.wire.put_nowait(msgspec.json.encode(TagMessage(name, sequence, 1, tags)))
            try:
                await asyncio.wait_for(self.woken.wait(), POLL_S)
            except TimeoutError:
                continue
            self.woken.clear()

    async def carry(self) -> None:
        while True:
            message = await self.wire.get()
            if is_in(self.plan.cut, self.clock()):
                continue
            until = is_in(self.plan.frozen, self.clock())
            if until:
                await asyncio.sleep(until - self.clock())
            self.subscriber.receive(message)

    async def cut(self) -> None:
        for start, _ in sorted(self.plan.cut):
            await asyncio.sleep(max(0.0, start - self.clock()))
            self.subscriber.lose()

    async def ask(self) -> None:
        asked_at = self.clock()
        try:
            await self.identities.identity_of(CLAIM, Deadline.after(5))
        except Unauthenticated:
            self.refused.append(asked_at)
        else:
            self.let_in.append(asked_at)

    async def live(self) -> None:
        async with asyncio.TaskGroup() as clients:
            others = [asyncio.create_task(work) for work in (self.carry(), self.cut(), self.end())]
            others += [
                asyncio.create_task(self.relay(str(number))) for number in range(self.plan.relays)
            ]
            while self.clock() < LIVES_S:
                clients.create_task(self.ask())
                await asyncio.sleep(self.random.uniform(0.005, 0.08))
        for task in others:
            task.cancel()


def lived(plan: Plan) -> World:
    """A world after all of it has happened."""

    async def live() -> World:
        clock = asyncio.get_running_loop().time
        time = SimpleNamespace(monotonic=clock)
        with patch.object(tags_module, "time", time), patch.object(deadline_module, "time", time):
            world = World(plan, clock)
            await world.live()
            return world

    return run(live())


@settings(max_examples=60, deadline=None)
@given(plans)
def test_a_session_that_has_ended_is_refused_within_a_second_and_no_other_is(plan: Plan) -> None:
    world = lived(plan)
    late = [at - plan.ends_at for at in world.let_in if at > plan.ends_at + WITHIN_S + ROUNDING_S]
    assert not late, f"let in {max(late):.3f} s after its end"
    assert not [at for at in world.refused if at < plan.ends_at - WITHIN_S]
    # At most one question a second and one for what was told, whatever happens to the stream.
    assert world.lookups <= LIVES_S / BELIEVED_S + 4


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 2))
def test_while_nothing_fails_business_is_asked_once_and_an_end_is_known_at_once(
    seed: int, relays: int
) -> None:
    plan = Plan(5.0, [], [], [], woken=True, relays=relays, seed=seed)
    world = lived(plan)
    assert world.lookups <= 4  # the first, one before a relay was heard, and after the end
    assert max(world.let_in) <= plan.ends_at + 0.01
