"""One run: two processes of the shop, customers, an operator, a provider, and what goes wrong.

First everybody acts while faults happen; then the faults stop and only the workers go on, until
all is at rest. Everything is chosen by the seed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

from services.business import expiry, reconcile, webhooks
from services.business.cancellations import CANCEL_ORDERS
from services.business.followup_claims import FollowUp
from services.business.followups import follow_up
from services.business.payments import pay
from services.business.shop import Shop
from services.data.customers import OPERATOR
from services.data.idempotency import Key
from services.data.orders import Order, OrderKey
from services.data.payment_operations import Kind
from services.data.payments import CaptureMethod
from services.data.webhooks import Webhook
from services.deadline import Deadline, current_deadline
from services.problems import (
    GatewayTimeout,
    IdempotencyKeyRunning,
    OutcomeUnknown,
    Overloaded,
    Problem,
    Unavailable,
)
from tests.simulation.database import SimulatedPrimary
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.provider import Line, SimulatedProvider
from tests.simulation.tables import BEGAN_AT, UNSETTLED, Hold, Stock, Tables, hold_is_over

ACTING_S: Final = 40.0
PROVIDER_TIMEOUT_MS: Final = 3000
REQUEST_S: Final = 5.0
FATES_WITHIN: Final = 400  # steps of a process, some of a dozen requests
PROCESSES: Final = 2
PRICE_MINOR: Final = 100
RECEIVED: Final = 50
ROUNDS_MAX: Final = 150
WORKERS: Final = (reconcile.run_once, expiry.run_once, webhooks.run_once)
# Whoever is told one of these may come again with the same key.
AGAIN: Final = (Unavailable, GatewayTimeout, OutcomeUnknown, IdempotencyKeyRunning, Overloaded)
METHODS: Final = (
    *(" approve", " approve", " approve", " decline"),
    *("pending approve", "pending decline", "very late approve"),
)
FAULTS: Final = {
    "connect": 0.01,
    "statement": 0.004,
    "locked": 0.02,
    "rolled back": 0.02,
    "lost before commit": 0.03,
    "lost after commit": 0.03,
    "frozen after a claim": 0.1,
}


class NoAnswer(Exception):
    """The process died, or stood still for longer than anybody waits."""


@dataclass
class Told:
    """What a client was told of its key; `sent` how often it came with it.

    unanswered: a request of it may still be with a process that stands still.
    """

    key: str
    sent: int = 0
    ids: set[UUID] = field(default_factory=set)
    states: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unanswered: bool = False


class World:
    """One run of one seed."""

    def __init__(self, seed: int, loop: SimulatedLoop, *, faulty: bool = True) -> None:
        self.seed = seed
        self.loop = loop
        self.chance: Random = loop.chance
        self.faulty = faulty
        self.violations: list[str] = []
        self.happened: Counter[str] = Counter()
        self.told: list[Told] = []
        self.cancelled: list[OrderKey] = []
        self.database = SimulatedPrimary(loop, Tables(self.new_id), self._watch)
        self.provider = SimulatedProvider(loop, self._send_webhook)
        self.processes: list[Process] = []
        self.shops: dict[Process, Shop] = {}
        self.variant = self.new_id()
        self._outside: set[asyncio.Task[Any]] = set()

    def new_id(self) -> UUID:
        return UUID(int=self.chance.getrandbits(128))

    async def run(self) -> None:
        if self.faulty:
            self.database.faults = dict(FAULTS)
        else:
            self.provider.faulty = self.loop.faulty = False
        self.database.tables.stock[self.variant] = Stock(RECEIVED, 0, 0)
        for number in range(PROCESSES):
            self._start(f"process {number}")
        keeper = asyncio.create_task(self._keep_running())
        orders = [self._place() for _ in range(self.chance.choice((1, 1, 2)))]
        for order in orders:
            for _ in range(self.chance.choice((1, 1, 2))):
                self._go(self._customer(order))
            self._go(self._operator(order))
            if self.chance.random() < 0.2:
                self._go(self._cancels(order))
        await asyncio.sleep(ACTING_S)
        self.database.faults = {}
        self.provider.faulty = self.loop.faulty = False
        await asyncio.sleep(REQUEST_S)
        keeper.cancel()
        await self._come_to_rest()
        self.happened.update(self.database.happened)
        self.happened.update(self.provider.happened)
        self.happened.update(deaths=self.loop.deaths, stands=self.loop.stands)

    # Processes

    def _start(self, name: str) -> Process:
        fates: dict[int, float | None] = {}
        if self.faulty and self.chance.random() < 0.5:
            still_s = self.chance.choice((None, None, self.chance.choice((1.0, 8.0, 45.0))))
            fates[self.chance.randrange(1, FATES_WITHIN)] = still_s
        process = Process(name, fates)
        self.processes.append(process)
        self.shops[process] = self._open_shop()
        self.loop.create_task(self._work(self.shops[process]), context=process.context.copy())
        return process

    def _open_shop(self) -> Shop:
        """A shop whose database and provider are the simulated ones; it has nothing else."""
        store = SimpleNamespace(
            database=SimpleNamespace(primary=self.database),
            wake_ups=SimpleNamespace(ask=lambda: False),
        )
        settings = SimpleNamespace(provider_timeout_ms=PROVIDER_TIMEOUT_MS)
        nothing = cast("Any", None)
        return Shop(
            cast("Any", settings),
            cast("Any", store),
            pages=nothing,
            lists=nothing,
            provider=cast("Any", Line(self.provider)),  # it is not asked for lists
            provider_upstream=nothing,
            held=nothing,
            watchdog=nothing,
        )

    async def _keep_running(self) -> None:
        """A process that has died is replaced a moment later."""
        while True:
            await asyncio.sleep(1.0)
            for process in [one for one in self.processes if one.dead]:
                self.processes.remove(process)
                self._start(process.name)

    async def _work(self, shop: Shop) -> None:
        """The workers' rounds, seldom: one that finds nothing shows nothing."""
        while self.loop.time() < ACTING_S:
            await asyncio.sleep(self.chance.uniform(0.5, 6.0))
            await self._round(shop, self.chance.choice(WORKERS))

    async def _round(self, shop: Shop, run_once: Callable[[Shop], Awaitable[int]]) -> None:
        try:
            await run_once(shop)
        except Problem:
            pass  # as run_rounds has it
        except ExceptionGroup as error:
            if error.split(Problem)[1] is not None:
                self.violations.append(f"a worker fails: {error.exceptions!r}")
        except Exception as error:
            self.violations.append(f"a worker fails: {error!r}")

    async def request(self, work: Callable[[Shop], Awaitable[Any]]) -> Any:
        """Have a process that lives do something for somebody outside; NoAnswer if it does not."""
        process = self.chance.choice([one for one in self.processes if not one.dead] or [None])
        if process is None:
            raise NoAnswer
        answer: asyncio.Future[Any] = self.loop.create_future()

        async def serve() -> None:
            current_deadline.set(Deadline.after(REQUEST_S))
            try:
                done = await work(self.shops[process])
            except Exception as error:
                if not isinstance(error, Problem):
                    self.violations.append(f"answered by a 500: {error!r}")
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(done)

        self.loop.create_task(serve(), context=process.context.copy())
        try:
            return await asyncio.wait_for(answer, REQUEST_S + 1)
        except TimeoutError:
            raise NoAnswer from None

    # Who acts

    def _go(self, acting: Any) -> None:
        task = self.loop.create_task(acting, context=Context())
        self._outside.add(task)

    def _place(self) -> Order:
        customer_id, order_id, quantity = self.new_id(), self.new_id(), self.chance.randint(1, 3)
        ends_at = BEGAN_AT + timedelta(seconds=self.chance.choice((8, 25, 900)))
        total = quantity * PRICE_MINOR
        order = Order(
            customer_id, order_id, "placed", "USD", total, ends_at, BEGAN_AT, hold_is_over=False
        )
        tables = self.database.tables
        tables.orders[customer_id, order_id] = order
        tables.holds[customer_id, order_id] = Hold(self.variant, quantity, "held", ends_at)
        available, held, sold = tables.stock[self.variant]
        tables.stock[self.variant] = Stock(available - quantity, held + quantity, sold)
        return order

    async def _customer(self, order: Order) -> None:
        """Pays, comes again with the same key as long as that is right, and sometimes once more."""
        await asyncio.sleep(self.chance.uniform(0, 12))
        told = Told(f"key {self.new_id()}")
        self.told.append(told)
        method = self.chance.choice(METHODS)
        capture: CaptureMethod = self.chance.choice(("automatic", "automatic", "manual"))
        key = OrderKey(order.customer_id, order.order_id)
        for _ in range(self.chance.randint(2, 6)):
            told.sent += 1
            try:
                paid = await self.request(
                    lambda shop: pay(shop, key, method, told.key, b"same", capture=capture)
                )
            except (*AGAIN, NoAnswer) as error:
                told.unanswered |= isinstance(error, NoAnswer)
            except Problem as refused:
                told.refused.append(type(refused).__name__)
                return
            else:
                told.ids.add(paid.payment.payment_id)
                told.states.append(paid.payment.state)
                if self.chance.random() < 0.6:
                    return
            await asyncio.sleep(self.chance.uniform(0.05, 5))

    async def _operator(self, order: Order) -> None:
        """Captures, voids and refunds what there is, now and then."""
        for _ in range(self.chance.randint(1, 5)):
            await asyncio.sleep(self.chance.uniform(1, 9))
            known = [
                one.row
                for one in self.database.tables.payments.values()
                if one.row.order_id == order.order_id
            ]
            if not known:
                continue
            kind: Kind = self.chance.choice(("capture", "refund", "refund", "void"))
            some = self.chance.choice((None, None, self.chance.randint(1, PRICE_MINOR)))
            amount = None if kind == "void" else some
            await self._follows_up(self.chance.choice(known).payment_id, kind, amount)

    async def _follows_up(self, payment_id: UUID, kind: Kind, amount: int | None) -> None:
        told = Told(f"key {self.new_id()}")
        self.told.append(told)
        wanted = FollowUp(payment_id, kind, Key(OPERATOR, kind, told.key, b"same"), amount)
        for _ in range(self.chance.randint(1, 3)):
            told.sent += 1
            try:
                done = await self.request(lambda shop: follow_up(shop, wanted))
            except (*AGAIN, NoAnswer) as error:
                told.unanswered |= isinstance(error, NoAnswer)
                await asyncio.sleep(self.chance.uniform(0.05, 3))
            except Problem as refused:
                told.refused.append(type(refused).__name__)
                return
            else:
                told.ids.add(done.operation.operation_id)
                told.states.append(done.operation.state)
                return

    async def _cancels(self, order: Order) -> None:
        await asyncio.sleep(self.chance.uniform(0, 20))
        key = OrderKey(order.customer_id, order.order_id)
        try:
            await self.request(lambda shop: shop.join(CANCEL_ORDERS, key))
        except (Problem, NoAnswer):
            return
        self.cancelled.append(key)

    def _send_webhook(self, webhook_id: str, payload: bytes) -> None:
        for _ in range(self.chance.choice((0, 1, 1, 3)) if self.provider.faulty else 1):
            self._go(self._deliver(Webhook("sandbox", webhook_id, payload)))

    async def _deliver(self, webhook: Webhook) -> None:
        """Until it is taken, as providers do; much later than it was true, at times."""
        delay_s = self.chance.choice((0.0, 0.5, 5.0, 30.0))
        for _ in range(50):
            await asyncio.sleep(self.chance.random() * delay_s)
            try:
                await self.request(lambda shop: shop.join(webhooks.RECEIVE_WEBHOOKS, webhook))
            except (Problem, NoAnswer):
                delay_s = 10.0
            else:
                return

    # The end

    async def _come_to_rest(self) -> None:
        """Go from one thing that is due to the next, until nothing is."""
        for _ in range(ROUNDS_MAX):
            for process in [one for one in self.processes if one.dead]:
                self.processes.remove(process)
                self._start(process.name)
            wait_s = self._next_due_s()
            if wait_s is None:
                return
            await asyncio.sleep(max(0.05, wait_s) + 0.01)
            awake = min(self.processes, key=lambda process: process.still_until)
            shop = self.shops[awake]
            for run_once in WORKERS:
                task = self.loop.create_task(
                    self._round(shop, run_once), context=awake.context.copy()
                )
                await asyncio.wait([task])
        self.violations.append(f"not at rest after {self.loop.time():.0f} s")

    def _next_due_s(self) -> float | None:
        """Seconds until something may happen; None when nothing will."""
        tables, now = self.database.tables, BEGAN_AT + timedelta(seconds=self.loop.time())
        unsettled = (*tables.payments.values(), *tables.operations.values())
        due = [one.next_check_at for one in unsettled if one.row.state in UNSETTLED]
        due += [one.next_attempt_at for one in tables.webhooks.values() if one.state == "waiting"]
        due += [hold.expires_at for hold in tables.holds.values() if hold.state == "held"]
        due += [
            hold.paying_until
            for hold in tables.holds.values()
            if hold.state == "paying" and hold.paying_until is not None
        ]
        seconds = [(one - now).total_seconds() for one in due]
        seconds += [at - self.loop.time() for at in self.provider.due_at]
        if any(not task.done() for task in self._outside):
            seconds.append(5.0)
        if any(hold_is_over(hold, now) for hold in tables.holds.values()):
            seconds.append(0.0)
        return min(seconds) if seconds else None

    def _watch(self, before: Tables, after: Tables) -> None:
        """What no COMMIT may do."""
        for name in ("payments", "operations"):
            was: dict[UUID, Any] = getattr(before, name)
            for one_id, one in getattr(after, name).items():
                old = was.get(one_id)
                if old is None or old.row is one.row or old.row.state in UNSETTLED:
                    continue
                if old.row.state != one.row.state:
                    self.violations.append(f"{old.row.state} became {one.row.state}")
        if sum(after.stock[self.variant]) != RECEIVED:
            self.violations.append("units of stock were made or lost")
