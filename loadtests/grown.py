"""A catalog of a size that a plan can go wrong at: tens of thousands of products, in seconds.

Made by the server itself. What the rows mean does not matter, only how many there are and how
their values are spread.
"""

from __future__ import annotations

import asyncpg

# Without triggers: the references are right by construction.
PREPARE = """
    set role none; set session_replication_role = replica; set synchronous_commit = off
"""

# All that no constraint needs; made of all rows at once they take a fraction of the time.
SELECT_INDEXES = """
    select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as made_by
    from pg_index
    where indrelid = any ($1::text[]::regclass[]) and not exists (
        select from pg_constraint where conindid = indexrelid)
"""

CATALOG = """
insert into categories (category_slug, title)
    select 'category-' || n, 'Category ' || n from generate_series(1, 50) n;

insert into products (product_id, slug, title, source, source_id, content_sha256, currency,
        price_from_minor, category_slug, popularity, vendor, created_at)
    select md5('product' || n)::uuid, 'product-' || n,
        (array['plain','woven','striped','faded','quilted','heavy'])[1 + n % 6] || ' '
            || (array['shirt','mug','lamp','chair','rug','jacket','kettle'])[1 + n % 7]
            || ' ' || n,
        'generated', n::text, '\\x00', 'USD', 100 + n::bigint * 7919 % 50000,
        'category-' || 1 + n % 50, (n::bigint * 104729 % 100000) / 100000.0,
        'vendor ' || n % 200, now() - n * interval '1 minute'
    from generate_series(1, $products) n;

insert into product_images (product_id, position, url)
    select md5('product' || n)::uuid, 1, '/pictures/' || n from generate_series(1, $products) n;

insert into variants (variant_id, product_id, variant_key, position, title, currency, price_minor)
    select md5('variant' || n || '/' || p)::uuid, md5('product' || n)::uuid, p::text, p,
        'size ' || p, 'USD', 100 + n::bigint * 7919 % 50000
    from generate_series(1, $products) n, generate_series(1, 2) p;

insert into stock (variant_id, received, available) select variant_id, 10, 10 from variants;

insert into product_ratings (product_id, rating_count, rating_sum)
    select md5('product' || n)::uuid, 3, 12 from generate_series(1, $products) n;

insert into related_products (product_id, position, related_product_id)
    select md5('product' || n)::uuid, 1, md5('product' || 1 + n % $products)::uuid
    from generate_series(1, $products) n
"""

# Orders of as many customers; all of it is over.
SALES = """
insert into customers (customer_id, kind)
    select md5('customer' || n)::uuid, 'guest' from generate_series(1, $orders) n;

insert into customer_tokens (token_sha256, customer_id, expires_at)
    select sha256(n::text::bytea), md5('customer' || n)::uuid, now() + interval '1 day'
    from generate_series(1, $orders) n;

insert into accounts (customer_id, email, email_key, password_hash)
    select md5('customer' || n)::uuid, n || '@example.com', n || '@example.com', ''
    from generate_series(1, $orders) n;

insert into guest_links (guest_id, customer_id)
    select md5('customer' || n)::uuid, md5('customer' || 1 + n % $orders)::uuid
    from generate_series(1, $orders) n;

insert into sessions (token_sha256, customer_id, expires_at)
    select sha256(('session' || n)::bytea), md5('customer' || n)::uuid, now() + interval '1 day'
    from generate_series(1, $orders) n;

insert into carts (customer_id, cart_id)
    select md5('customer' || n)::uuid, md5('cart' || n)::uuid from generate_series(1, $orders) n;

insert into cart_lines (customer_id, cart_id, variant_id, quantity)
    select md5('customer' || n)::uuid, md5('cart' || n)::uuid,
        md5('variant' || n || '/1')::uuid, 1
    from generate_series(1, $orders) n;

insert into orders (customer_id, order_id, state, currency, total_minor, hold_expires_at)
    select md5('customer' || n)::uuid, md5('order' || n)::uuid, 'paid', 'USD', 100, now()
    from generate_series(1, $orders) n;

insert into order_lines (customer_id, order_id, position, variant_id, title, quantity,
        unit_price_minor)
    select md5('customer' || n)::uuid, md5('order' || n)::uuid, 1,
        md5('variant' || n || '/1')::uuid, 'a', 1, 100
    from generate_series(1, $orders) n;

insert into stock_holds (customer_id, order_id, variant_id, quantity, state, expires_at,
        resolved_at)
    select md5('customer' || n)::uuid, md5('order' || n)::uuid, md5('variant' || n || '/1')::uuid,
        1, 'sold', now(), now()
    from generate_series(1, $orders) n;

insert into order_events (customer_id, order_id, from_state, to_state, cause)
    select md5('customer' || n)::uuid, md5('order' || n)::uuid, null, 'placed', 'placed'
    from generate_series(1, $orders) n;

insert into payments (customer_id, payment_id, order_id, state, amount_minor, captured_minor,
        currency, payment_method, charge_id, next_check_at)
    select md5('customer' || n)::uuid, md5('payment' || n)::uuid, md5('order' || n)::uuid,
        'SUCCESS', 100, 100, 'USD', 'tok', 'charge', now()
    from generate_series(1, $orders) n;

insert into idempotency_keys (customer_id, operation, idempotency_key, fingerprint, state,
        subject_id, lease_until)
    select md5('customer' || n)::uuid, 'place_order', n::text, '\\x00', 'running',
        md5('order' || n)::uuid, now()
    from generate_series(1, $orders) n;

insert into ledger_transfers (debit_account, credit_account, amount_minor, currency, cause,
        cause_id)
    select 'provider_clearing', 'sales', 100, 'USD', 'payment_captured', md5('payment' || n)::uuid
    from generate_series(1, $orders) n;

insert into outbox (kind, name, aggregate_id, published_at)
    select 'event', 'order_placed', n::text, now() from generate_series(1, $orders) n
"""

BIG = (
    "products",
    "product_images",
    "variants",
    "stock",
    "product_ratings",
    "related_products",
    "customers",
    "customer_tokens",
    "accounts",
    "guest_links",
    "sessions",
    "carts",
    "cart_lines",
    "orders",
    "order_events",
    "order_lines",
    "stock_holds",
    "payments",
    "idempotency_keys",
    "ledger_transfers",
    "outbox",
)

# All that refer to BIG ones, and BIG itself: first those to which nothing refers.
SELECT_REFERRING = """
    with recursive referring (id, steps) as (
        select id, 0 from unnest($1::text[]::regclass[]) as id
        union all
        select conrelid, steps + 1 from referring
        join pg_constraint on confrelid = id and contype = 'f' and conrelid <> id
    )
    select id::regclass::text as name from referring group by id order by max(steps) desc
"""


async def grow(dsn: str, products: int, *, orders: int) -> None:
    """Fill an empty, migrated database, as its superuser, and tell the planner about it."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(PREPARE)
        # Nothing to write ahead and to replay. What is logged may not refer to what is not.
        for row in await connection.fetch(SELECT_REFERRING, BIG):
            await connection.execute(f"alter table {row['name']} set unlogged")
        indexes = await connection.fetch(SELECT_INDEXES, BIG)
        await connection.execute("drop index " + ", ".join(row["name"] for row in indexes))
        for statements in (CATALOG, SALES):
            sized = statements.replace("$products", str(products))
            await connection.execute(sized.replace("$orders", str(orders)))
        await connection.execute("; ".join([*(row["made_by"] for row in indexes), "analyze"]))
    finally:
        await connection.close()
