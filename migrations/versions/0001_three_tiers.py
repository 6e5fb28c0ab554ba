"""The first schema: catalog, stock, customers, orders, payments, ledger, outbox.

Every constraint has a name, because the code maps names to problems. Tables of carts, orders and
payments carry customer_id in their primary key, so that they can be sharded by it.
"""

from __future__ import annotations

from migrations.statements import execute_each

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

CATALOG = """
create table categories (
    category_slug text not null,
    title text not null,
    constraint categories_pkey primary key (category_slug),
    constraint categories_slug_form check (category_slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$')
);

create table products (
    product_id uuid not null default uuidv7(),
    slug text not null,
    title text not null,
    description_html text not null default '',
    vendor text not null default '',
    category_slug text,
    tags text[] not null default '{}',
    option_names text[] not null default '{}',
    published boolean not null default true,
    source text not null,
    source_id text not null,
    content_sha256 bytea not null,
    currency text not null,
    price_from_minor bigint not null,
    popularity double precision not null default 0,
    search_text text not null default '',
    search_vector tsvector not null generated always as (
        setweight(to_tsvector('english'::regconfig, title), 'A')
        || setweight(to_tsvector('english'::regconfig, vendor), 'B')
        || setweight(to_tsvector('english'::regconfig, search_text), 'C')
    ) stored,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint products_pkey primary key (product_id),
    constraint products_slug_key unique (slug),
    constraint products_source_key unique (source, source_id),
    constraint products_category_fkey foreign key (category_slug) references categories,
    constraint products_slug_form check (
        slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and length(slug) <= 200
    ),
    constraint products_currency_form check (currency ~ '^[A-Z]{3}$'),
    constraint products_price_from_minor_range check (price_from_minor >= 0)
);

comment on column products.source is
    'where the product was imported from: shopify, google or generated';

comment on column products.source_id is
    'the handle or id it has there; an import is idempotent on (source, source_id)';

comment on column products.content_sha256 is
    'hash of what was imported, so that an unchanged product is not written again';

comment on column products.price_from_minor is
    'lowest price of its variants on sale, in minor units of currency: what lists sort by';

comment on column products.popularity is 'weight in lists, higher is more popular';

comment on column products.search_text is 'tags, options and plain description, for the search';

create index products_search_vector_idx on products using gin (search_vector);

create index products_title_trgm_idx on products using gin (title gin_trgm_ops);

create index products_popularity_idx on products (popularity, product_id)
    where published;

create index products_price_idx on products (price_from_minor, product_id)
    where published;

create index products_newest_idx on products (created_at, product_id)
    where published;

create index products_category_popularity_idx on products
    (category_slug, popularity, product_id) where published;

create index products_category_price_idx on products
    (category_slug, price_from_minor, product_id) where published;

create table product_images (
    product_id uuid not null,
    position integer not null,
    url text not null,
    alt text not null default '',
    constraint product_images_pkey primary key (product_id, position),
    constraint product_images_product_fkey foreign key (product_id)
        references products on delete cascade,
    constraint product_images_position_range check (position >= 1),
    constraint product_images_url_form check (url ~ '^(https?://|/)')
);

create table variants (
    variant_id uuid not null default uuidv7(),
    product_id uuid not null,
    variant_key text not null,
    position integer not null,
    title text not null,
    sku text not null default '',
    barcode text not null default '',
    option_values text[] not null default '{}',
    currency text not null,
    price_minor bigint not null,
    compare_at_minor bigint,
    image_url text,
    weight_grams integer,
    retired_at timestamptz,
    constraint variants_pkey primary key (variant_id),
    constraint variants_key_key unique (product_id, variant_key),
    constraint variants_product_fkey foreign key (product_id)
        references products on delete cascade,
    constraint variants_currency_form check (currency ~ '^[A-Z]{3}$'),
    constraint variants_price_minor_range check (price_minor >= 0),
    constraint variants_compare_at_minor_range check (compare_at_minor >= 0)
);

comment on column variants.variant_key is
    'what tells the variants of a product apart in its source: option values, or the id there';

comment on column variants.retired_at is
    'when an import no longer held it: kept for the orders that name it, not for sale';

create index variants_sku_idx on variants (sku) where sku <> '';

create table product_ratings (
    product_id uuid not null,
    rating_count integer not null,
    rating_sum integer not null,
    constraint product_ratings_pkey primary key (product_id),
    constraint product_ratings_product_fkey foreign key (product_id)
        references products on delete cascade,
    constraint product_ratings_range check (
        rating_count > 0 and rating_sum between rating_count and 5 * rating_count
    )
);

comment on table product_ratings is 'stars from 1 to 5: how many, and their sum';

create table related_products (
    product_id uuid not null,
    position integer not null,
    related_product_id uuid not null,
    constraint related_products_pkey primary key (product_id, position),
    constraint related_products_product_fkey foreign key (product_id)
        references products on delete cascade,
    constraint related_products_related_fkey foreign key (related_product_id)
        references products on delete cascade,
    constraint related_products_not_itself check (product_id <> related_product_id)
);

create index related_products_related_idx on related_products (related_product_id)
"""

