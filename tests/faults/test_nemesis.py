"""Experiment 59: a random mix of faults from a seed, and the books checked throughout.

NEMESIS_SECONDS=1800 and NEMESIS_SEED=7 of the environment make the long form of the soak.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from infra.process import WORKERS
from loadtests.nemesis import PAGES, QUIET_S, faults, scenario
from loadtests.outcome import Outcome
from loadtests.own_stack import Shop
from loadtests.perform import perform
from loadtests.profiles import PROFILES, Run
from loadtests.settling import all_final, all_mailed, prove
from loadtests.shop import page_target, read_goods
from services.deadline import Deadline
from services.keepalive import Pool
from tests.faults.figures import record
from tests.running_stack import RunningStack, running_stack

SECONDS = float(os.environ.get("NEMESIS_SECONDS", "60"))
SEED = int(os.environ.get("NEMESIS_SEED", "59"))
PROVE_EVERY_S = 5.0
AVAILABLE = 0.999  # of GETs, over a run in which every part is broken
UNASKED = 2  # exit code of `tercet prove` where the database can not be asked
UNLIMITED = {"TERCET_CUSTOMER_RATES": "", "TERCET_ADDRESS_RATES": ""}


def test_the_same_seed_breaks_the_same_things() -> None:
    ours = faults(7, 300)
    assert ours == faults(7, 300) != faults(8, 300)
    assert len(ours) > 20
    assert all(fault.at_s < 300 - QUIET_S for fault in ours)
    # A part is left alone until it is whole again.
    for part in {fault.part for fault in ours}:
        moments = [fault.at_s for fault in ours if fault.part == part]
        assert all(late - early > 25 for early, late in pairwise(moments))


def test_every_part_is_broken_by_some_seed() -> None:
    every = {(fault.does, fault.part) for seed in range(40) for fault in faults(seed, 300)}
    assert {does for does, _ in every} == {
        *("kill", "crash", "pause", "restart", "reload", "brownout")
    }
    parts = {"primary", "standby", "valkey", "events", "provider", "mailbox", "access", "business"}
    assert {part for _, part in every} == parts | {f"worker-{name}" for name in WORKERS}
    # Nobody listens where the parent of access is gone, and there is no other access to go to.
    assert {does for does, part in every if part == "access"} == {"crash", "reload"}


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[RunningStack]:
    """Nothing but its own traffic: webhooks and orphans as in a shop."""
    environment = {
        **UNLIMITED,
        "TERCET_RETURN_ORPHAN_CHARGES": "true",
    }
    with running_stack(tmp_path / "data", "--products", "100", environment=environment) as running:
        yield running


@pytest.mark.faults
@pytest.mark.timeout(SECONDS * 2 + 300)
async def test_a_random_mix_of_faults_breaks_no_rule_and_loses_no_payment(
    own_stack: RunningStack,
) -> None:
    shop = Shop(own_stack.url, own_stack.data_dir)
    await hold_all_pages(shop)
    proving = asyncio.create_task(prove_throughout(shop))
    try:
        run = Run.of(scenario(SEED, SECONDS), PROFILES["average"])
        outcome = await perform(run, shop, processes=1, seed=SEED)
    finally:
        proving.cancel()
        (ended,) = await asyncio.gather(proving, return_exceptions=True)
    final = await all_final(shop, within_s=120)
    mailed = await all_mailed(shop, within_s=120)
    proved, said = await prove(shop)
    available = availability(outcome)
    mended = [one for one in outcome.played if one.mended_s is not None]
    passed = all((proved.held, final.held, mailed.held, available >= AVAILABLE, not broken))
    record(
        59, f"nemesis soak of {SECONDS:g} s, seed {SEED}", passed,
        faults=len(outcome.played), mended=len(mended), proofs=len(proofs), broken=broken,
        available=round(available, 5), payments=final.detail,
        mails=mailed.detail, failed={one.work: dict(one.errors) for one in outcome.recorders},
        slowest_s=round(max(one.mended_s - one.at_s for one in mended if one.mended_s), 1),
    )  # fmt: skip
    assert isinstance(ended, asyncio.CancelledError), ended  # it was proved to the end
    assert not broken, broken
    assert proved.held, said
    assert final.held, final.detail
    assert mailed.held, mailed.detail
    assert len(mended) == len(outcome.played), outcome.played
    assert proofs, "the books could never be asked"
    works = {one.work: one for one in outcome.recorders}
    assert available >= AVAILABLE, (available, works[PAGES].errors, works[PAGES].unsent)
    assert works["checkout"].answered > SECONDS  # a third of the purchases at least
    assert all(one.answered for one in outcome.recorders), "every kind of traffic gets through"


proofs: list[str] = []
broken: list[str] = []


async def prove_throughout(shop: Shop) -> None:
    """Ask the books again and again, also while they can not be asked."""
    while True:
        check, said = await prove(shop, with_provider=False)
        if check.held:
            proofs.append(check.detail)
        elif "tercet prove:" not in said:  # that is what it says when it can not ask
            broken.append(said)
        await asyncio.sleep(PROVE_EVERY_S)


async def hold_all_pages(shop: Shop) -> None:
    """So that who looks at a page while business is away looks at one that was there before."""
    pool = Pool.to(shop.url, size=4)
    try:
        goods = await read_goods(pool, products=100, variants_of=0)
        for slug in goods.slugs:
            target = page_target(slug).encode()
            answer = await pool.request(b"GET", target, deadline=Deadline.after(20))
            assert answer.status == 200
    finally:
        await pool.aclose()


def availability(outcome: Outcome) -> float:
    pages = next(one for one in outcome.recorders if one.work == PAGES)
    return pages.answered / pages.due
