"""Rules of payments: what was captured, voided and given back, and that none is forgotten."""

from __future__ import annotations

from typing import Final

from services.data.rules import Rule

PAID: Final = (
    "an order that is authorized, paid or refunded has one payment, and its sums are in that state"
)
LATE: Final = "money that came for an order that had ended is given back, or is about to be"
CAPTURES: Final = "what is captured and being captured is the sum of automatic amount and captures"
REFUNDED: Final = "what is refunded and being refunded is the sum of refunds, of what was captured"
VOIDED: Final = "what is voided has one successful void and no captures"
FOLLOWED: Final = "reconcile asks about every unsettled payment in time"
ASKED: Final = "reconcile asks about every unsettled capture, void and refund in time"

PAYMENT_RULES: Final = (
    Rule(
        "payments",
        PAID,
        "select count(*) from payments where state = 'SUCCESS'",
        """
        select o.order_id, o.state, o.total_minor, count(p.payment_id) as successes,
            sum(p.amount_minor) as amount_minor, sum(p.captured_minor) as captured_minor,
            sum(p.refunded_minor) as refunded_minor
        from orders o left join payments p on p.customer_id = o.customer_id
            and p.order_id = o.order_id and p.state = 'SUCCESS' and p.voided_at is null
        group by o.customer_id, o.order_id
        having (o.state in ('authorized', 'paid', 'refunded') and count(p.payment_id) <> 1)
            or (o.state = 'placed' and count(p.payment_id) > 0)
            or (o.state = 'authorized' and sum(p.captured_minor) > 0)
            or (o.state in ('paid', 'refunded') and sum(p.captured_minor) = 0)
            or (o.state = 'refunded' and sum(p.refunded_minor) <> sum(p.captured_minor))
            or (o.state = 'paid' and sum(p.refunded_minor) = sum(p.captured_minor)
                and sum(p.capturing_minor) = 0)
            or bool_or(p.amount_minor <> o.total_minor or p.currency <> o.currency)
        """,
    ),
    Rule(
        "payments",
        LATE,
        """
        select count(*) from payments p join orders o using (customer_id, order_id)
        where p.state = 'SUCCESS' and o.state in ('expired', 'cancelled')
        """,
        """
        select p.payment_id, o.state, p.captured_minor, p.voided_at
        from payments p join orders o using (customer_id, order_id)
        where p.state = 'SUCCESS' and o.state in ('expired', 'cancelled')
            and p.voided_at is null and not exists (
                select from payment_operations x
                where x.customer_id = p.customer_id and x.payment_id = p.payment_id
                    and x.cause = 'order_ended'
                    and x.kind = case p.capture_method when 'manual' then 'void' else 'refund' end
            )
        """,
    ),
    Rule(
        "payments",
        CAPTURES,
        "select count(*) from payments where state = 'SUCCESS'",
        """
        select p.payment_id, p.state, p.captured_minor, p.capturing_minor, x.done_minor,
            x.unsettled_minor
        from payments p left join (
            select customer_id, payment_id,
                sum(amount_minor) filter (where state = 'SUCCESS') as done_minor,
                sum(amount_minor) filter (where state in ('INIT', 'PENDING', 'UNKNOWN'))
                    as unsettled_minor
            from payment_operations where kind = 'capture' group by customer_id, payment_id
        ) x using (customer_id, payment_id)
        where p.capturing_minor <> coalesce(x.unsettled_minor, 0)
            or p.captured_minor <> coalesce(x.done_minor, 0) + case
                when p.state = 'SUCCESS' and p.capture_method = 'automatic' then p.amount_minor
                else 0 end
        """,
    ),
    Rule(
        "payments",
        REFUNDED,
        "select count(*) from payments where state = 'SUCCESS'",
        """
        select p.payment_id, p.state, p.refunded_minor, p.refunding_minor, x.done_minor,
            x.unsettled_minor
        from payments p left join (
            select customer_id, payment_id,
                sum(amount_minor) filter (where state = 'SUCCESS') as done_minor,
                sum(amount_minor) filter (where state in ('INIT', 'PENDING', 'UNKNOWN'))
                    as unsettled_minor
            from payment_operations where kind = 'refund' group by customer_id, payment_id
        ) x using (customer_id, payment_id)
        where p.refunding_minor <> coalesce(x.unsettled_minor, 0)
            or p.refunded_minor <> coalesce(x.done_minor, 0)
            or greatest(p.captured_minor + p.capturing_minor, 0) > p.amount_minor
            or p.refunded_minor + p.refunding_minor > p.captured_minor
        """,
    ),
    Rule(
        "payments",
        VOIDED,
        "select count(*) from payments where voided_at is not null",
        """
        select p.payment_id, p.voided_at, count(x.operation_id) as voids
        from payments p left join payment_operations x on x.customer_id = p.customer_id
            and x.payment_id = p.payment_id and x.kind = 'void' and x.state = 'SUCCESS'
        group by p.customer_id, p.payment_id
        having (p.voided_at is not null) <> (count(x.operation_id) = 1)
            or (p.voided_at is not null and p.captured_minor > 0)
        """,
    ),
    Rule(
        "payments",
        "an unsettled payment keeps the stock of its order, until its time is over",
        "select count(*) from payments where state in ('INIT', 'PENDING', 'UNKNOWN')",
        """
        select p.payment_id, p.state, h.variant_id, h.state as hold, h.paying_until
        from payments p join stock_holds h using (customer_id, order_id)
        where p.state in ('INIT', 'PENDING', 'UNKNOWN') and h.state <> 'paying'
            and (h.state = 'expired' and h.paying_until <= h.resolved_at) is not true
        """,
    ),
    Rule(
        "payments",
        "stock is kept for a payment only while there is one",
        "select count(*) from stock_holds where state = 'paying'",
        """
        select h.order_id, h.variant_id from stock_holds h
        where h.state = 'paying' and not exists (
            select from payments p
            where p.customer_id = h.customer_id and p.order_id = h.order_id
                and p.state in ('INIT', 'PENDING', 'UNKNOWN')
        )
        """,
    ),
    Rule(
        "payments",
        FOLLOWED,
        "select count(*) from payments where state in ('INIT', 'PENDING', 'UNKNOWN')",
        """
        select payment_id, state, next_check_at from payments
        where state in ('INIT', 'PENDING', 'UNKNOWN')
            and next_check_at < now() - interval '1 minute'
        """,
    ),
    Rule(
        "payments",
        ASKED,
        "select count(*) from payment_operations where state in ('INIT', 'PENDING', 'UNKNOWN')",
        """
        select operation_id, kind, state, next_check_at from payment_operations
        where state in ('INIT', 'PENDING', 'UNKNOWN')
            and next_check_at < now() - interval '1 minute'
        """,
    ),
)
