"""The invariants of the data, each as a query that finds what breaks it, in one snapshot.

Every rule has a sentence, a count of what was looked at, and a query whose rows are the
violations. A part that adds a table adds its rules here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from services.data.sources import Primary

VIOLATIONS_SHOWN: Final = 20
TRIED: Final = "every webhook that waits is tried again in time"
HANDLED: Final = "no webhook has waited for longer than three days"
PUBLISHED: Final = "nothing waits to be published for more than a minute"
PAID: Final = (
    "an order that is authorized, paid or refunded has one payment, and its sums are in that state"
)
LATE: Final = "money that came for an order that had ended is given back, or is about to be"
CAPTURES: Final = "what is captured and being captured is the sum of automatic amount and captures"
REFUNDED: Final = "what is refunded and being refunded is the sum of refunds, of what was captured"
VOIDED: Final = "what is voided has one successful void and no captures"
FOLLOWED: Final = "reconcile asks about every unsettled payment in time"
ASKED: Final = "reconcile asks about every unsettled capture, void and refund in time"
BOOKED: Final = "every payment, capture and refund is booked once: amount, currency and accounts"
OWED: Final = "in each currency the provider owes us what was captured and not refunded"
UNAPPLIED: Final = "in each currency we owe what came for orders that had ended and did not go back"
COUNTED: Final = "every transfer of the ledger is in the revenue of analytics soon"
REVENUE: Final = "the revenue of analytics is what the ledger has of sales and refunds"
WIDTHS: Final = "hours of events are the sum of their minutes, and minutes of their seconds"
EVENTS: Final = "every event that was counted is in the hours of its type, or was dropped with them"
FEW: Final = " limit $1"  # a rule may be broken by every row of a large table

# As services/business/order_states.py has them; a test compares.
ALLOWED_MOVES: Final = """
    ('nothing', 'placed'), ('placed', 'authorized'), ('placed', 'paid'), ('placed', 'cancelled'),
    ('placed', 'expired'), ('authorized', 'paid'), ('authorized', 'cancelled'), ('paid', 'refunded')