STOCK = """
create table stock (
    variant_id uuid not null,
    received bigint not null,
    available bigint not null,
    held bigint not null default 0,
    sold bigint not null default 0,
    band text not null generated always as (
        case when available <= 0 then 'sold_out'
             when available <= 5 then 'few_left'
             else 'in_stock' end
    ) stored,
    constraint stock_pkey primary key (variant_id),
    constraint stock_variant_fkey foreign key (variant_id) references variants on delete cascade,
    constraint stock_available_range check (available >= 0),
    constraint stock_held_range check (held >= 0),
    constraint stock_sold_range check (sold >= 0),
    constraint stock_sum check (available + held + sold = received)
);

comment on table stock is 'one row a variant: the one truth about what can be sold';

comment on column stock.received is 'sum of the journal: all that ever came in, less corrections';

comment on column stock.band is
    'what a page may show; only a change of band, never of a count, makes pages be fetched again';

create table stock_journal (
    stock_journal_id uuid not null default uuidv7(),
    variant_id uuid not null,
    kind text not null,
    quantity bigint not null,
    reason text not null,
    created_at timestamptz not null default now(),
    constraint stock_journal_pkey primary key (stock_journal_id),
    constraint stock_journal_variant_fkey foreign key (variant_id) references variants,
    constraint stock_journal_kind_known check (kind in ('receive', 'adjust')),
    constraint stock_journal_quantity_range check (
        quantity <> 0 and (kind <> 'receive' or quantity > 0)
    )
);

comment on table stock_journal is 'append-only: every quantity that came in or was corrected';

create index stock_journal_variant_idx on stock_journal (variant_id)
"""

CUSTOMERS = """
create table customers (
    customer_id uuid not null default uuidv7(),
    kind text not null,
    created_at timestamptz not null default now(),
    constraint customers_pkey primary key (customer_id),
    constraint customers_kind_known check (kind in ('guest'))
);

create table customer_tokens (
    token_sha256 bytea not null,
    customer_id uuid not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    constraint customer_tokens_pkey primary key (token_sha256),
    constraint customer_tokens_customer_fkey foreign key (customer_id) references customers,
    constraint customer_tokens_sha256_length check (octet_length(token_sha256) = 32)
);

comment on table customer_tokens is
    'a token is 256 random bits; only its hash is kept, so a copy of this table opens nothing';

create index customer_tokens_customer_idx on customer_tokens (customer_id)
"""

