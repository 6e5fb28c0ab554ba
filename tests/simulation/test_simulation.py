"""Paying in simulated worlds, each made by its seed; and worlds with a bug, which are found out.

TERCET_SIMULATION_SEED=N runs nothing but that seed again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Final
from unittest.mock import patch

import pytest

from services.business import claims, followup_claims, reconcile, settlements
from services.business import payments as paying
from services.business.provider import Unknown
from services.data.ledger import INSERT_TRANSFERS
from services.data.payments import INSERT_PAYMENTS, Payment, Sums, Verdict
from tests.faults.figures import record
from tests.simulation import tables, world
from tests.simulation.simulate import simulate
from tests.simulation.tables import Tables

SEED: Final = os.environ.get("TERCET_SIMULATION_SEED")
SHORT: Final = 250  # about 5 s of CPU
LONG: Final = 10_000
BUG_WITHIN: Final = 400  # seeds; most bugs show in the first ten, the rarest after a hundred

# What has to have happened in all worlds together, or they show nothing.
SEEN: Final = (
    *("connect", "statement", "locked", "rolled back", "lost before commit", "lost after commit"),
    *("refused", "dropped", "late", "twice", "error", "answer lost", "asked in vain"),
    *("deaths", "stands", "frozen after a claim"),
    *("order paid", "order refunded", "order expired", "order cancelled"),
    *("payment SUCCESS", "payment FAILED", "payment ERRORED", "capture requested SUCCESS"),
    *("refund requested SUCCESS", "void requested SUCCESS", "refund order_ended SUCCESS"),
)


def check(seeds: Iterable[int]) -> tuple[Counter[str], dict[int, list[str]]]:
    """What happened in the worlds of these seeds, and what does not hold, by seed."""
    happened: Counter[str] = Counter()
    broken: dict[int, list[str]] = {}
    for seed in seeds:
        one, violations = simulate(seed)
        if violations:
            broken[seed] = violations
        happened.update(one.happened)
        books = one.database.tables
        happened.update(f"order {order.state}" for order in books.orders.values())
        happened.update(f"payment {of.row.state}" for of in books.payments.values())
        happened.update(
            f"{of.row.kind} {of.row.cause} {of.row.state}" for of in books.operations.values()
        )
    return happened, broken


def replay(broken: dict[int, list[str]]) -> str:
    return "\n".join(
        f"TERCET_SIMULATION_SEED={seed} pytest tests/simulation: {violations}"
        for seed, violations in list(broken.items())[:5]
    )


def test_a_world_in_which_nothing_goes_wrong_comes_to_rest() -> None:
    for seed in range(5):
        one, violations = simulate(seed, faulty=False)
        assert not violations
        assert not one.happened["deaths"]


def test_one_seed_is_one_world() -> None:
    first, second = simulate(7)[0], simulate(7)[0]
    assert first.database.tables.payments == second.database.tables.payments
    assert first.database.tables.events == second.database.tables.events
    assert first.happened == second.happened
    assert first.loop.time() == second.loop.time()


def test_whatever_happens_a_payment_is_charged_once_and_everything_becomes_final() -> None:
    happened, broken = check([int(SEED)] if SEED else range(SHORT))
    assert not broken, replay(broken)
    if not SEED:
        assert [name for name in SEEN if not happened[name]] == []


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_the_same_in_ten_thousand_worlds() -> None:
    began_s = time.process_time()
    happened, broken = check(range(LONG))
    record(
        58,
        "simulated payments",
        not broken,
        seeds=LONG,
        violations=len(broken),
        cpu_s=round(time.process_time() - began_s, 1),
        happened=dict(sorted(happened.items())),
    )
    assert not broken, replay(broken)


# Bugs, planted one at a time. Each is one that somebody has shipped somewhere.


Plant = Callable[[ExitStack], object]


def plant(owner: Any, name: str, value: Any) -> Plant:
    return lambda stack: stack.enter_context(patch.object(owner, name, value))


def of_statement(sql: str, done: Any) -> Plant:
    return lambda stack: stack.enter_context(patch.dict(tables.STATEMENTS, {sql: done}))


def both(*plants: Plant) -> Plant:
    return lambda stack: [one(stack) for one in plants]


_verdict = settlements._verdict


def a_timeout_is_a_failure(outcome: Any) -> Verdict:
    if isinstance(outcome, Unknown):
        return Verdict("FAILED", None, None, "")
    return _verdict(outcome)


def everything_moves(_: Payment, __: Verdict) -> bool:
    return True


async def finds_no_keys(*_: Any) -> None:
    """The key of a request is not looked for."""


async def gives_nothing_back(*_: Any) -> dict[Any, Any]:
    return {}


def reserves_nothing(_: Any) -> Sums:
    return Sums()


def books_twice(db: Tables, *columns: Any) -> list[Any]:
    """insert_transfers without the unique constraint."""
    db.transfers_are_unique = False
    return tables.insert_transfers(db, *columns)


def a_settled_payment_is_booked_again(current: Payment, verdict: Verdict) -> bool:
    return current.state not in ("FAILED", "ERRORED") and verdict.state == "SUCCESS"


def no_lock_or_index(db: Tables, *columns: Any) -> list[Any]:
    """insert_payments without the index of live payments."""
    with patch.object(tables, "is_live", lambda _: False):
        return tables.insert_payments(db, *columns)


async def sees_nothing(*_: Any) -> int:
    """A reconcile that never runs."""
    return 0


BUGS: Final[dict[str, Plant]] = {
    "a timeout is taken for FAILED": plant(settlements, "_verdict", a_timeout_is_a_failure),
    "what is settled is booked again": both(
        plant(settlements, "_moves", a_settled_payment_is_booked_again),
        of_statement(INSERT_TRANSFERS, books_twice),
    ),
    "never arrived is believed at once": plant(reconcile, "ARRIVAL_GRACE", timedelta(0)),
    "a webhook moves what is final": plant(settlements, "_moves", everything_moves),
    "a key is not replayed": plant(claims, "_find_earlier", finds_no_keys),
    "a late success is kept": plant(settlements, "_give_back", gives_nothing_back),
    "sums are not reserved": plant(followup_claims, "_sums", reserves_nothing),
    "a frozen process charges later": plant(paying, "CHARGE_WITHIN_S", 10_000.0),
    "an order may have two live payments": of_statement(INSERT_PAYMENTS, no_lock_or_index),
    "reconcile does not run": plant(world, "WORKERS", (sees_nothing, *world.WORKERS[1:])),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    with ExitStack() as stack:
        BUGS[bug](stack)
        found = next((seed for seed in range(BUG_WITHIN) if simulate(seed)[1]), None)
    assert found is not None, f"not found in {BUG_WITHIN} worlds: {bug}"
