"""Accounts with passwords, their sessions, and the guests that they were before."""

from __future__ import annotations

from migrations.statements import execute_each

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CUSTOMERS = """
alter table customers
    drop constraint customers_kind_known,
    add constraint customers_kind_known
        check (kind in ('guest', 'customer', 'merchant', 'operator'));

comment on column customers.kind is 'the role: what its requests may do'
"""

ACCOUNTS = """
create table accounts (
    customer_id uuid not null,
    email text not null,
    email_key text not null,
    password_hash text not null,
    password_changed_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    disabled_at timestamptz,
    constraint accounts_pkey primary key (customer_id),
    constraint accounts_customer_fkey foreign key (customer_id) references customers,
    constraint accounts_email_key unique (email_key)
);

comment on column accounts.email_key is 'the address in the one form by which it is found';

create table guest_links (
    guest_id uuid not null,
    customer_id uuid not null,
    linked_at timestamptz not null default now(),
    constraint guest_links_pkey primary key (guest_id),
    constraint guest_links_guest_fkey foreign key (guest_id) references customers,
    constraint guest_links_customer_fkey foreign key (customer_id) references customers
);

comment on table guest_links is
    'guests that have logged in since: what is theirs is the account''s too';

create index guest_links_customer_idx on guest_links (customer_id)
"""

SESSIONS = """
create table sessions (
    session_id uuid not null default uuidv7(),
    token_sha256 bytea not null,
    customer_id uuid not null,
    user_agent text not null default '',
    created_at timestamptz not null default now(),
    last_used_at timestamptz not null default now(),
    expires_at timestamptz not null,
    ended_at timestamptz,
    constraint sessions_pkey primary key (session_id),
    constraint sessions_token_key unique (token_sha256),
    constraint sessions_customer_fkey foreign key (customer_id) references customers,
    constraint sessions_sha256_length check (octet_length(token_sha256) = 32)
);

comment on table sessions is
    'a token is 256 random bits; only its hash is kept, so a copy of this table opens nothing';

create index sessions_customer_idx on sessions (customer_id) where ended_at is null
"""

GRANTS = """
grant select, insert, update, delete on accounts, guest_links, sessions to tercet_app;

grant select on guest_links to tercet_read
"""

DROPS = """
drop table sessions, guest_links, accounts;

alter table customers
    drop constraint customers_kind_known,
    add constraint customers_kind_known check (kind in ('guest', 'operator')) not valid;

comment on column customers.kind is null
"""


def upgrade() -> None:
    for part in (CUSTOMERS, ACCOUNTS, SESSIONS, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each(DROPS)
