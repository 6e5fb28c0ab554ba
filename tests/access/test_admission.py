"""Who is let in, who waits and who is refused: gates on a clock that jumps."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.access.admission import Admission
from services.access.gate import Gate, Outcome
from services.access.routes import Route
from services.access.terms import TERMS
from services.deadline import Deadline
from services.problems import Overloaded
from tests.access.virtual_time import run


def now() -> float:
    return asyncio.get_running_loop().time()


def gate_of(name: str = "page", size: int = 8, *, clients: int = 10_000) -> Gate:
    return Gate(
        name, TERMS[name], size, clock=asyncio.get_running_loop().time, clients=lambda: clients
    )


class Load:
    """Requests through one gate, and what became of each."""

    def __init__(self, gate: Gate, latency_s: float = 0.02) -> None:
        self.gate = gate
        self.latency_s = latency_s
        self.outcome: Outcome = "ok"
        self.order: list[int] = []  # as they were let in
        self.waits_s: dict[int, float] = {}
        self.refusals_s: dict[int, float] = {}  # how long each waited for its refusal
        self.began_at: dict[int, float] = {}

    async def one(self, number: int, within_s: float = 5.0) -> None:
        self.began_at[number] = began_at = now()
        try:
            await self.gate.enter(Deadline(began_at + within_s))
        except Overloaded as refusal:
            assert refusal.status == 503
            assert refusal.headers()["retry-after"] in ("1", "2", "3")
            self.refusals_s[number] = now() - began_at
            return
        self.order.append(number)
        self.waits_s[number] = now() - began_at
        latency_s = self.latency_s
        await asyncio.sleep(latency_s)
        self.gate.leave(latency_s, self.outcome)

    async def at_once(self, count: int) -> None:
        await asyncio.gather(*(self.one(number) for number in range(count)))

    async def open(self, rate: float, seconds: float, *, seed: int = 1) -> float:
        """`rate` a second at random moments; returns when it began."""
        dice, began_at, first = random.Random(seed), now(), len(self.began_at)
        async with asyncio.TaskGroup() as group:
            moment, number = began_at, first
            while (moment := moment + dice.expovariate(rate)) < began_at + seconds:
                await asyncio.sleep(moment - now())
                group.create_task(self.one(number))
                number += 1
        return began_at

    def since(self, moment: float, found: dict[int, float]) -> list[float]:
        return sorted(value for key, value in found.items() if self.began_at[key] >= moment)


def of(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]


def test_the_limit_is_let_in_and_the_others_wait_for_their_turn() -> None:
    async def trial() -> Load:
        load = Load(gate_of(size=8))
        await load.at_once(20)
        return load

    load = run(trial())
    assert load.order == list(range(20))
    assert load.gate.in_flight == 0
    assert load.gate.waiting == 0
    assert load.gate.waited_total == 12
    assert load.gate.entered_total == 20


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    async def trial() -> Load:
        load = Load(gate_of(size=8), latency_s=0.1)
        await load.at_once(8)
        await load.at_once(100)
        return load

    load = run(trial())
    assert load.refusals_s
    assert max(load.refusals_s.values()) <= 0.010
    assert load.gate.shed_total == len(load.refusals_s)


def test_who_could_not_be_answered_in_time_is_refused_and_not_let_in_late() -> None:
    async def trial() -> Load:
        load = Load(gate_of(size=8), latency_s=0.1)
        for _ in range(5):
            await load.at_once(8)
        busy = (load.one(number) for number in range(20, 28))
        await asyncio.gather(*busy, load.one(30, within_s=0.105), load.one(31, within_s=1.0))
        return load

    load = run(trial())
    assert load.refusals_s == {30: 0.0}
    assert 31 in load.waits_s


def test_in_an_overload_the_newest_goes_first_and_refusals_are_quick() -> None:
    async def trial() -> tuple[Load, float]:
        load = Load(gate_of(size=8))
        await load.open(200, 2)
        began_at = await load.open(4000, 4)
        return load, began_at + 0.5

    load, since = run(trial())
    assert load.gate.overloaded
    assert of(load.since(since, load.waits_s), 0.99) <= 0.009
    assert load.since(since, load.refusals_s)[-1] <= 0.010
    assert len(load.since(since, load.waits_s)) >= 0.9 * 3.5 * (8 / 0.02)


def test_an_overload_ends_by_itself_when_less_comes() -> None:
    async def trial() -> tuple[Load, float]:
        load = Load(gate_of(size=8))
        await load.open(2000, 3)
        began_at = await load.open(0.8 * 400, 4)
        return load, began_at + 1

    load, since = run(trial())
    assert not load.gate.overloaded
    assert load.since(since, load.refusals_s) == []


def test_a_line_that_does_not_end_makes_nobody_late() -> None:
    async def trial() -> tuple[Load, float]:
        load = Load(gate_of(size=8))
        began_at = await load.open(440, 5)  # a tenth more than can be done
        return load, began_at + 2

    load, since = run(trial())
    assert of(load.since(since, load.waits_s), 0.5) <= 0.5 * load.latency_s
    assert of(load.since(since, load.waits_s), 0.99) <= 3 * load.latency_s
    assert len(load.since(since, load.waits_s)) >= 0.9 * 3 * (8 / 0.02)


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_that_take_longer_now_and_then_are_no_reason_to_refuse_pages(seed: int) -> None:
    """A sixth of what fits, while others use the same processors: 15 ms, and at times 40."""

    async def trial() -> Load:
        load, dice = Load(gate_of(size=8), latency_s=0.015), random.Random(seed)
        await load.open(80, 3, seed=seed)  # what is learned first

        async def level() -> None:
            while True:
                level_s = dice.choice((0.015, 0.015, 0.040))
                until = now() + dice.uniform(0.3, 0.8)
                while now() < until:
                    load.latency_s = level_s * dice.lognormvariate(0, 0.4)
                    await asyncio.sleep(0.001)

        task = asyncio.create_task(level())
        await load.open(80, 17, seed=seed + 10)
        task.cancel()
        return load

    load = run(trial())
    assert load.refusals_s == {}
    assert of(sorted(load.waits_s.values()), 0.99) <= 0.25


def test_in_an_overload_who_came_last_is_let_in_first() -> None:
    async def trial() -> list[int]:
        load = Load(gate_of(size=8))
        overload = asyncio.create_task(load.open(4000, 1))
        await asyncio.sleep(0.999)
        assert load.gate.overloaded
        let_in = len(load.order)
        await overload
        return load.order[let_in - 200 : let_in]

    order = run(trial())
    overtaken = sum(later < earlier for earlier, later in itertools.pairwise(order))
    assert overtaken > 20


def test_clients_who_ask_again_at_once_are_not_refused_for_ever() -> None:
    async def client(load: Load, first: int) -> None:
        for number in itertools.count(first):
            await load.one(number)
            if number in load.refusals_s:
                await asyncio.sleep(0.002)

    async def trial() -> tuple[Load, float]:
        clients = 40
        load = Load(gate_of(size=4, clients=clients), latency_s=0.005)
        await load.at_once(2)
        asking = [asyncio.create_task(client(load, 1_000_000 * each)) for each in range(clients)]
        await asyncio.sleep(0.5)
        load.latency_s = 0.3  # a moment in which all of them wait too long
        await asyncio.sleep(0.7)
        assert load.gate.overloaded
        load.latency_s = 0.005
        await asyncio.sleep(1.5)
        since = now()
        await asyncio.sleep(0.5)
        for task in asking:
            task.cancel()
        return load, since

    load, since = run(trial())
    assert not load.gate.overloaded
    assert load.since(since, load.refusals_s) == []


def test_who_leaves_the_line_takes_no_place() -> None:
    async def trial() -> Gate:
        gate = gate_of(size=1)
        await gate.enter(Deadline(5))
        tasks = [asyncio.create_task(gate.enter(Deadline(5))) for _ in range(3)]
        await asyncio.sleep(0.001)
        tasks[0].cancel()
        await asyncio.sleep(0)
        gate.leave(0.001, "ok")
        tasks[1].cancel()  # in the turn in which it was let in
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, True, False]
        tasks[2].result()  # it was let in
        return gate

    gate = run(trial())
    assert gate.in_flight == 1
    assert gate.waiting == 0


def test_a_caller_without_a_task_is_called() -> None:
    async def trial() -> tuple[bool, bool]:
        gate = gate_of(size=1)
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        gate.join(Deadline(5), first)
        gate.join(Deadline(5), second)
        at_first = first.done(), second.done()
        assert at_first == (True, False)
        gate.leave(0.01, "ok")
        return first.done(), second.done()

    assert run(trial()) == (True, True)


def test_payments_have_a_fixed_limit_and_are_served_in_order() -> None:
    async def trial() -> Load:
        load = Load(gate_of("payment", size=4), latency_s=0.05)
        for latency_s in (0.05, 3.0, 3.0):
            load.latency_s = latency_s
            await load.at_once(4)
        assert load.gate.limit == 4
        load.latency_s = 0.05
        await load.open(20, 10)  # until it is known that they are quick again
        load.order.clear()
        await load.at_once(400)
        return load

    load = run(trial())
    assert not load.gate.overloaded
    assert load.order == list(range(len(load.order)))
    assert len(load.order) > 40
    assert load.refusals_s
    assert max(load.refusals_s.values()) == 0.0


@pytest.fixture
def admission_of() -> Callable[[], Admission]:
    def make() -> Admission:
        kinds = (Route.PAGE, Route.CHECKOUT, Route.PAYMENT, Route.OTHER)
        admission = Admission(dict.fromkeys(kinds, 8))
        for gate in admission.gates.values():
            gate._clock = gate._line._clock = asyncio.get_running_loop().time
            gate._paced_at = 0.0
        return admission

    return make


def test_pages_give_way_while_orders_are_refused_and_come_back(
    admission_of: Callable[[], Admission],
) -> None:
    async def trial() -> tuple[int, int, int]:
        admission = admission_of()
        pages, orders = Load(admission.gates[Route.PAGE]), Load(admission.gates[Route.CHECKOUT])
        await pages.open(300, 2)
        before = pages.gate.limit
        await asyncio.gather(pages.open(300, 3), orders.open(2000, 3))
        meanwhile = pages.gate.limit
        assert pages.gate.shed["yielded"] > 0
        await pages.open(300, 4)
        return before, meanwhile, pages.gate.limit

    before, meanwhile, after = run(trial())
    assert before == 8
    assert meanwhile == 1
    assert after == 8


def test_orders_do_not_give_way_to_pages(admission_of: Callable[[], Admission]) -> None:
    async def trial() -> Load:
        admission = admission_of()
        pages, orders = Load(admission.gates[Route.PAGE]), Load(admission.gates[Route.CHECKOUT])
        await asyncio.gather(pages.open(2000, 3), orders.open(200, 3))
        assert pages.gate.shed_total > 0
        return orders

    orders = run(trial())
    assert orders.refusals_s == {}
    assert orders.gate.share == 1.0


def test_operators_share_the_gate_of_what_has_none_of_its_own(
    admission_of: Callable[[], Admission],
) -> None:
    async def trial() -> None:
        admission = admission_of()
        assert admission.try_enter(Route.OPERATOR)
        assert admission.gates[Route.OTHER].in_flight == 1
        await admission.enter(Route.OTHER, Deadline(5))
        admission.leave(Route.OPERATOR, 0.01, "ok")
        admission.leave(Route.OTHER, 0.01, "ignored")
        assert admission.gates[Route.OPERATOR].in_flight == 0

    run(trial())


def test_events_do_not_wait_and_go_first_when_pages_are_refused() -> None:
    async def trial() -> tuple[Load, Load]:
        pages, events = Load(gate_of("page")), Load(gate_of("beacon"))
        events.gate.above = (pages.gate,)
        await events.at_once(20)
        assert len(events.refusals_s) == 12
        assert events.gate.waited_total == 0
        await asyncio.gather(pages.open(2000, 3), events.open(50, 3))
        return pages, events

    pages, events = run(trial())
    assert pages.gate.shed_total > 0
    assert events.gate.limit == 0


@pytest.mark.faults
def test_while_business_drops_everything_little_is_passed_on_and_it_comes_back() -> None:
    async def trial() -> tuple[int, int, int]:
        load = Load(gate_of(size=16), latency_s=0.01)
        await load.open(800, 3)
        load.outcome, load.latency_s = "dropped", 0.001
        await load.open(800, 1)
        passed_on = load.gate.entered_total
        await load.open(3200, 3)  # each of them three times again
        passed_on = load.gate.entered_total - passed_on
        load.outcome, load.latency_s = "ok", 0.01
        back_at = await load.open(800, 6)
        return passed_on, len(load.since(back_at + 4, load.refusals_s)), load.gate.shed["failing"]

    passed_on, refused, failing = run(trial())
    assert passed_on <= 1.1 * 800 * 3
    assert passed_on <= 0.05 * 3200 * 3
    assert refused <= 0.01 * 1600
    assert failing > 0


def test_a_shop_with_few_clients_finds_business_well_again_in_a_second() -> None:
    async def trial() -> tuple[int, int]:
        load = Load(gate_of(size=16), latency_s=0.01)
        await load.open(800, 2)
        load.outcome, load.latency_s = "dropped", 0.001
        await load.open(800, 1)
        failing = load.gate.shed["failing"]
        load.outcome, load.latency_s = "ok", 0.01
        await asyncio.sleep(1.2)
        await load.open(2, 3)
        return failing, load.gate.shed["failing"] - failing

    failing, since = run(trial())
    assert failing > 0
    assert since <= 1  # the first one finds out that it is long ago


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "leave", "drop", "cancel", "wait"]), st.integers(0, 50)),
        max_size=150,
    ),
    st.sampled_from(["page", "payment", "beacon"]),
)
def test_every_place_that_was_taken_is_given_back(steps: list[tuple[str, int]], name: str) -> None:
    async def trial() -> None:
        gate = gate_of(name, size=3)
        inside: list[asyncio.Task[None]] = []
        for step, number in steps:
            entered = [task for task in inside if _has_entered(task)]
            waiting = [task for task in inside if not task.done()]
            if step == "come":
                inside.append(asyncio.create_task(gate.enter(Deadline(now() + number / 10))))
            elif step in ("leave", "drop") and entered:
                inside.remove(entered[number % len(entered)])
                gate.leave(number / 1000, "ok" if step == "leave" else "dropped")
            elif step == "cancel" and waiting:
                waiting[number % len(waiting)].cancel()
            await asyncio.sleep(number / 1000 if step == "wait" else 0)
            assert 0 <= gate.in_flight <= max(3, gate.limit)
        await asyncio.wait_for(_all_done(inside), 100)
        await asyncio.sleep(10)  # who has left the line is taken out of it when its time is over
        assert gate.in_flight == sum(_has_entered(task) for task in inside)
        assert gate.waiting == 0

    run(trial())


def _has_entered(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _all_done(tasks: list[asyncio.Task[None]]) -> None:
    running: list[Awaitable[None]] = [task for task in tasks if not task.done()]
    await asyncio.gather(*running, return_exceptions=True)


def test_a_class_is_pressed_by_one_above_that_waits_and_by_its_own_overload() -> None:
    async def trial() -> tuple[bool, bool, bool]:
        page, checkout = gate_of("page"), gate_of("checkout")
        page.above = (checkout,)
        calm = page.is_pressed()
        waits, load = Load(checkout, latency_s=0.5), Load(page, latency_s=0.1)
        await asyncio.gather(waits.at_once(100), load.at_once(100))
        assert load.refusals_s
        pressed = page.is_pressed()
        await asyncio.sleep(3)  # nobody comes any more: who asks is told that it is over
        for _ in range(20):
            page.is_pressed()
            await asyncio.sleep(0.1)
        return calm, pressed, page.is_pressed()

    assert run(trial()) == (False, True, False)
