"""Orders and payments as their customer reads them: each in one statement, so in one snapshot."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from services.data.orders import Order, OrderEvent, OrderKey, OrderLine
from services.data.own_reads import OwnReads
from services.data.payment_operations import PaymentOperation
from services.data.payments import Payment


class OwnOrder(NamedTuple):
    """An order with its lines, and its payments, moves and operations from the first on."""

    order: Order
    lines: list[OrderLine]
    payments: list[Payment]
    events: list[OrderEvent]
    operations: list[PaymentOperation]


class OwnPayment(NamedTuple):
    """A payment, and what was done with it from the first on."""

    payment: Payment
    operations: list[PaymentOperation]


# Whatever is added here has to be of one statement: two could be answered by two standbys. position
# is where the answering server stands, evaluated after the statement's snapshot was taken, so it is
# not behind what the snapshot shows.
SELECT_OWN_ORDER = """
    select o.customer_id, o.order_id, o.state, o.currency, o.total_minor, o.hold_expires_at,
        o.created_at, o.hold_expires_at <= now() as hold_is_over,
        array(
            select row(l.variant_id, l.title, l.quantity, l.unit_price_minor)
            from order_lines l
            where l.customer_id = o.customer_id and l.order_id = o.order_id order by l.position
        ) as lines,
        array(
            select row(p.customer_id, p.payment_id, p.order_id, p.state, p.amount_minor,
                p.currency, p.payment_method, p.charge_id, p.decline_code, p.detail,
                p.next_action_url, p.check_count, p.created_at, p.updated_at,
                p.capture_method, p.capturing_minor, p.captured_minor, p.refunding_minor,
                p.refunded_minor, p.voided_at)
            from payments p
            where p.customer_id = o.customer_id and p.order_id = o.order_id
            order by p.created_at, p.payment_id
        ) as payments,
        array(
            select row(e.from_state, e.to_state, e.cause, e.created_at) from order_events e
            where e.customer_id = o.customer_id and e.order_id = o.order_id
            order by e.order_event_id
        ) as events,
        array(
            select row(x.customer_id, x.operation_id, x.payment_id, x.kind, x.cause, x.state,
                x.amount_minor, x.currency, x.provider_reference, x.decline_code, x.detail,
                x.check_count, x.created_at, x.updated_at)
            from payment_operations x join payments p using (customer_id, payment_id)
            where p.customer_id = o.customer_id and p.order_id = o.order_id
            order by x.created_at, x.operation_id
        ) as operations,
        (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            else pg_current_wal_flush_lsn() end - '0/0'::pg_lsn)::bigint as position
    from orders o where o.customer_id = $1 and o.order_id = $2
"""

SELECT_OWN_PAYMENT = """
    select customer_id, payment_id, order_id, state, amount_minor, currency, payment_method,
        charge_id, decline_code, detail, next_action_url, check_count, created_at, updated_at,
        capture_method, capturing_minor, captured_minor, refunding_minor, refunded_minor, voided_at,
        array(
            select row(x.customer_id, x.operation_id, x.payment_id, x.kind, x.cause, x.state,
                x.amount_minor, x.currency, x.provider_reference, x.decline_code, x.detail,
                x.check_count, x.created_at, x.updated_at)
            from payment_operations x
            where x.customer_id = payments.customer_id
                and x.payment_id = payments.payment_id
            order by x.created_at, x.operation_id
        ) as operations,
        (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            else pg_current_wal_flush_lsn() end - '0/0'::pg_lsn)::bigint as position
    from payments where customer_id = $1 and payment_id = $2
"""


async def select_own_order(own: OwnReads, key: OrderKey) -> OwnOrder | None:
    row = await own.fetchrow(SELECT_OWN_ORDER, *key)
    if row is None:
        return None
    *order, lines, payments, events, operations, _ = row
    return OwnOrder(
        Order(*order),
        [OrderLine(*line) for line in lines],
        [Payment(*one) for one in payments],
        [OrderEvent(*event) for event in events],
        [PaymentOperation(*one) for one in operations],
    )


async def select_own_payment(
    own: OwnReads, customer_id: UUID, payment_id: UUID
) -> OwnPayment | None:
    row = await own.fetchrow(SELECT_OWN_PAYMENT, customer_id, payment_id)
    if row is None:
        return None
    *payment, operations, _ = row
    return OwnPayment(Payment(*payment), [PaymentOperation(*one) for one in operations])
