"""What must hold once a world is at rest: its books, the provider's, and what clients were told."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from services.business.order_states import COMES_FROM
from services.data.ledger import PROVIDER_CLEARING, SALES, UNAPPLIED_RECEIPTS
from services.data.orders import Order
from services.data.payments import Payment
from tests.simulation.tables import UNSETTLED, Tables
from tests.simulation.world import RECEIVED, World

ENDED = ("expired", "cancelled")


def violations(world: World) -> list[str]:
    """Sentences of what does not hold; none in a world as it should be."""
    tables = world.database.tables
    payments = [one.row for one in tables.payments.values()]
    return [
        *world.violations,
        *_unfinished(tables),
        *(broken for payment in payments for broken in _charged(world, payment)),
        *_charged_for_nothing(world),
        *(broken for order in tables.orders.values() for broken in _order(tables, order)),
        *_ledger(world, payments),
        *_stock(world),
        *_moves(tables),
        *_answers(world),
    ]


def _unfinished(tables: Tables) -> Iterator[str]:
    for one in (*tables.payments.values(), *tables.operations.values()):
        if one.row.state in UNSETTLED:
            yield f"{type(one.row).__name__} stays {one.row.state}"
    for webhook in tables.webhooks.values():
        if webhook.state == "waiting":
            yield "a webhook stays waiting"
    for hold in tables.holds.values():
        if hold.state in ("held", "paying"):
            yield f"stock stays {hold.state}"


def _charged(world: World, payment: Payment) -> Iterator[str]:
    """A payment is what the provider has: charged once if SUCCESS, and else not at all."""
    charge = world.provider.charges.get(payment.payment_id)
    approved = charge is not None and charge.decision == "approved"
    if approved != (payment.state == "SUCCESS"):
        yield f"{payment.state}, and the provider has {charge and charge.decision}"
    if charge is None or payment.state != "SUCCESS":
        return
    if charge.taken != 1:
        yield f"charged {charge.taken} times"
    ours = (payment.captured_minor, payment.refunded_minor, payment.voided_at is not None)
    theirs = (charge.captured_minor, charge.refunded_minor, charge.voided)
    if ours != theirs:
        yield f"captured, refunded, voided: {ours}, and at the provider {theirs}"
    if payment.capturing_minor or payment.refunding_minor:
        yield "a sum stays reserved"


def _charged_for_nothing(world: World) -> Iterator[str]:
    known = world.database.tables
    if world.provider.charges.keys() - known.payments.keys():
        yield "the provider has a charge of no payment"
    for operation_id, record in world.provider.operations.items():
        ours = known.operations.get(operation_id)
        if ours is None:
            yield "the provider has an operation that nobody asked for"
        elif (ours.row.state == "SUCCESS") != (record.decision == "approved"):
            yield f"{ours.row.kind} is {ours.row.state}, and at the provider {record.decision}"


def _order(tables: Tables, order: Order) -> Iterator[str]:
    """Paid exactly if it is charged; what came too late is given back."""
    won = [
        one.row
        for one in tables.payments.values()
        if one.row.order_id == order.order_id and one.row.state == "SUCCESS"
    ]
    live = [one for one in won if one.voided_at is None]
    captured = sum(one.captured_minor for one in won)
    kept = captured - sum(one.refunded_minor for one in won)
    if order.state in ("authorized", "paid", "refunded") and len(live) != 1:
        yield f"{order.state} by {len(live)} payments"
    if order.state == "placed":
        yield "an order stays placed"
    if order.state == "paid" and kept == 0:
        yield "paid and nothing kept"
    if order.state == "authorized" and captured:
        yield "authorized and captured"
    if order.state == "refunded" and kept:
        yield f"refunded and {kept} kept"
    if order.state in ENDED and (kept or any(one.captured_minor == 0 for one in live)):
        yield f"{order.state} and {kept} kept of {len(live)} payments"


def _ledger(world: World, payments: list[Payment]) -> Iterator[str]:
    """Ledger = books = the provider's books."""
    transfers = world.database.tables.transfers
    charges = world.provider.charges.values()
    balance = {
        account: sum(one.amount_minor for one in transfers if one.debit_account == account)
        - sum(one.amount_minor for one in transfers if one.credit_account == account)
        for account in (PROVIDER_CLEARING, SALES, UNAPPLIED_RECEIPTS)
    }
    there = sum(one.captured_minor - one.refunded_minor for one in charges)
    here = sum(one.captured_minor - one.refunded_minor for one in payments)
    if not balance[PROVIDER_CLEARING] == there == here:
        yield f"ledger {balance[PROVIDER_CLEARING]}, books {here}, provider {there}"
    if balance[UNAPPLIED_RECEIPTS]:
        yield f"{-balance[UNAPPLIED_RECEIPTS]} are owed to somebody"
    if len({(one.cause, one.cause_id) for one in transfers}) != len(transfers):
        yield "booked twice"


def _stock(world: World) -> Iterator[str]:
    tables = world.database.tables
    available, held, sold = tables.stock[world.variant]
    of_orders = sum(
        tables.holds[key].quantity
        for key, order in tables.orders.items()
        if order.state in ("authorized", "paid", "refunded")
    )
    if (available, held, sold) != (RECEIVED - of_orders, 0, of_orders):
        yield f"stock {available, held, sold} with {of_orders} ordered"


def _moves(tables: Tables) -> Iterator[str]:
    for move in tables.moves:
        if move.was not in COMES_FROM[move.becomes]:  # type: ignore[index]  # a state, or a bug
            yield f"{move.was} became {move.becomes}"


def _answers(world: World) -> Iterator[str]:
    """What was told is so: one key made one thing, and a final state was the last one."""
    tables = world.database.tables
    made = {key[2]: row.subject_id for key, row in tables.keys.items()}
    subjects = {**tables.payments, **tables.operations}
    for told in world.told:
        ids: set[UUID] = told.ids | ({made[told.key]} if told.key in made else set())
        if len(ids) > 1:
            yield "one key made two things"
        # A request that a process had before it stood still is done when it goes on, because its
        # deadline begins then: also after another of the same key was refused meanwhile.
        if told.refused and not told.unanswered and told.key in made:
            yield f"told {told.refused[-1]} of what was made"
        if told.ids and told.key not in made:
            yield "acknowledged and lost"
        for state in told.states:
            if state not in UNSETTLED and any(subjects[one].row.state != state for one in told.ids):
                yield f"told {state}, and it is not"
    for key in world.cancelled:
        if tables.orders[key].state != "cancelled":
            yield "told cancelled, and it is not"
