"""Experiment 29: the process is killed at each point of a purchase, and another one goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, get_args
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio

from services.business import expiry, reconcile, webhooks
from services.business.payments import charge_order, claim, settle
from services.business.provider import ChargeOrder, ChargeOutcome, PaymentProvider
from services.business.shop import Shop
from services.data.payments import Payment
from services.deadline import Deadline
from services.problems import Problem
from tests.business.dying_process import Errand, Step, do
from tests.business.test_sandbox import SECRET
from tests.faults import figures
from tests.own_books import OwnBooks, own_books
from tests.running_stack import RunningStack
from tests.shopping import place
from tests.webhooks import charge_event

ENDS_WITHIN_S: Final = 20.0
ROUNDS: Final = 20
UNSETTLED: Final = "state in ('INIT', 'PENDING', 'UNKNOWN')"

# Commit 1 is the claim of a payment or operation, 2 its settlement; a webhook is stored by 1,
# settled by 2 and noted as handled by 3; reconcile takes what is due by 1 and 2.
POINTS: Final[dict[Step, tuple[str, ...]]] = {
    "order": ("after commit 1",),
    "claim": ("before commit 1", "after commit 1"),
    "cancel": ("before commit 1", "after commit 1"),
    "pay": ("before commit 1", "after commit 1", "after call 1", "before commit 2",
        "after commit 2"),
    "capture": ("after commit 1", "after call 1"),
    "void": ("after commit 1", "after call 1", "after commit 2"),
    "refund": ("after call 1", "before commit 2"),
    "webhook": ("after commit 1", "after commit 2"),
    "expiry": ("before commit 1", "after commit 1"),
    "reconcile": ("after call 2",),
}  # fmt: skip


class Came(NamedTuple):
    """States of the customer's orders; charges that took money or authorised it, what was
    captured and refunded, and charges that were let go, all by the provider's own ledger; units
    claimed of a flash sale."""

    orders: list[str]
    charges: int
    captured_minor: int
    refunded_minor: int
    voided: int = 0
    claimed: int = 0


COMES_TO: Final[dict[Step, Came]] = {
    "order": Came(["placed"], 0, 0, 0),
    "claim": Came(["placed"], 0, 0, 0, claimed=2),  # one order; its sale has units for two
    "cancel": Came(["cancelled"], 0, 0, 0),
    "pay": Came(["paid"], 1, 2000, 0),
    "capture": Came(["paid"], 1, 2000, 0),
    "void": Came(["cancelled"], 1, 0, 0, voided=1),
    "refund": Came(["refunded"], 1, 2000, 2000),
    "webhook": Came(["paid"], 1, 2000, 0),
    "expiry": Came(["expired"], 0, 0, 0),
    "reconcile": Came(["expired"], 1, 2000, 2000),  # which gives back what came too late
}


class Ended(NamedTuple):
    """code: of the exit, or a signal's number below zero. points: that it had come by."""

    code: int
    points: list[str]


@dataclass(frozen=True)
class DyingProcess:
    process: asyncio.subprocess.Process

    async def run(self, errand: Errand) -> Ended:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(errand.model_dump_json().encode() + b"\n")
        async with asyncio.timeout(ENDS_WITHIN_S):
            return Ended(**orjson.loads(await self.process.stdout.readline()))


