"""Rules of what comes and goes: keys of requests, webhooks, and events of the outbox."""

from __future__ import annotations

from typing import Final

from services.data.rules import Rule

TRIED: Final = "every webhook that waits is tried again in time"
HANDLED: Final = "no webhook has waited for longer than three days"
PUBLISHED: Final = "nothing waits to be published for more than a minute"

MESSAGE_RULES: Final = (
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
)
