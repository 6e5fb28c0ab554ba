"""Carts, the history of orders, and orders that are cancelled or authorised."""

from __future__ import annotations

from migrations.statements import execute_each

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CUSTOMERS = """
alter table customers
    drop constraint customers_kind_known,
    add constraint customers_kind_known check (kind in ('guest', 'operator'));

insert into customers (customer_id, kind)
    values ('00000000-0000-0000-0000-000000000001', 'operator')
"""

CARTS = """
create table carts (
    customer_id uuid not null,
    cart_id uuid not null,
    state text not null default 'open',
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint carts_pkey primary key (customer_id, cart_id),
    constraint carts_customer_fkey foreign key (customer_id) references customers,
    constraint carts_state_known check (state in ('open', 'ordered')),
    constraint carts_revision_range check (revision >= 1)
);

comment on table carts is 'what somebody means to buy; it holds no stock and fixes no price';

comment on column carts.revision is 'counts every change of the lines';

create index carts_stale_idx on carts (updated_at) where state = 'open';

create table cart_lines (
    customer_id uuid not null,
    cart_id uuid not null,
    variant_id uuid not null,
    quantity integer not null,
    added_at timestamptz not null default now(),
    constraint cart_lines_pkey primary key (customer_id, cart_id, variant_id),
    constraint cart_lines_cart_fkey foreign key (customer_id, cart_id)
        references carts on delete cascade,
    constraint cart_lines_variant_fkey foreign key (variant_id) references variants,
    constraint cart_lines_quantity_range check (quantity between 1 and 1000)
)
"""

ORDERS = """
alter table orders
    add column cart_id uuid,
    add constraint orders_cart_fkey foreign key (customer_id, cart_id) references carts,
    drop constraint orders_state_known,
    add constraint orders_state_known check (
        state in ('placed', 'authorized', 'paid', 'refunded', 'cancelled', 'expired')
    );

comment on column orders.cart_id is 'the cart it was made of, once';

create unique index orders_one_per_cart on orders (customer_id, cart_id) where cart_id is not null;

create table order_events (
    customer_id uuid not null,
    order_id uuid not null,
    order_event_id uuid not null default uuidv7(),
    from_state text,
    to_state text not null,
    cause text not null,
    created_at timestamptz not null default now(),
    constraint order_events_pkey primary key (customer_id, order_id, order_event_id),
    constraint order_events_order_fkey foreign key (customer_id, order_id) references orders,
    constraint order_events_moves check (from_state is distinct from to_state)
);

comment on table order_events is 'append-only: every move of an order, from null when it was placed';

comment on column order_events.cause is 'what moved it: placed, payment_captured, cancelled_by_customer, …';

insert into order_events (customer_id, order_id, from_state, to_state, cause, created_at)
    select customer_id, order_id, null, 'placed', 'placed', created_at from orders
    union all
    select customer_id, order_id, 'placed', state,
        case state when 'paid' then 'payment_captured' else 'not_paid_in_time' end, updated_at
    from orders where state <> 'placed';

alter table stock_holds
    add column paying_until timestamptz,
    drop constraint stock_holds_state_known,
    add constraint stock_holds_state_known check (
        state in ('held', 'paying', 'sold', 'expired', 'released')
    );

update stock_holds set paying_until = now() + interval '15 minutes' where state = 'paying';

alter table stock_holds
    add constraint stock_holds_paying_until check (state <> 'paying' or paying_until is not null);

comment on column stock_holds.state is
    'held until expires_at; paying until paying_until; sold, or given back: expired or released';

create index stock_holds_paying_idx on stock_holds (paying_until) where state = 'paying'
"""

KEYS = """
create index idempotency_keys_created_at_idx on idempotency_keys (created_at)
"""

GRANTS = """
grant select, insert, update, delete on carts, cart_lines to tercet_app;

grant select, insert on order_events to tercet_app;

grant select on carts, cart_lines, order_events to tercet_read
"""

DROPS = """
drop index idempotency_keys_created_at_idx;

drop index stock_holds_paying_idx;

alter table stock_holds drop constraint stock_holds_paying_until;

update stock_holds set state = 'expired' where state = 'released';

alter table stock_holds
    drop column paying_until,
    drop constraint stock_holds_state_known,
    add constraint stock_holds_state_known check (state in ('held', 'paying', 'sold', 'expired'));

comment on column stock_holds.state is
    'held until expires_at; paying while a payment is under way; sold or expired once, for good';

drop table order_events;

drop index orders_one_per_cart;

update orders set state = case
    when state in ('authorized', 'refunded') then 'paid' when state = 'cancelled' then 'expired'
    else state end;

alter table orders
    drop constraint orders_cart_fkey,
    drop column cart_id,
    drop constraint orders_state_known,
    add constraint orders_state_known check (state in ('placed', 'paid', 'expired'));

drop table cart_lines, carts;

delete from idempotency_keys where customer_id = '00000000-0000-0000-0000-000000000001';

delete from customers where kind = 'operator';

alter table customers
    drop constraint customers_kind_known,
    add constraint customers_kind_known check (kind in ('guest'))
"""


def upgrade() -> None:
    for part in (CUSTOMERS, CARTS, ORDERS, KEYS, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each(DROPS)
