"""What is done with an authorised payment: captures, voids and refunds, and the sums they keep to."""

from __future__ import annotations

from migrations.statements import execute_each

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PAYMENTS = """
alter table payments
    add column capture_method text not null default 'automatic',
    add column capturing_minor bigint not null default 0,
    add column captured_minor bigint not null default 0,
    add column refunding_minor bigint not null default 0,
    add column refunded_minor bigint not null default 0,
    add column voided_at timestamptz,
    add column next_action_url text,
    add column escalated_at timestamptz;

update payments set captured_minor = amount_minor where state = 'SUCCESS';

alter table payments
    add constraint payments_capture_method_known check (
        capture_method in ('automatic', 'manual')
    ),
    add constraint payments_captured_range check (
        capturing_minor >= 0 and captured_minor >= 0
        and captured_minor + capturing_minor <= amount_minor
    ),
    add constraint payments_refunded_range check (
        refunding_minor >= 0 and refunded_minor >= 0
        and refunded_minor + refunding_minor <= captured_minor
    ),
    add constraint payments_captured_once_successful check (
        state = 'SUCCESS' or captured_minor + capturing_minor = 0
    ),
    add constraint payments_automatic_is_captured check (
        state <> 'SUCCESS' or capture_method <> 'automatic' or captured_minor = amount_minor
    ),
    add constraint payments_voided_has_no_captures check (
        voided_at is null or captured_minor + capturing_minor = 0
    );

comment on column payments.capture_method is
    'automatic: success is the money taken; manual: success is an authorisation, captured later';

comment on column payments.capturing_minor is 'in captures whose outcome is not known yet';

comment on column payments.refunding_minor is 'in refunds whose outcome is not known yet';

comment on column payments.next_action_url is
    'where the customer has to go before the provider decides (3-D Secure)';

comment on column payments.escalated_at is
    'when somebody was told that the provider gives no evidence of what became of it; once';

drop index payments_one_live_per_order;

create unique index payments_one_live_per_order on payments (customer_id, order_id)
    where state in ('INIT', 'PENDING', 'UNKNOWN', 'SUCCESS') and voided_at is null;

create table payment_operations (
    customer_id uuid not null,
    operation_id uuid not null,
    payment_id uuid not null,
    kind text not null,
    cause text not null default 'requested',
    state text not null,
    amount_minor bigint not null,
    currency text not null,
    provider_reference text,
    decline_code text,
    detail text not null default '',
    check_count integer not null default 0,
    next_check_at timestamptz not null,
    escalated_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint payment_operations_pkey primary key (customer_id, operation_id),
    constraint payment_operations_id_key unique (operation_id),
    constraint payment_operations_payment_fkey foreign key (customer_id, payment_id)
        references payments,
    constraint payment_operations_kind_known check (kind in ('capture', 'void', 'refund')),
    constraint payment_operations_cause_known check (cause in ('requested', 'order_ended')),
    constraint payment_operations_state_known check (
        state in ('INIT', 'PENDING', 'SUCCESS', 'FAILED', 'ERRORED', 'UNKNOWN')
    ),
    constraint payment_operations_amount_minor_range check (amount_minor > 0),
    constraint payment_operations_currency_form check (currency ~ '^[A-Z]{3}$')
);

comment on table payment_operations is
    'captures, voids and refunds; operation_id is their idempotency key at the provider';

comment on column payment_operations.cause is
    'requested by somebody, or order_ended: the money came after its order was given up';

create unique index payment_operations_one_void on payment_operations (customer_id, payment_id)
    where kind = 'void' and state in ('INIT', 'PENDING', 'UNKNOWN', 'SUCCESS');

create index payment_operations_payment_idx on payment_operations (customer_id, payment_id);

create index payment_operations_unsettled_idx on payment_operations (next_check_at)
    where state in ('INIT', 'PENDING', 'UNKNOWN');

comment on column idempotency_keys.operation is
    'place_order, pay_order, create_flash_sale, claim_flash_sale, capture, void or refund';

comment on column idempotency_keys.subject_id is
    'what the key made: an order, a payment, a flash sale, or an operation on a payment';

insert into ledger_accounts (account, description) values
    ('refunds', 'what customers were given back of what they had paid for'),
    ('unapplied_receipts', 'money that came for orders that had ended: owed to whoever paid it')
"""

GRANTS = """
grant select, insert, update on payment_operations to tercet_app;

grant select on payment_operations to tercet_read
"""

DROPS = """
drop table payment_operations;

delete from idempotency_keys where operation in ('capture', 'void', 'refund');

delete from ledger_transfers
    where 'refunds' in (debit_account, credit_account)
        or 'unapplied_receipts' in (debit_account, credit_account);

delete from ledger_accounts where account in ('refunds', 'unapplied_receipts');

comment on column idempotency_keys.operation is 'place_order or pay_order';

comment on column idempotency_keys.subject_id is 'the order or payment that the key made';

update payments set state = 'FAILED' where voided_at is not null;

drop index payments_one_live_per_order;

alter table payments
    drop constraint payments_capture_method_known,
    drop constraint payments_captured_range,
    drop constraint payments_refunded_range,
    drop constraint payments_captured_once_successful,
    drop constraint payments_automatic_is_captured,
    drop constraint payments_voided_has_no_captures,
    drop column capture_method,
    drop column capturing_minor,
    drop column captured_minor,
    drop column refunding_minor,
    drop column refunded_minor,
    drop column voided_at,
    drop column next_action_url,
    drop column escalated_at;

create unique index payments_one_live_per_order on payments (customer_id, order_id)
    where state in ('INIT', 'PENDING', 'UNKNOWN', 'SUCCESS')
"""


def upgrade() -> None:
    for part in (PAYMENTS, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each(DROPS)
