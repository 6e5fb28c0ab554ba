"""Any requests in any order, at any time, are answered as a small model says; so do the books.

Real PostgreSQL and the real sandbox provider; what time would do is done to the database. The model
is shop_model.py. A run that differs is shrunk to the few steps that it takes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from services.business import expiry, followup_settlements, reconcile, settlements
from services.business.cart_versions import cart_version
from services.business.carts import change_line, open_cart
from services.data import carts
from services.data.carts import CartKey
from services.data.stock import Quantity
from services.problems import Problem
from tests.business.shop_model import (
    CHARGES,
    OPERATIONS,
    Cart,
    Kind,
    Lines,
    Model,
    Operate,
    OrderCart,
    Pay,
    Place,
    Refused,
    Request,
    Said,
    Shown,
)
from tests.business.shop_played import LET_END, LET_PAYING_END, Played, said
from tests.faults import figures
from tests.own_books import OwnBooks, own_books
from tests.running_stack import RunningStack

VARIANTS: Final = 3
AVAILABLE: Final = 20
PRICES: Final = (1000, 1100)
UNDECIDED_MS: Final = 600_000  # as long as there is: the test says when the provider has decided
STEPS: Final = 20
EXAMPLES: Final = 6
MANY: Final = 100


@dataclass
class Laboratory:
    """Books of our own and the provider's, a loop to run in, and what was said there."""

    runner: asyncio.Runner
    own: OwnBooks
    seen: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def lab(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Hypothesis runs plain functions: each step is a coroutine in this loop."""
    with asyncio.Runner() as runner:
        opened = AsyncExitStack()
        folder = tmp_path_factory.mktemp("model")
        try:
            patient = {"statement_timeout_ms": 30_000, "pool_wait_ms": 30_000}
            books = own_books(stack, folder, provider_timeout_ms=3000, **patient)
            own = runner.run(opened.enter_async_context(books))
            behaviour = {"pending_ms": UNDECIDED_MS}
            runner.run(own.http.put("/behaviour", json=behaviour)).raise_for_status()
            own.shop.provider_upstream.breaker.force("closed")  # it has tests of its own
            yield Laboratory(runner, own)
        finally:
            runner.run(opened.aclose())


async def played(lab: Laboratory) -> Played:
    """New customers and goods; what earlier runs have left is not due."""
    for table in ("payments", "payment_operations"):
        await lab.own.books.rows(f"update {table} set next_check_at = now() + interval '1 hour'")  # noqa: S608
    goods = await lab.own.books.goods(available=AVAILABLE, price_minor=PRICES[0], variants=VARIANTS)
    return Played(lab.own, await lab.own.books.guest_ids(2), goods.variants)


customers = st.integers(0, 1)
recent = st.integers(0, 3)  # which one, counted from the last
variants = st.integers(0, VARIANTS - 1)
lines = st.dictionaries(variants, st.integers(1, 4), min_size=1).map(lambda one: tuple(one.items()))
tokens = st.sampled_from(["tok_approve"] * 5 + ["tok_decline"] * 2 + sorted(CHARGES))
strangers = st.sampled_from([False] * 9 + [True])
authorised = st.sampled_from([True, True, False])
late = st.sampled_from([token for token, script in CHARGES.items() if script.once])
followable = st.sampled_from(["tok_approve", "tok_approve", *OPERATIONS])
kinds = st.sampled_from(["capture", "void", "refund"])
parts = st.sampled_from(["all", "all", "a third", "half", "too much", "euros"])


class Shopping(RuleBasedStateMachine):
    """Steps; each is done to the shop and to the model, and then both are compared.

    prove: whether the rules of `tercet prove` are looked at as well when the run is over.
    """

    def __init__(self, lab: Laboratory, *, prove: bool = True) -> None:
        super().__init__()
        self.lab, self.prove, self.is_well = lab, prove, True
        self.model = Model([[AVAILABLE, 0, 0] for _ in range(VARIANTS)], [PRICES[0]] * VARIANTS)
        self.real: Played = lab.runner.run(played(lab))
        self.asked: list[Request] = []
        self.versions: list[dict[Shown, str]] = []

    def run(self, step: Coroutine[Any, Any, None]) -> None:
        async def compared() -> None:
            await step
            await self.real.compare(self.model)

        self.is_well = False
        self.lab.runner.run(compared())
        self.is_well = True

    def ask(self, request: Request) -> None:
        async def step() -> None:
            expected = self.model.answer(request)
            assert await self.real.answer(request) == expected
            self.lab.seen[" ".join([one for one in expected if isinstance(one, str)][:2])] += 1

        self.asked.append(request)
        self.run(step())

    def key(self) -> str:
        return f"{self.real.customers[0]}-{len(self.asked)}"  # operators have the same keys

    def owner(self, order: int, *, stranger: bool) -> int:
        return self.model.orders[order].customer ^ stranger

    # Carts and orders

    @rule(customer=customers, lines=lines)
    def place(self, customer: int, lines: Lines) -> None:
        self.ask(Place(customer, self.key(), lines))

    @rule(customer=customers, lines=lines)
    def open_cart(self, customer: int, lines: Lines) -> None:
        async def step() -> None:
            chosen = [Quantity(self.real.variants[v], q) for v, q in lines]
            shop, customer_id = self.real.own.shop, self.real.customers[customer]
            self.real.carts.append((await open_cart(shop, customer_id, None, chosen)).cart_id)
            self.model.carts.append(Cart(customer, dict(lines)))
            self.versions.append({})
            await self.look(len(self.versions) - 1)

        self.run(step())

    @precondition(lambda self: self.model.carts)
    @rule(n=recent, variant=variants, quantity=st.integers(0, 3), stranger=strangers)
    def change_line(self, n: int, variant: int, quantity: int, stranger: bool) -> None:
        number = self.last(self.model.carts, n)
        customer = self.model.carts[number].customer ^ stranger

        async def step() -> None:
            key = CartKey(self.real.customers[customer], self.real.carts[number])
            line = Quantity(self.real.variants[variant], quantity)
            expected: Said = ("changed",)
            answered: Said = ("changed",)
            try:
                self.model.change_line(customer, number, variant, quantity)
            except Refused as refused:
                expected = refused.said
            try:
                await change_line(self.real.own.shop, key, line)
            except Problem as refused:
                answered = said(refused)
            assert answered == expected
            await self.look(number)

        self.run(step())

    async def look(self, number: int) -> None:
        """The cart shows what the model has, under a version that stands for that and no more."""
        cart, shown, versions = (
            self.model.carts[number], self.model.shown(number), self.versions[number],
        )  # fmt: skip
        key = CartKey(self.real.customers[cart.customer], self.real.carts[number])
        async with self.real.own.shop.database.primary.transaction() as tx:
            found = (await carts.select_carts(tx, [key]))[key]
        lines = {self.real.variants.index(one.variant_id): one.quantity for one in found.lines}
        assert (lines, found.state == "ordered") == (cart.lines, cart.ordered)
        version = cart_version(found)
        assert versions.get(shown, version) == version
        assert (shown in versions) == (version in versions.values())
        versions.pop(shown, None)
        versions[shown] = version  # the newest is the last

    @rule(variant=variants, price=st.sampled_from(PRICES))
    def reprice(self, variant: int, price: int) -> None:
        async def step() -> None:
            sql = "update variants set price_minor = $2 where variant_id = $1"
            await self.real.own.books.rows(sql, self.real.variants[variant], price)
            self.model.prices[variant] = price

        self.run(step())

    @precondition(lambda self: self.model.carts)
    @rule(n=recent, stale=st.booleans(), stranger=strangers)
    def order_cart(self, n: int, stale: bool, stranger: bool) -> None:
        number = self.last(self.model.carts, n)
        if not stale:
            self.run(self.look(number))
        shown, version = list(self.versions[number].items())[0 if stale else -1]
        customer = self.model.carts[number].customer ^ stranger
        self.ask(OrderCart(customer, self.key(), number, version, shown))

    @precondition(lambda self: self.model.orders)
    @rule(n=recent, stranger=strangers)
    def cancel(self, n: int, stranger: bool) -> None:
        number = self.last(self.model.orders, n)
        customer = self.owner(number, stranger=stranger)

        async def step() -> None:
            expected = self.model.cancel(customer, number)
            assert await self.real.cancel(customer, number) == expected

        self.run(step())

    # Payments, and what operators do with them

    @precondition(lambda self: self.model.orders)
    @rule(n=recent, token=tokens, manual=st.booleans(), stranger=strangers)
    def pay(self, n: int, token: str, manual: bool, stranger: bool) -> None:
        number = self.last(self.model.orders, n)
        self.ask(Pay(self.owner(number, stranger=stranger), self.key(), number, token, manual))

    @precondition(lambda self: self.model.payments)
    @rule(n=recent, kind=kinds, part=parts)
    def operate(self, n: int, kind: Kind, part: str) -> None:
        number = self.last(self.model.payments, n)
        whole = self.model.payments[number].amount
        sums = {"a third": whole // 3, "half": whole // 2, "too much": whole + 1, "euros": 1}
        amount = None if kind == "void" else sums.get(part)
        currency = None if amount is None else "EUR" if part == "euros" else "USD"
        self.ask(Operate(self.key(), number, kind, amount, currency))

    @precondition(lambda self: self.asked)
    @rule(n=st.integers(0, 7), other=strangers)
    def repeat(self, n: int, other: bool) -> None:
        """An earlier request with its key, with its body or another."""
        request = self.asked[self.last(self.asked, n)]
        self.ask(replace(request, body=b"other") if other else request)

    # What takes several steps to come to, and would seldom come by chance

    @rule(customer=customers, lines=lines, token=tokens, manual=st.booleans())
    def buy(self, customer: int, lines: Lines, token: str, manual: bool) -> None:
        self.bought(customer, lines, token, manual)

    def bought(self, customer: int, lines: Lines, token: str, manual: bool) -> bool:
        """Whether there is a new payment, the last one."""
        known = len(self.model.orders)
        self.place(customer, lines)
        if len(self.model.orders) > known:
            self.pay(0, token, manual, False)
        return len(self.model.orders) > known

    @rule(
        customer=customers,
        lines=lines,
        token=followable,
        manual=authorised,
        steps=st.lists(st.tuples(kinds, parts), min_size=1, max_size=4),
    )
    def buy_and_operate(
        self,
        customer: int,
        lines: Lines,
        token: str,
        manual: bool,
        steps: list[tuple[Kind, str]],
    ) -> None:
        if self.bought(customer, lines, token, manual):
            for kind, part in steps:
                self.operate(0, kind, part)

    @rule(customer=customers, lines=lines, token=late, manual=st.booleans())
    def come_late(self, customer: int, lines: Lines, token: str, manual: bool) -> None:
        """The order has ended when its payment is settled."""
        if self.bought(customer, lines, token, manual):
            self.let_end(0, True)
            self.expire()

    # Time, the provider, and workers

    @rule(decided=st.booleans(), old=st.booleans(), expired=st.booleans(), settled=st.booleans())
    def time_passes(self, decided: bool, old: bool, expired: bool, settled: bool) -> None:
        if decided:
            self.decide()
        if old:
            self.grow_old()
        if expired:
            self.expire()
        if settled:
            self.reconcile()

    @precondition(lambda self: self.model.orders)
    @rule(n=recent, paying=st.booleans())
    def let_end(self, n: int, paying: bool) -> None:
        number = self.last(self.model.orders, n)
        order = self.model.orders[number]
        sql = LET_PAYING_END if paying else LET_END

        async def step() -> None:
            await self.real.own.books.rows(sql, self.real.orders[number])

        if not paying:
            order.over = True
        elif order.hold == "paying":
            order.paying_over = True
        self.run(step())

    def expire(self) -> None:
        async def step() -> None:
            await expiry.run_once(self.real.own.shop)
            self.model.expire()

        self.run(step())

    def decide(self) -> None:
        """What was pending at the provider is decided; nobody has asked yet."""
        self.real.all_is_decided()
        for one in self.model.unsettled():
            one.decided = True

    def grow_old(self) -> None:
        self.run(self.real.all_is_old())
        for one in self.model.unsettled():
            one.old = True

    def reconcile(self) -> None:
        async def step() -> None:
            await self.real.all_is_due()
            await reconcile.run_once(self.real.own.shop)
            self.model.reconcile()

        self.run(step())

    def teardown(self) -> None:
        """In the end all is final, and every rule of the data holds."""
        if not self.is_well:
            return
        for _ in range(2):  # what came late is given back by the second
            self.decide()
            self.grow_old()
            self.reconcile()
        assert self.model.unsettled() == []
        if self.prove:
            assert self.lab.runner.run(self.lab.own.books.broken_rules()) == []

    @staticmethod
    def last(known: list[Any], n: int) -> int:
        return len(known) - 1 - n % len(known)


def play(lab: Laboratory, *, prove: bool = True, **how: Any) -> None:
    """Run after run, until one differs."""

    class Run(Shopping):
        def __init__(self) -> None:
            super().__init__(lab, prove=prove)

    quiet: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    run_state_machine_as_test(Run, settings=settings(**quiet, **how))


def play_and_compare_books(lab: Laboratory, **how: Any) -> None:
    play(lab, **how)
    assert lab.runner.run(lab.own.differences()) == []


def test_whatever_is_asked_for_in_whatever_order_is_answered_as_the_model_says(
    lab: Laboratory,
) -> None:
    play_and_compare_books(lab, max_examples=EXAMPLES, stateful_step_count=STEPS)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_the_same_for_many_long_runs(lab: Laboratory) -> None:
    lab.seen.clear()
    passed = False
    try:
        play_and_compare_books(lab, max_examples=MANY, stateful_step_count=2 * STEPS)
        passed = True
    finally:
        figures.record(
            58,
            "the shop against a model",
            passed,
            runs=MANY,
            steps_most=2 * STEPS,
            requests=lab.seen.total(),
            answers=dict(sorted(lab.seen.items())),
        )


async def nothing(*_: object, **__: object) -> None:
    """What a bug leaves out."""


Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: Final[dict[str, Plant]] = {  # the second takes longer to be met with
    "a void leaves its stock sold": lambda patch: patch.setattr(
        followup_settlements, "return_stock", nothing
    ),
    "what was not charged keeps its order from being paid": lambda patch: patch.setattr(
        settlements, "LOST", frozenset()
    ),
}


@pytest.mark.faults
@pytest.mark.parametrize(
    "bug",
    list(BUGS),
)
def test_a_planted_bug_is_seen(lab: Laboratory, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[bug](monkeypatch)
    how: dict[str, Any] = {"max_examples": 100, "stateful_step_count": STEPS, "database": None}
    with pytest.raises(AssertionError):
        play(lab, prove=False, phases=[Phase.generate], **how)
