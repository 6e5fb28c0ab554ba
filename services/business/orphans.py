"""Orphans: charges in the provider's books that stand for no payment of ours are given back.

They are found by walking the provider's list, from where the last walk ended and somewhat before.
Nothing of ours was booked for them, so nothing is booked when they go back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

from services.business.matching import LOST, gave_all_back, has_money
from services.business.provider import (
    Approved,
    ChargeLine,
    ChargeOutcome,
    Kind,
    Listed,
    OperationOrder,
    Unknown,
)
from services.business.provider_books import EPOCH, BooksUnanswered, id_of, ids_in, pages
from services.business.rounds import run_rounds
from services.business.shop import Shop
from services.data import orphan_charges
from services.data.booked import BookedPayment, select_booked_payments
from services.data.orphan_charges import NewOrphan, Orphan
from services.data.outbox import Event, insert_events
from services.deadline import Deadline
from services.problems import Problem, Unavailable
from services.telemetry import logger

log = logger(__name__)

PROVIDER: Final = "sandbox"
ROWS: Final = 50
POLL_S: Final = 5.0  # nobody waits for it: a charge goes back within a minute
WALK_EVERY: Final = timedelta(seconds=30)
# A charge is in the list when it is made; who listed at that moment may have missed it. Ten times
# the grace of an arrival, which is itself ten times the longest wait for an answer.
OVERLAP: Final = timedelta(minutes=5)
# A payment is written down before its charge is sent, so one that is not there never will be. That
# holds without any wait; the wait is for the day on which it does not.
GRACE: Final = timedelta(seconds=30)
FIRST_WAIT: Final = timedelta(seconds=5)
LONGEST_WAIT: Final = timedelta(minutes=5)
KEYS: Final = uuid5(NAMESPACE_URL, "tercet:orphan-charges")  # of operations that give them back


async def run(shop: Shop) -> None:
    rounds = shop.rounds_of("orphans")
    await run_rounds(rounds, lambda: run_once(shop), full=ROWS, pause_s=POLL_S)


async def run_once(shop: Shop, *, grace: timedelta = GRACE) -> int:
    """Walk the list if it is time, then give back what is due; returns how many were due."""
    if not shop.settings.return_orphan_charges:
        return 0
    async with shop.database.primary.transaction() as tx:
        since = await orphan_charges.claim_walk(tx, PROVIDER, pause=WALK_EVERY)
    if since is not None:
        await walk(shop, since, grace=grace)
    async with shop.database.primary.transaction() as tx:
        due = await orphan_charges.claim_orphans(
            tx, ROWS, first_wait=FIRST_WAIT, longest_wait=LONGEST_WAIT
        )
    async with asyncio.TaskGroup() as returns:
        for orphan in due:
            returns.create_task(give_back(shop, orphan))
    return len(due)


async def walk(shop: Shop, since: datetime, *, grace: timedelta = GRACE) -> None:
    """Write down every orphan among the charges since then, and how far this went.

    Raises Unavailable where the provider can not be asked: the next walk begins where this did.
    """
    timeout_s = shop.settings.provider_timeout_ms / 1000
    start = max(since - OVERLAP, EPOCH)
    newest = since

    def ask(cursor: str | None) -> Awaitable[Listed[ChargeLine] | Unknown]:
        return shop.provider.list_charges(start, cursor, Deadline.after(timeout_s))

    try:
        async for lines in pages(ask):
            await _write_down(shop, lines, grace)
            newest = max(newest, lines[-1].created_at)
    except BooksUnanswered as error:
        raise Unavailable(str(error)) from error
    async with shop.database.primary.transaction() as tx:
        # No further than the provider's clock has been seen, which may not be ours.
        await orphan_charges.move_walk(tx, PROVIDER, newest)


async def _write_down(shop: Shop, lines: Sequence[ChargeLine], grace: timedelta) -> None:
    primary = shop.database.primary
    booked = await select_booked_payments(primary, ids_in(line.charge_key for line in lines))
    found = [one for line in lines if (one := _orphan(line, booked, grace)) is not None]
    if not found:
        return
    async with primary.transaction() as tx:
        new = await orphan_charges.insert_orphans(tx, found)
        await insert_events(tx, [_event("orphan_charge_found", orphan) for orphan in new])
    if new:
        shop.changed()
    shop.counts.orphans_found_total += len(new)
    for orphan in new:
        log.error("charge without a payment", **_named(orphan), reason=orphan.detail)


def _orphan(
    line: ChargeLine, booked: dict[UUID, BookedPayment], grace: timedelta
) -> NewOrphan | None:
    """Never a payment in flight: only one that is not there, or that has failed for good."""
    key = id_of(line.charge_key)
    payment = booked.get(key) if key is not None else None
    if payment is not None and payment.state not in LOST:
        return None
    if line.status != "pending" and not has_money(line):
        return None
    if payment is None and datetime.now(UTC) - line.created_at < grace:
        return None  # the next walk, which overlaps, sees it again
    detail = "there is no such payment" if payment is None else f"the payment is {payment.state}"
    return NewOrphan(
        line.charge_key, line.charge_id, line.amount.amount_minor, line.amount.currency, detail
    )


async def give_back(shop: Shop, orphan: Orphan) -> None:
    """Void or refund what there is of it, once, whoever tries; what does not work is tried again.

    Never raises: one that can not be given back must not keep the others waiting.
    """
    deadline = Deadline.after(shop.settings.provider_timeout_ms / 1000)
    try:
        line = await shop.provider.find_line(orphan.charge_key, deadline)
        if not isinstance(line, ChargeLine):
            log.warning("orphan not found", **_named(orphan), reason=line.reason)
            return
        if line.status == "declined" or (line.status == "approved" and not has_money(line)):
            await _returned(shop, orphan, _how(line))
            return
        if line.status == "approved":
            order = return_order(line)
            outcome = await _send(shop, order, deadline)
            if isinstance(outcome, Approved):
                await _returned(shop, orphan, f"{order.kind} {outcome.reference}")
            else:
                log.warning("orphan not given back yet", **_named(orphan), outcome=repr(outcome))
    except Problem as error:
        shop.rounds_of("orphans").errors_total += 1
        log.warning("orphan not given back yet", **_named(orphan), error=repr(error))
    except Exception:
        shop.rounds_of("orphans").errors_total += 1
        log.exception("orphan can not be given back", **_named(orphan))


def return_order(line: ChargeLine) -> OperationOrder:
    """What takes all the money out of a charge that stands.

    Its key is the same for everybody who sees the charge as it is now: they give it back once.
    """
    kind: Kind = "refund" if line.captured_minor else "void"
    left_minor = line.captured_minor - line.refunded_minor
    name = f"{line.charge_id} {kind} {line.captured_minor} {line.refunded_minor}"
    return OperationOrder(
        operation_id=uuid5(KEYS, name),
        payment_id=line.charge_key,
        charge_id=line.charge_id,
        kind=kind,
        amount_minor=left_minor if line.captured_minor else line.amount.amount_minor,
        currency=line.amount.currency,
    )


async def _send(shop: Shop, order: OperationOrder, deadline: Deadline) -> ChargeOutcome:
    if order.kind == "void":
        return await shop.provider.void(order, deadline)
    return await shop.provider.refund(order, deadline)


def _how(line: ChargeLine) -> str:
    if line.status == "declined":
        return "declined: nothing was taken"
    return "refunded" if gave_all_back(line) else "voided"


async def _returned(shop: Shop, orphan: Orphan, detail: str) -> None:
    async with shop.database.primary.transaction() as tx:
        first = await orphan_charges.return_orphan(tx, orphan.charge_key, detail)
        if first:
            await insert_events(tx, [_event("orphan_charge_returned", orphan)])
    if first:
        shop.changed()
        shop.counts.orphans_returned_total += 1
        log.info("orphan given back", **_named(orphan), how=detail)


def _event(name: str, orphan: Orphan) -> Event:
    payload = {
        "charge_id": orphan.charge_id,
        "amount_minor": orphan.amount_minor,
        "currency": orphan.currency,
    }
    return Event(name, orphan.charge_key, payload)


def _named(orphan: Orphan) -> dict[str, object]:
    return {
        "charge_key": orphan.charge_key,
        "charge_id": orphan.charge_id,
        "amount_minor": orphan.amount_minor,
        "currency": orphan.currency,
    }