ORDERS = """
create table orders (
    customer_id uuid not null,
    order_id uuid not null,
    state text not null,
    currency text not null,
    total_minor bigint not null,
    hold_expires_at timestamptz not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint orders_pkey primary key (customer_id, order_id),
    constraint orders_customer_fkey foreign key (customer_id) references customers,
    constraint orders_state_known check (state in ('placed', 'paid', 'expired')),
    constraint orders_currency_form check (currency ~ '^[A-Z]{3}$'),
    constraint orders_total_minor_range check (total_minor >= 0)
);

comment on column orders.hold_expires_at is
    'until when an unpaid order keeps its stock; a payment under way keeps it longer';

create table order_lines (
    customer_id uuid not null,
    order_id uuid not null,
    position integer not null,
    variant_id uuid not null,
    title text not null,
    quantity integer not null,
    unit_price_minor bigint not null,
    constraint order_lines_pkey primary key (customer_id, order_id, position),
    constraint order_lines_variant_key unique (customer_id, order_id, variant_id),
    constraint order_lines_order_fkey foreign key (customer_id, order_id) references orders,
    constraint order_lines_variant_fkey foreign key (variant_id) references variants,
    constraint order_lines_quantity_range check (quantity between 1 and 1000),
    constraint order_lines_unit_price_minor_range check (unit_price_minor >= 0)
);

comment on column order_lines.title is 'what the product was called when it was ordered';

comment on column order_lines.unit_price_minor is 'the price when it was ordered: it stays';

create table stock_holds (
    customer_id uuid not null,
    order_id uuid not null,
    variant_id uuid not null,
    quantity integer not null,
    state text not null,
    expires_at timestamptz not null,
    resolved_at timestamptz,
    constraint stock_holds_pkey primary key (customer_id, order_id, variant_id),
    constraint stock_holds_order_fkey foreign key (customer_id, order_id) references orders,
    constraint stock_holds_stock_fkey foreign key (variant_id) references stock,
    constraint stock_holds_quantity_range check (quantity > 0),
    constraint stock_holds_state_known check (state in ('held', 'paying', 'sold', 'expired')),
    constraint stock_holds_resolved check (
        (state in ('held', 'paying')) = (resolved_at is null)
    )
);

comment on column stock_holds.state is
    'held until expires_at; paying while a payment is under way; sold or expired once, for good';

create index stock_holds_expiry_idx on stock_holds (expires_at) where state = 'held';

create index stock_holds_variant_idx on stock_holds (variant_id)
    where state in ('held', 'paying')
"""

PAYMENTS = """
create table payments (
    customer_id uuid not null,
    payment_id uuid not null,
    order_id uuid not null,
    state text not null,
    amount_minor bigint not null,
    currency text not null,
    payment_method text not null,
    charge_id text,
    decline_code text,
    detail text not null default '',
    check_count integer not null default 0,
    next_check_at timestamptz not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint payments_pkey primary key (customer_id, payment_id),
    constraint payments_id_key unique (payment_id),
    constraint payments_order_fkey foreign key (customer_id, order_id) references orders,
    constraint payments_state_known check (
        state in ('INIT', 'PENDING', 'SUCCESS', 'FAILED', 'ERRORED', 'UNKNOWN')
    ),
    constraint payments_amount_minor_range check (amount_minor > 0),
    constraint payments_currency_form check (currency ~ '^[A-Z]{3}$'),
    constraint payments_success_has_charge check (state <> 'SUCCESS' or charge_id is not null)
);

comment on table payments is 'docs/payments.md has the table of states';

comment on column payments.payment_method is 'a token of the provider, never card data';

comment on column payments.charge_id is 'what the provider calls the charge';

comment on column payments.next_check_at is
    'when reconcile asks the provider, if the payment is not final by then';

create unique index payments_one_live_per_order on payments (customer_id, order_id)
    where state in ('INIT', 'PENDING', 'UNKNOWN', 'SUCCESS');

create index payments_unsettled_idx on payments (next_check_at)
    where state in ('INIT', 'PENDING', 'UNKNOWN');

create table idempotency_keys (
    customer_id uuid not null,
    operation text not null,
    idempotency_key text not null,
    fingerprint bytea not null,
    state text not null,
    subject_id uuid not null,
    response_status integer,
    response_body bytea,
    lease_until timestamptz not null,
    created_at timestamptz not null default now(),
    constraint idempotency_keys_pkey primary key (customer_id, operation, idempotency_key),
    constraint idempotency_keys_customer_fkey foreign key (customer_id) references customers,
    constraint idempotency_keys_state_known check (state in ('running', 'answered')),
    constraint idempotency_keys_answered check (
        (state = 'answered') = (response_status is not null and response_body is not null)
    )
);

comment on column idempotency_keys.operation is 'place_order or pay_order';

comment on column idempotency_keys.fingerprint is 'hash of path and body of the first request';

comment on column idempotency_keys.subject_id is 'the order or payment that the key made';

comment on column idempotency_keys.lease_until is
    'until when the first request may still be running; afterwards the subject tells the answer'
"""

