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

create index sessions_customer_idx on sessions (customer_id) where ended_at is null;

create index sessions_over_idx on sessions (least(ended_at, expires_at))
"""

TOKENS = """
create table account_tokens (
    token_sha256 bytea not null,
    kind text not null,
    email text not null,
    email_key text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    constraint account_tokens_pkey primary key (token_sha256),
    constraint account_tokens_kind_known check (kind in ('confirmation', 'reset')),
    constraint account_tokens_sha256_length check (octet_length(token_sha256) = 32)
);

comment on table account_tokens is
    'sent by mail: who has one reads the mails of this address, and may set its password, once';

create index account_tokens_email_idx on account_tokens (email_key) where used_at is null
"""

# Sessions and tokens can not be read by who reads the standbys; who has a hash may ask whose it is.
IDENTITIES = """
create function identities_of(tokens bytea[]) returns table (
    token_sha256 bytea, customer_id uuid, role text, session_id uuid, guests uuid[],
    expires_in_s int, is_idle boolean
) language sql stable security definer set search_path = public, pg_temp as $body$
    select t.token_sha256, c.customer_id, c.kind, t.session_id,
        array(
            select l.guest_id from guest_links l where l.customer_id = c.customer_id
            order by l.linked_at desc limit 50
        ),
        floor(extract(epoch from least(t.expires_at - now(), interval '1 day')))::int, false
    from (
        select k.token_sha256, k.customer_id, null::uuid as session_id, k.expires_at
        from customer_tokens k where k.token_sha256 = any(tokens)
        union all
        select s.token_sha256, s.customer_id, s.session_id, s.expires_at
        from sessions s where s.token_sha256 = any(tokens) and s.ended_at is null
    ) t join customers c on c.customer_id = t.customer_id
    where t.expires_at > now()
$body$;

revoke execute on function identities_of from public;

comment on function identities_of is
    'whose tokens these are, for standbys while the primary is away'
"""

TRIES = """
create table login_tries (
    try_key bytea not null,
    tried_at timestamptz[] not null,
    constraint login_tries_pkey primary key (try_key)
);

comment on table login_tries is
    'when somebody tried a password, oldest first; whose and from where is known by a keyed hash';

create table account_networks (
    customer_id uuid not null,
    network_key bytea not null,
    last_login_at timestamptz not null default now(),
    constraint account_networks_pkey primary key (customer_id, network_key),
    constraint account_networks_account_fkey foreign key (customer_id) references accounts
);

comment on table account_networks is
    'from where an account has logged in: there others can not delay its logins';

create function try_wait(
    tried_at timestamptz[], moment timestamptz, free int, most int, longest_s float8
) returns interval language sql immutable return (
    select greatest(
        interval '0',
        -- The one that has to leave the window before there is a place.
        case when count(*) >= most
            then (array_agg(tried order by tried desc))[most] + interval '15 minutes' - moment end,
        case when count(*) >= free
            then max(tried) + interval '1 second'
                * least(longest_s, power(2, least(count(*) - free, 30))) - moment end
    )
    from unnest(tried_at) as tried where tried > moment - interval '15 minutes'
);

comment on function try_wait is
    'how long the next try has to wait: none after `free` in 15 minutes is at once, each doubles'
    ' the wait up to longest_s, and there are no more than `most`'
"""

MAILS = """
create table mails (
    mail_id uuid not null default uuidv7(),
    recipient text not null,
    subject text not null,
    body text not null,
    state text not null default 'waiting',
    attempt_count integer not null default 0,
    next_attempt_at timestamptz not null default now(),
    detail text not null default '',
    created_at timestamptz not null default now(),
    constraint mails_pkey primary key (mail_id),
    constraint mails_state_known check (state in ('waiting', 'dead'))
);

comment on table mails is
    'to be sent, in the transaction that causes it; a mail that was sent is deleted';

create index mails_waiting_idx on mails (next_attempt_at) where state = 'waiting'
"""

GRANTS = """
grant select, insert, update, delete on accounts, guest_links, sessions, account_tokens,
    login_tries, account_networks, mails to tercet_app;

grant select on guest_links to tercet_read;

grant execute on function identities_of to tercet_read
"""

DROPS = """
drop function identities_of;

drop table mails, account_networks, login_tries, account_tokens, sessions, guest_links, accounts;

drop function try_wait;

alter table customers
    drop constraint customers_kind_known,
    add constraint customers_kind_known check (kind in ('guest', 'operator')) not valid;

comment on column customers.kind is null
"""


def upgrade() -> None:
    for part in (CUSTOMERS, ACCOUNTS, SESSIONS, TOKENS, IDENTITIES, TRIES, MAILS, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each(DROPS)
