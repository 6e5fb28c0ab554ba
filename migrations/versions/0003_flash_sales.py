"""Flash sales: so many units, from one moment to another, so many a customer."""

from __future__ import annotations

from migrations.statements import execute_each

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FLASH_SALES = """
create table flash_sales (
    flash_sale_id uuid not null default uuidv7(),
    variant_id uuid not null,
    opens_at timestamptz not null,
    closes_at timestamptz not null,
    quantity bigint not null,
    claimed bigint not null default 0,
    customer_limit integer not null,
    unit_price_minor bigint not null,
    currency text not null,
    created_at timestamptz not null default now(),
    constraint flash_sales_pkey primary key (flash_sale_id),
    constraint flash_sales_variant_fkey foreign key (variant_id) references variants,
    constraint flash_sales_window check (closes_at > opens_at),
    constraint flash_sales_quantity_range check (quantity > 0),
    constraint flash_sales_claimed_range check (claimed between 0 and quantity),
    constraint flash_sales_customer_limit_range check (customer_limit between 1 and 1000),
    constraint flash_sales_unit_price_minor_range check (unit_price_minor >= 0),
    constraint flash_sales_currency_form check (currency ~ '^[A-Z]{3}$')
);

comment on column flash_sales.claimed is
    'units in claims that were not given back; never more than quantity';

create index flash_sales_variant_idx on flash_sales (variant_id);

create table flash_sale_claims (
    customer_id uuid not null,
    order_id uuid not null,
    flash_sale_id uuid not null,
    quantity integer not null,
    created_at timestamptz not null default now(),
    returned_at timestamptz,
    constraint flash_sale_claims_pkey primary key (customer_id, order_id),
    constraint flash_sale_claims_order_fkey foreign key (customer_id, order_id) references orders,
    constraint flash_sale_claims_sale_fkey foreign key (flash_sale_id) references flash_sales,
    constraint flash_sale_claims_quantity_range check (quantity between 1 and 1000)
);

comment on table flash_sale_claims is
    'an order placed at a flash sale; its units go back to the sale when the order ends unpaid';

create index flash_sale_claims_customer_idx on flash_sale_claims (flash_sale_id, customer_id)
    where returned_at is null
"""

GRANTS = """
grant select, insert, update on flash_sales, flash_sale_claims to tercet_app;

grant select on flash_sales, flash_sale_claims to tercet_read
"""


# An order of a claim stays, and so does its key, unless an order has the same.
DROPS = """
drop table flash_sale_claims, flash_sales;

update idempotency_keys c set operation = 'place_order'
where c.operation = 'claim_flash_sale' and not exists (
    select from idempotency_keys o where o.operation = 'place_order'
        and o.customer_id = c.customer_id and o.idempotency_key = c.idempotency_key
);

delete from idempotency_keys where operation in ('claim_flash_sale', 'create_flash_sale')
"""


def upgrade() -> None:
    for part in (FLASH_SALES, GRANTS):
        execute_each(part)


def downgrade() -> None:
    execute_each(DROPS)