@asynccontextmanager
async def dying_process(own: OwnBooks) -> AsyncIterator[DyingProcess]:
    password = own.database.stack.secret("superuser_password")
    variables = {
        **os.environ,
        **own.database.stack.environment,
        "TERCET_PRIMARY_DSN": own.database.dsn("tercet_app"),
        "TERCET_STANDBY_DSNS": "",
        "TERCET_APP_PASSWORD": password,
        "TERCET_READ_PASSWORD": password,
        "TERCET_PROVIDER_URL": f"http://127.0.0.1:{own.provider.port}",
        "TERCET_PROVIDER_SECRET": SECRET,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.business.dying_process"),
        env=variables,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield DyingProcess(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


@pytest_asyncio.fixture(scope="module")
async def own(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OwnBooks]:
    async with own_books(stack, tmp_path_factory.mktemp("crashes")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def mortal(own: OwnBooks) -> AsyncIterator[DyingProcess]:
    async with dying_process(own) as process:
        yield process


async def prepared(own: OwnBooks, step: Step) -> Errand:
    """All that has happened before the step, of a customer of its own."""
    key = uuid4().hex
    match step:
        case "order":
            (customer_id,) = await own.books.guest_ids(1)
            return Errand(step=step, customer_id=customer_id, subject_id=own.goods.variant, key=key)
        case "claim":
            (customer_id,) = await own.books.guest_ids(1)
            sale_id = await own.books.flash_sale(own.goods.variant, units=4, customer_limit=4)
            return Errand(step=step, customer_id=customer_id, subject_id=sale_id, key=key)
        case "pay" | "cancel" | "expiry":
            order = await place(own.shop, {own.goods.variant: 2})
            if step == "expiry":
                await own.books.let_holds_end(own.goods.variant)
            return Errand(step=step, customer_id=order[0], subject_id=order[1], key=key)
        case "capture" | "void" | "refund":
            payment = await own.pay(capture="automatic" if step == "refund" else "manual")
            return _of(payment, step, key)
        case "webhook":
            payment = await _charged(own)
            said = await own.at_provider(payment.payment_id)
            event = charge_event(payment._asdict(), "approved", charge_id=said["charge_id"])
            return _of(payment, step, key).model_copy(update={"payload": json.dumps(event)})
        case "reconcile":
            return _of(await _charged(own, too_late=True), step, key)


def _of(payment: Payment, step: Step, key: str) -> Errand:
    return Errand(
        step=step, customer_id=payment.customer_id, subject_id=payment.payment_id, key=key
    )


async def _charged(own: OwnBooks, *, too_late: bool = False) -> Payment:
    """Claimed and charged, and nothing booked; too late: booked after its order had expired."""
    order = await place(own.shop, {own.goods.variant: 2})
    payment = (await claim(own.shop, order, "tok_approve", uuid4().hex, b"")).payment
    outcome = await own.shop.provider.charge(charge_order(payment), Deadline.after(2.0))
    if too_late:
        sql = "update stock_holds set paying_until = now() where order_id = $1"
        await own.books.rows(sql, order.order_id)
        assert await expiry.run_once(own.shop) == 1
        await settle(own.shop, payment, outcome)
    return payment


async def charges(own: OwnBooks) -> list[dict[str, Any]]:
    """Those of the provider's ledger that took money or authorised it, oldest first."""
    page = (await own.http.get("/charges", params={"limit": "1000"})).raise_for_status().json()
    assert page["next_cursor"] is None
    return [item for item in page["items"] if item["status"] == "approved"]


async def came(own: OwnBooks, errand: Errand, known: int) -> Came:
    """known: charges that were there before."""
    rows = await own.books.rows(
        "select state from orders where customer_id = $1", errand.customer_id
    )
    new = (await charges(own))[known:]
    names = ("captured_minor", "refunded_minor", "voided")
    sums = [sum(one[name] for one in new) for name in names]
    claimed = await own.books.claimed(errand.subject_id) if errand.step == "claim" else 0
    states = [row["state"] for row in rows]
    return Came(states, len(new), *sums)._replace(claimed=claimed)


async def again(shop: Shop, errand: Errand) -> str:
    """As a client does that got no answer; what is refused is asked for once more later."""
    try:
        return await do(shop, errand)
    except Problem:
        return ""


async def make_up(own: OwnBooks, shop: Shop, errand: Errand) -> None:
    """The client asks again, workers do their rounds, and whoever is told that it did not work
    asks anew."""
    await again(shop, errand)
    await settle_all(own, shop)
    if await again(shop, errand) == "ERRORED":
        assert await do(shop, errand.model_copy(update={"key": uuid4().hex})) == "SUCCESS"
    await settle_all(own, shop)


async def settle_all(own: OwnBooks, shop: Shop) -> None:
    """The rounds of all workers, as if the times of leases and checks had passed."""
    for _ in range(ROUNDS):
        for table in ("payments", "payment_operations"):
            await own.books.rows(
                f"update {table} set next_check_at = now(),"  # noqa: S608 - names above
                f" created_at = created_at - interval '1 minute' where {UNSETTLED}"
            )
        await own.books.rows(
            "update webhook_events set next_attempt_at = now() where state = 'waiting'"
        )
        await own.books.rows(
            "update idempotency_keys set lease_until = now() where state = 'running'"
        )
        await reconcile.run_once(shop)
        await webhooks.run_once(shop)
        await expiry.run_once(shop)
        if not await still_open(own):
            return
    raise AssertionError(f"{await still_open(own)} are not settled")


async def still_open(own: OwnBooks) -> int:
    return int(
        await own.books.value(
            f"select (select count(*) from payments where {UNSETTLED})"  # noqa: S608 - text above
            f" + (select count(*) from payment_operations where {UNSETTLED})"
            " + (select count(*) from webhook_events where state = 'waiting')"
            " + (select count(*) from stock_holds where state = 'held' and expires_at <= now())"
        )
    )


@pytest.mark.parametrize(
    ("step", "point"), [(step, point) for step, points in POINTS.items() for point in points]
)
async def test_a_process_that_is_killed_at_any_point_is_made_up_for(
    step: Step, point: str, own: OwnBooks, mortal: DyingProcess
) -> None:
    """Experiment 29, the short form: each step of paying, and the worst point of the others."""
    known = len(await charges(own))
    errand = await prepared(own, step)
    ended = await mortal.run(errand.model_copy(update={"die_at": point}))
    assert (ended.code, ended.points[-1:]) == (-signal.SIGKILL, [point])
    await make_up(own, own.shop, errand)
    assert await came(own, errand, known) == COMES_TO[step]
    assert await own.differences() == []
    assert await own.books.broken_rules() == []


class ChargesAnew:
    """A reconcile as it is often written: what is not known is charged, under an id of now."""

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider

    async def find(self, order: ChargeOrder, deadline: Deadline) -> ChargeOutcome:
        return await self._provider.charge(replace(order, payment_id=uuid4()), deadline)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


@pytest.mark.faults
async def test_a_reconcile_that_charges_anew_is_caught(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The planted bug: the same point, the same checks."""
    folder = tmp_path_factory.mktemp("charges-anew")
    async with own_books(stack, folder) as own, dying_process(own) as mortal:
        errand = await prepared(own, "pay")
        await mortal.run(errand.model_copy(update={"die_at": "after call 1"}))
        bad = replace(own.shop, provider=ChargesAnew(own.shop.provider), _batchers={})
        await make_up(own, bad, errand)
        found = await came(own, errand, 0)
        assert found == COMES_TO["pay"]._replace(charges=2, captured_minor=4000)
        assert await own.differences() != []


@pytest.mark.faults
@pytest.mark.timeout(600)  # some hundreds of processes
@pytest.mark.parametrize("step", get_args(Step))
async def test_a_process_is_killed_before_and_after_every_statement(
    step: Step, own: OwnBooks, mortal: DyingProcess
) -> None:
    """Experiment 29, the long form: every statement, COMMIT and call of the provider."""
    began_at = time.monotonic()
    await mortal.run(await prepared(own, step))  # with what other tests have left to be done
    lived = await mortal.run(await prepared(own, step))
    assert (lived.code, set(POINTS[step]) - set(lived.points)) == (0, set())
    await settle_all(own, own.shop)
    killed, wrong = 0, []
    for point in lived.points:
        known = len(await charges(own))
        errand = await prepared(own, step)
        ended = await mortal.run(errand.model_copy(update={"die_at": point}))
        killed += (ended.code, ended.points[-1:]) == (-signal.SIGKILL, [point])
        await make_up(own, own.shop, errand)
        if await came(own, errand, known) != COMES_TO[step]:
            wrong.append(point)
    differences, broken = await own.differences(), await own.books.broken_rules()
    passed = (killed, wrong, differences, broken) == (len(lived.points), [], [], [])
    figures.record(
        29, f"killed at every point of {step}", passed, points=len(lived.points), killed=killed,
        made_up_for=len(lived.points) - len(wrong), seconds=time.monotonic() - began_at,
    )  # fmt: skip
    assert passed, (killed, wrong, differences, broken)