"""


class Rule(NamedTuple):
    """checked: SQL that counts what the rule holds for; broken: SQL whose rows break it."""

    area: str
    sentence: str
    checked: str
    broken: str


class Finding(NamedTuple):
    """broken: up to VIOLATIONS_SHOWN rows that break the rule, as text, and if there are more."""

    rule: Rule
    checked_count: int
    broken: list[str]


RULES: Final = (
    Rule(
        "stock",
        "what came in is available, held or sold",
        "select count(*) from stock",
        """
        select variant_id, received, available, held, sold from stock
        where available + held + sold <> received or least(available, held, sold) < 0
        """,
    ),
    Rule(
        "stock",
        "what came in is the sum of the journal",
        "select count(*) from stock_journal",
        """
        select s.variant_id, s.received, coalesce(j.quantity, 0) as journal
        from stock s left join (
            select variant_id, sum(quantity) as quantity from stock_journal group by variant_id
        ) j using (variant_id)
        where s.received <> coalesce(j.quantity, 0)
        """,
    ),
    Rule(
        "stock",
        "what is held is held by orders",
        "select count(*) from stock_holds where state in ('held', 'paying')",
        """
        select s.variant_id, s.held, coalesce(h.quantity, 0) as by_orders
        from stock s left join (
            select variant_id, sum(quantity) as quantity from stock_holds
            where state in ('held', 'paying') group by variant_id
        ) h using (variant_id)
        where s.held <> coalesce(h.quantity, 0)
        """,
    ),
    Rule(
        "stock",
        "what is sold was sold by orders",
        "select count(*) from stock_holds where state = 'sold'",
        """
        select s.variant_id, s.sold, coalesce(h.quantity, 0) as by_orders
        from stock s left join (
            select variant_id, sum(quantity) as quantity from stock_holds
            where state = 'sold' group by variant_id
        ) h using (variant_id)
        where s.sold <> coalesce(h.quantity, 0)
        """,
    ),
    Rule(
        "orders",
        "the total is the sum of the lines",
        "select count(*) from orders",
        """
        select o.order_id, o.total_minor, sum(l.quantity * l.unit_price_minor) as lines_minor
        from orders o left join order_lines l using (customer_id, order_id)
        group by o.customer_id, o.order_id
        having o.total_minor is distinct from sum(l.quantity * l.unit_price_minor)
        """,
    ),
    Rule(
        "orders",
        "each line has one hold of its quantity, in the state of the order",
        "select count(*) from order_lines",
        """
        select o.order_id, o.state, l.variant_id, l.quantity, h.quantity as held, h.state as hold
        from orders o join order_lines l using (customer_id, order_id)
        left join stock_holds h using (customer_id, order_id, variant_id)
        where h.quantity is distinct from l.quantity
            or h.state <> all (case o.state
                when 'placed' then array['held', 'paying'] when 'expired' then array['expired']
                when 'cancelled' then array['released'] else array['sold'] end)
        """,
    ),
    Rule(
        "orders",
        "the history of an order begins where it was placed, has no gap and ends at its state",
        "select count(*) from order_events",
        """
        select o.order_id, o.state, e.order_event_id, e.was, e.from_state, e.to_state
        from orders o left join (
            select customer_id, order_id, order_event_id, from_state, to_state,
                lag(to_state) over moves as was,
                lead(order_event_id) over moves is null as is_last
            from order_events
            window moves as (partition by customer_id, order_id order by order_event_id)
        ) e using (customer_id, order_id)
        where e.order_event_id is null or e.was is distinct from e.from_state
            or (e.is_last and e.to_state <> o.state)
        """,
    ),
    Rule(
        "orders",
        "an order moves only as orders may",
        "select count(*) from order_events",
        f"""
        select order_id, from_state, to_state, cause from order_events
        where (coalesce(from_state, 'nothing'), to_state) not in ({ALLOWED_MOVES})
        """,  # noqa: S608  # nosec B608 - the list above
    ),
    Rule(
        "orders",
        "a cart is ordered if there is an order of it, with just its lines",
        "select count(*) from carts",
        """
        select c.cart_id, c.state, o.order_id from carts c
        left join orders o using (customer_id, cart_id)
        where (c.state = 'ordered') <> (o.order_id is not null)
            or (o.order_id is not null and exists (
                select from (
                    select variant_id, quantity from cart_lines
                    where customer_id = c.customer_id and cart_id = c.cart_id
                ) put full join (
                    select variant_id, quantity from order_lines
                    where customer_id = o.customer_id and order_id = o.order_id
                ) ordered using (variant_id, quantity)
                where put is null or ordered is null
            ))
        """,
    ),
    Rule(
        "flash sales",
        "what is claimed of a sale is claimed by orders",
        "select count(*) from flash_sales",
        """
        select s.flash_sale_id, s.quantity, s.claimed, coalesce(c.quantity, 0) as by_orders
        from flash_sales s left join (
            select flash_sale_id, sum(quantity) as quantity from flash_sale_claims
            where returned_at is null group by flash_sale_id
        ) c using (flash_sale_id)
        where s.claimed <> coalesce(c.quantity, 0) or s.claimed > s.quantity
        """,
    ),
    Rule(
        "flash sales",
        "no customer has more of a sale than one customer may have",
        "select count(*) from flash_sale_claims",
        """
        select s.flash_sale_id, c.customer_id, s.customer_limit, sum(c.quantity) as claimed
        from flash_sales s join flash_sale_claims c using (flash_sale_id)
        where c.returned_at is null
        group by s.flash_sale_id, c.customer_id having sum(c.quantity) > s.customer_limit
        """,
    ),
    Rule(
        "flash sales",
        "a claim is an order of its units alone, at the price of the sale and while it was open",
        "select count(*) from flash_sale_claims",
        """
        select c.order_id, c.flash_sale_id, c.quantity, c.created_at, l.variant_id, l.quantity
            as ordered, l.unit_price_minor
        from flash_sale_claims c join flash_sales s using (flash_sale_id)
        join orders o using (customer_id, order_id)
        left join order_lines l using (customer_id, order_id)
        where (l.variant_id, l.quantity, l.unit_price_minor, o.currency)
                is distinct from (s.variant_id, c.quantity, s.unit_price_minor, s.currency)
            or c.created_at < s.opens_at or c.created_at >= s.closes_at
        """,
    ),
    Rule(
        "flash sales",
        "units go back to the sale when their order ends unpaid, and not otherwise",
        "select count(*) from flash_sale_claims",
        """
        select c.order_id, o.state, c.flash_sale_id, c.quantity, c.returned_at
        from flash_sale_claims c join orders o using (customer_id, order_id)
        where (c.returned_at is not null) <> (o.state in ('expired', 'cancelled'))
        """,
    ),
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
    Rule(
        "ledger",
        BOOKED,
        """
        select count(*) from ledger_transfers
        where cause in ('payment_captured', 'payment_refunded')
        """,
        """
        with due as (
            select p.payment_id as cause_id, 'payment_captured' as cause, p.amount_minor,
                p.currency, 'provider_clearing from ' || case
                    when o.state in ('expired', 'cancelled') then 'unapplied_receipts'
                    else 'sales' end as accounts
            from payments p join orders o using (customer_id, order_id)
            where p.state = 'SUCCESS' and p.capture_method = 'automatic'
            union all
            select x.operation_id, case x.kind when 'capture' then 'payment_captured'
                    else 'payment_refunded' end, x.amount_minor, x.currency,
                case when x.kind = 'capture' then 'provider_clearing from sales'
                    when o.state in ('expired', 'cancelled')
                        then 'unapplied_receipts from provider_clearing'
                    else 'refunds from provider_clearing' end
            from payment_operations x join payments p using (customer_id, payment_id)
            join orders o using (customer_id, order_id)
            where x.state = 'SUCCESS' and x.kind in ('capture', 'refund')
        )
        select coalesce(d.cause_id, t.cause_id) as cause_id, cause, d.amount_minor, d.currency,
            d.accounts, t.bookings, t.amount_minor as booked_minor,
            t.currency as booked_currency, t.accounts as booked_accounts
        from due d full join (
            select cause_id, cause, count(*) as bookings, sum(amount_minor) as amount_minor,
                min(currency) as currency,
                min(debit_account || ' from ' || credit_account) as accounts
            from ledger_transfers where cause in ('payment_captured', 'payment_refunded')
            group by cause_id, cause
        ) t using (cause_id, cause)
        where (d.amount_minor, d.currency, 1, d.accounts)
            is distinct from (t.amount_minor, t.currency, t.bookings, t.accounts)
        """,
    ),
    Rule(
        "ledger",
        OWED,
        "select count(*) from ledger_transfers",
        """
        select currency, b.balance_minor, p.kept_minor from (
            select currency, sum(case when debit_account = 'provider_clearing'
                then amount_minor else -amount_minor end) as balance_minor
            from ledger_transfers where 'provider_clearing' in (debit_account, credit_account)
            group by currency
        ) b full join (
            select currency, sum(captured_minor - refunded_minor) as kept_minor
            from payments where state = 'SUCCESS' group by currency
        ) p using (currency)
        where coalesce(b.balance_minor, 0) <> coalesce(p.kept_minor, 0)
        """,
    ),
    Rule(
        "ledger",
        UNAPPLIED,
        """
        select count(*) from ledger_transfers
        where 'unapplied_receipts' in (debit_account, credit_account)
        """,
        """
        select currency, b.balance_minor, p.owed_minor from (
            select currency, sum(case when credit_account = 'unapplied_receipts'
                then amount_minor else -amount_minor end) as balance_minor
            from ledger_transfers where 'unapplied_receipts' in (debit_account, credit_account)
            group by currency
        ) b full join (
            select p.currency, sum(p.captured_minor - p.refunded_minor) as owed_minor
            from payments p join orders o using (customer_id, order_id)
            where p.state = 'SUCCESS' and o.state in ('expired', 'cancelled')
            group by p.currency
        ) p using (currency)
        where coalesce(b.balance_minor, 0) <> coalesce(p.owed_minor, 0)
        """,
    ),
    Rule(
        "idempotency",
        "every key stands for what it has made, which exists",
        "select count(*) from idempotency_keys",
        """
        select k.operation, k.idempotency_key, k.subject_id from idempotency_keys k
        where not exists (
            select from orders o where k.operation in ('place_order', 'claim_flash_sale')
                and o.customer_id = k.customer_id and o.order_id = k.subject_id
            union all
            select from payments p where k.operation = 'pay_order'
                and p.customer_id = k.customer_id and p.payment_id = k.subject_id
            union all
            select from flash_sales s where k.operation = 'create_flash_sale'
                and s.flash_sale_id = k.subject_id
            union all
            select from payment_operations x where k.operation = x.kind
                and x.operation_id = k.subject_id
        )
        """,
    ),
    Rule(
        "idempotency",
        "every order, payment and operation on one of the last day was made by a key",
        "select (select count(*) from orders) + (select count(*) from payments)",
        """
        select s.subject_id from (
            select customer_id, order_id as subject_id, created_at from orders
            union all select customer_id, payment_id, created_at from payments
            union all
            select '00000000-0000-0000-0000-000000000001', operation_id, created_at
            from payment_operations where cause = 'requested'
        ) s left join idempotency_keys k using (customer_id, subject_id)
        -- Keys are kept for 24 h. An hour less: they are deleted while this is read.
        where k.subject_id is null and s.created_at > now() - interval '23 hours'
        """,
    ),
    Rule(
        "webhooks",
        TRIED,
        "select count(*) from webhook_events where state = 'waiting'",
        """
        select provider, webhook_id, next_attempt_at from webhook_events
        where state = 'waiting' and next_attempt_at < now() - interval '1 minute'
        """,
    ),
    Rule(
        "webhooks",
        HANDLED,
        "select count(*) from webhook_events",
        """
        select provider, webhook_id, received_at, detail from webhook_events
        where state = 'waiting' and received_at < now() - interval '3 days'
        """,
    ),
    Rule(
        "webhooks",
        "an amount that is held for review was not booked",
        "select count(*) from payment_reviews",
        """
        select r.subject_id, r.seen_minor, r.seen_currency, t.cause
        from payment_reviews r join ledger_transfers t on t.cause_id = r.subject_id
        where (t.amount_minor, t.currency) = (r.seen_minor, r.seen_currency)
        """,
    ),
    Rule(
        "outbox",
        PUBLISHED,
        "select count(*) from outbox",
        """
        select outbox_id, kind, name, created_at from outbox
        where published_at is null and created_at < now() - interval '1 minute'
        """,
    ),
    Rule(
        "analytics",
        COUNTED,
        "select count(*) from ledger_transfers",
        """
        select t.cause, t.cause_id, t.created_at from ledger_transfers t
        left join counted_transfers c using (cause_id, cause)
        where c.cause_id is null and t.created_at < now() - interval '3 minutes'
        """,
    ),
    Rule(
        "analytics",
        REVENUE,
        "select count(*) from counted_transfers",
        """
        select currency, w.sales, w.sales_minor, w.refunds, w.refunds_minor, l.sales as booked,
            l.sales_minor as booked_minor, l.refunds as given_back,
            l.refunds_minor as given_back_minor
        from (
            select currency, sum(sales) as sales, sum(sales_minor) as sales_minor,
                sum(refunds) as refunds, sum(refunds_minor) as refunds_minor
            from revenue_windows where width_s = 3600 group by currency
        ) w full join (
            select currency,
                count(*) filter (where 'sales' in (debit_account, credit_account)) as sales,
                coalesce(sum(amount_minor)
                    filter (where 'sales' in (debit_account, credit_account)), 0) as sales_minor,
                count(*) filter (where 'refunds' in (debit_account, credit_account)) as refunds,
                coalesce(sum(amount_minor)
                    filter (where 'refunds' in (debit_account, credit_account)), 0)
                    as refunds_minor
            from ledger_transfers join counted_transfers using (cause_id, cause)
            where debit_account in ('sales', 'refunds') or credit_account in ('sales', 'refunds')
            group by currency
        ) l using (currency)
        where (w.sales, w.sales_minor, w.refunds, w.refunds_minor)
            is distinct from (l.sales, l.sales_minor, l.refunds, l.refunds_minor)
        """,
    ),
    Rule(
        "analytics",
        WIDTHS,
        "select count(*) from event_windows",
        """
        with sums as (
            select f.wide_s, date_bin(make_interval(secs => f.wide_s), w.starts_at, 'epoch')
                    as starts_at, w.type, sum(w.events) as events,
                sum(w.late_events) as late, sum(w.future_events) as future
            from event_windows w join (values (1, 60), (60, 3600)) as f (width_s, wide_s)
                using (width_s)
            where not exists (select from dropped_windows d where d.width_s = w.width_s
                and d.day = (w.starts_at at time zone 'UTC')::date)
            group by 1, 2, 3
        ), wide as (
            select w.width_s as wide_s, w.starts_at, w.type, w.events, w.late_events as late,
                w.future_events as future
            from event_windows w where w.width_s > 1 and not exists (
                select from dropped_windows d
                where d.width_s = case w.width_s when 60 then 1 else 60 end
                    and d.day = (w.starts_at at time zone 'UTC')::date)
        )
        select wide_s, starts_at, type, sums.events, wide.events as wide_events, sums.late,
            wide.late as wide_late, sums.future, wide.future as wide_future
        from sums full join wide using (wide_s, starts_at, type)
        where (sums.events, sums.late, sums.future)
            is distinct from (wide.events, wide.late, wide.future)
        """,
    ),
    Rule(
        "analytics",
        EVENTS,
        "select coalesce(sum(taken), 0) from event_totals",
        """
        select t.counted, t.late, t.future, w.events, w.late_events, w.future_events
        from (
            select coalesce(sum(counted), 0) as counted, coalesce(sum(late), 0) as late,
                coalesce(sum(future), 0) as future
            from event_totals
        ) t, (
            select coalesce(sum(events), 0) as events, coalesce(sum(late_events), 0) as late_events,
                coalesce(sum(future_events), 0) as future_events
            from (
                select events, late_events, future_events from event_windows where width_s = 3600
                union all
                select events, late_events, future_events from dropped_windows
                where width_s = 3600
            ) kept
        ) w
        where (t.counted, t.late, t.future) <> (w.events, w.late_events, w.future_events)
        """,
    ),
)


async def find_violations(
    primary: Primary, rules: tuple[Rule, ...] = RULES
) -> AsyncIterator[Finding]:
    """Check rule by rule, all against the same snapshot, while the shop goes on."""
    async with primary.transaction("repeatable read, read only") as tx:
        for rule in rules:
            checked_count = int(await tx.fetchval(rule.checked))
            rows = await tx.fetch(rule.broken + FEW, VIOLATIONS_SHOWN + 1)
            shown = [_text(row) for row in rows[:VIOLATIONS_SHOWN]]
            more = ["and more"] if len(rows) > VIOLATIONS_SHOWN else []
            yield Finding(rule, checked_count, shown + more)


def _text(row: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in dict(row).items())  # type: ignore[call-overload]  # a Record is a mapping
