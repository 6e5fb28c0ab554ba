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
PUBLISHED: Final = "nothing waits to be published for more than a minute"
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
        "a paid order has one successful payment of its total, and no other order has one",
        "select count(*) from payments where state = 'SUCCESS'",
        """
        select o.order_id, o.state, o.total_minor, count(p.payment_id) as successes,
            sum(p.amount_minor) as paid_minor
        from orders o left join payments p on p.customer_id = o.customer_id
            and p.order_id = o.order_id and p.state = 'SUCCESS'
        group by o.customer_id, o.order_id
        having (o.state = 'paid') <> (count(p.payment_id) = 1)
            or (count(p.payment_id) > 0 and sum(p.amount_minor) <> o.total_minor)
            or bool_or(p.currency <> o.currency)
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
        "reconcile asks about every unsettled payment in time",
        "select count(*) from payments where state in ('INIT', 'PENDING', 'UNKNOWN')",
        """
        select payment_id, state, next_check_at from payments
        where state in ('INIT', 'PENDING', 'UNKNOWN')
            and next_check_at < now() - interval '1 minute'
        """,
    ),
    Rule(
        "ledger",
        "every successful payment is booked once: amount, currency and accounts are right",
        "select count(*) from ledger_transfers where cause = 'payment_captured'",
        """
        select coalesce(p.payment_id, t.cause_id) as payment_id, p.amount_minor, p.currency,
            t.bookings, t.amount_minor as booked_minor, t.currency as booked_currency, t.accounts
        from (select * from payments where state = 'SUCCESS') p
        full join (
            select cause_id, count(*) as bookings, sum(amount_minor) as amount_minor,
                min(currency) as currency,
                min(debit_account || ' from ' || credit_account) as accounts
            from ledger_transfers where cause = 'payment_captured' group by cause_id
        ) t on t.cause_id = p.payment_id
        where (p.amount_minor, p.currency, 1, 'provider_clearing from sales')
            is distinct from (t.amount_minor, t.currency, t.bookings, t.accounts)
        """,
    ),
    Rule(
        "ledger",
        "in each currency the provider owes us what successful payments brought",
        "select count(*) from ledger_transfers",
        """
        select currency, b.balance_minor, p.paid_minor from (
            select currency, sum(case when debit_account = 'provider_clearing'
                then amount_minor else -amount_minor end) as balance_minor
            from ledger_transfers where 'provider_clearing' in (debit_account, credit_account)
            group by currency
        ) b full join (
            select currency, sum(amount_minor) as paid_minor
            from payments where state = 'SUCCESS' group by currency
        ) p using (currency)
        where coalesce(b.balance_minor, 0) <> coalesce(p.paid_minor, 0)
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
        )
        """,
    ),
    Rule(
        "idempotency",
        "every order and payment of the last day was made by a key",
        "select (select count(*) from orders) + (select count(*) from payments)",
        """
        select s.subject_id from (
            select customer_id, order_id as subject_id, created_at from orders
            union all select customer_id, payment_id, created_at from payments
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