LEDGER = """
create table ledger_accounts (
    account text not null,
    description text not null,
    constraint ledger_accounts_pkey primary key (account)
);

insert into ledger_accounts (account, description) values
    ('provider_clearing', 'money that the payment provider has taken for us and owes us'),
    ('sales', 'what customers have paid for');

create table ledger_transfers (
    transfer_id uuid not null default uuidv7(),
    debit_account text not null,
    credit_account text not null,
    amount_minor bigint not null,
    currency text not null,
    cause text not null,
    cause_id uuid not null,
    created_at timestamptz not null default now(),
    constraint ledger_transfers_pkey primary key (transfer_id),
    constraint ledger_transfers_cause_key unique (cause_id, cause),
    constraint ledger_transfers_debit_fkey foreign key (debit_account) references ledger_accounts,
    constraint ledger_transfers_credit_fkey foreign key (credit_account)
        references ledger_accounts,
    constraint ledger_transfers_two_accounts check (debit_account <> credit_account),
    constraint ledger_transfers_amount_minor_range check (amount_minor > 0),
    constraint ledger_transfers_currency_form check (currency ~ '^[A-Z]{3}$')
);

comment on table ledger_transfers is
    'append-only: each row debits one account and credits another, so the books always balance';

comment on column ledger_transfers.cause is 'what moved the money, once: payment_captured'
"""

OUTBOX = """
create table outbox (
    outbox_id bigint generated always as identity,
    kind text not null,
    name text not null,
    aggregate_id text not null,
    payload jsonb not null default '{}',
    created_at timestamptz not null default now(),
    claimed_until timestamptz,
    published_at timestamptz,
    constraint outbox_pkey primary key (outbox_id),
    constraint outbox_kind_known check (kind in ('tag', 'event'))
);

comment on table outbox is
    'written in the transaction that causes it, published by the relay after the commit';

comment on column outbox.kind is
    'tag: pages that carry it are old (name is the tag); event: something happened (name says what)';

comment on column outbox.claimed_until is
    'until when a relay is publishing it; one that died leaves it to the next';

create index outbox_unpublished_idx on outbox (outbox_id) where published_at is null;

create index outbox_published_idx on outbox (published_at) where published_at is not null
"""

GRANTS = """
grant usage on schema public to tercet_app, tercet_read;

grant select, insert, update, delete on all tables in schema public to tercet_app;

revoke update, delete on ledger_transfers, stock_journal from tercet_app;

revoke delete on products, variants, stock from tercet_app;

revoke insert, update, delete on ledger_accounts, alembic_version from tercet_app;

grant usage on all sequences in schema public to tercet_app;

grant select on all tables in schema public to tercet_read;

revoke select on customer_tokens, idempotency_keys from tercet_read
"""

DROPS = """
drop table outbox, ledger_transfers, ledger_accounts, idempotency_keys, payments, stock_holds,
    order_lines, orders, customer_tokens, customers, stock_journal, stock, related_products,
    product_ratings, variants, product_images, products, categories;

revoke usage on schema public from tercet_app, tercet_read
"""


def upgrade() -> None:
    for part in (CATALOG, STOCK, CUSTOMERS, ORDERS, PAYMENTS, LEDGER, OUTBOX, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each(DROPS)
