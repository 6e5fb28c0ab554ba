"""What providers tell by themselves, what nobody dares to book, and charges nobody asked for."""

from __future__ import annotations

from migrations.statements import execute_each

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WEBHOOKS = """
create table webhook_events (
    provider text not null,
    webhook_id text not null,
    payload bytea not null,
    state text not null default 'waiting',
    attempt_count integer not null default 0,
    next_attempt_at timestamptz not null default now(),
    detail text not null default '',
    received_at timestamptz not null default now(),
    handled_at timestamptz,
    constraint webhook_events_pkey primary key (provider, webhook_id),
    constraint webhook_events_state_known check (state in ('waiting', 'handled', 'ignored')),
    constraint webhook_events_handled check ((state = 'waiting') = (handled_at is null))
);

comment on table webhook_events is
    'what a provider said by itself, stored before it is handled; a webhook_id counts once';

comment on column webhook_events.state is
    'waiting also where the payment that it speaks of is not there yet';

create index webhook_events_waiting_idx on webhook_events (next_attempt_at)
    where state = 'waiting';

create index webhook_events_handled_idx on webhook_events (handled_at)
    where handled_at is not null
"""

REVIEWS = """
create table payment_reviews (
    payment_review_id uuid not null default uuidv7(),
    subject_id uuid not null,
    source text not null,
    expected_minor bigint not null,
    expected_currency text not null,
    seen_minor bigint not null,
    seen_currency text not null,
    detail text not null default '',
    created_at timestamptz not null default now(),
    resolved_at timestamptz,
    resolution text,
    constraint payment_reviews_pkey primary key (payment_review_id),
    constraint payment_reviews_resolved check (resolved_at is null or resolution is not null),
    constraint payment_reviews_once unique (subject_id, seen_minor, seen_currency)
);

comment on table payment_reviews is
    'a provider confirmed another amount or currency than was asked for: nothing was booked';

comment on column payment_reviews.subject_id is 'the payment, or the operation on a payment';

comment on column payment_reviews.resolution is 'what the operator found, and did about it';

create table orphan_charges (
    charge_key text not null,
    charge_id text not null,
    amount_minor bigint not null,
    currency text not null,
    state text not null default 'found',
    detail text not null default '',
    attempt_count integer not null default 0,
    next_attempt_at timestamptz not null default now(),
    found_at timestamptz not null default now(),
    returned_at timestamptz,
    constraint orphan_charges_pkey primary key (charge_key),
    constraint orphan_charges_state_known check (state in ('found', 'returned')),
    constraint orphan_charges_returned check ((state = 'returned') = (returned_at is not null)),
    constraint orphan_charges_amount_minor_range check (amount_minor > 0)
);

comment on table orphan_charges is
    'charges in the provider''s books that stand for no payment of ours: they are given back';

comment on column orphan_charges.charge_key is
    'the provider''s key of it: a payment_id if it contradicts a payment that has failed';

create index orphan_charges_found_idx on orphan_charges (next_attempt_at) where state = 'found';

create table provider_walks (
    provider text not null,
    walked_until timestamptz not null,
    next_walk_at timestamptz not null default now(),
    constraint provider_walks_pkey primary key (provider)
);

comment on table provider_walks is
    'up to when a provider''s list of charges was looked through for orphans';

comment on column provider_walks.next_walk_at is 'until then the walk is left to who has it'
"""

GRANTS = """
grant select, insert, update, delete on webhook_events to tercet_app;

grant select, insert, update on payment_reviews, orphan_charges, provider_walks to tercet_app;

grant select on webhook_events, payment_reviews, orphan_charges, provider_walks to tercet_read
"""


def upgrade() -> None:
    for part in (WEBHOOKS, REVIEWS, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each("drop table webhook_events, payment_reviews, orphan_charges, provider_walks")
