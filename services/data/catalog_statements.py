"""The SQL of loading a catalog: staging tables, and set-wise statements from them to the tables.

The state of a staged product is null until it is known, then new, changed or unchanged.
"""

from __future__ import annotations

from typing import Final

STAGING: Final = """
create temporary table staged_products (
    row_no integer primary key,
    product_id uuid,
    source text, source_id text, slug text, title text, description_html text, vendor text,
    category_slug text, category_title text, tags text[], option_names text[],
    published boolean, content_sha256 bytea, currency text, price_from_minor bigint,
    popularity double precision, search_text text, created_at timestamptz,
    rating_count integer, rating_sum integer,
    state text
) on commit drop;
create temporary table staged_variants (
    row_no integer, position integer,
    variant_key text, title text, sku text, barcode text, option_values text[],
    price_minor bigint, compare_at_minor bigint, image_url text, weight_grams integer,
    quantity bigint, variant_id uuid
) on commit drop;
create temporary table staged_images (
    row_no integer, position integer, url text, alt text
) on commit drop;
create temporary table staged_related (
    row_no integer, position integer, related_product_id uuid
) on commit drop
"""

EMPTY_STAGING: Final = "truncate staged_products, staged_variants, staged_images, staged_related"

RESOLVE: Final = """
update staged_products s
set product_id = p.product_id,
    state = case when p.content_sha256 = s.content_sha256 then 'unchanged' else 'changed' end
from products p
where (p.source, p.source_id) = (s.source, s.source_id)
"""

# A slug is made once, with the product: an address that is known outside does not move.
CLASHES: Final = """
select s.row_no, p.source, p.source_id
from staged_products s join products p using (slug)
where s.state is null
union all
select row_no, source, first_source_id
from (
    select row_no, source, slug,
        first_value(source_id) over w as first_source_id,
        row_number() over w as place
    from staged_products where state is null
    window w as (partition by slug order by row_no)
) same_slug
where place > 1 and not exists (select from products p where p.slug = same_slug.slug)
order by row_no
"""

DROP_CLASHES: Final = "delete from staged_products where row_no = any($1::integer[])"

NAME_NEW: Final = """
update staged_products set product_id = coalesce(product_id, uuidv7()), state = 'new'
where state is null
"""

COUNTS: Final = "select state, count(*) as products from staged_products group by state"

INSERT_CATEGORIES: Final = """
insert into categories (category_slug, title)
select category_slug, min(category_title) from staged_products
where category_slug is not null and state <> 'unchanged'
group by category_slug
on conflict do nothing
"""

# Both the lists a product was in and those it is in now.
TOUCHED_CATEGORIES: Final = """
select category_slug from staged_products
where state <> 'unchanged' and category_slug is not null
union
select p.category_slug from products p join staged_products s using (product_id)
where s.state = 'changed' and p.category_slug is not null
"""

INSERT_PRODUCTS: Final = """
insert into products (
    product_id, slug, title, description_html, vendor, category_slug, tags, option_names,
    published, source, source_id, content_sha256, currency, price_from_minor, popularity,
    search_text, created_at, updated_at
)
select
    product_id, slug, title, description_html, vendor, category_slug, tags, option_names,
    published, source, source_id, content_sha256, currency, price_from_minor, popularity,
    search_text, coalesce(created_at, now()), coalesce(created_at, now())
from staged_products where state = 'new'
order by row_no
"""

UPDATE_PRODUCTS: Final = """
update products p
set title = s.title, description_html = s.description_html, vendor = s.vendor,
    category_slug = s.category_slug, tags = s.tags, option_names = s.option_names,
    published = s.published, content_sha256 = s.content_sha256, currency = s.currency,
    price_from_minor = s.price_from_minor, search_text = s.search_text, updated_at = now()
from staged_products s
where s.state = 'changed' and p.product_id = s.product_id
"""

# A new variant starts its stock with what the file says; from then on stock has a life of its
# own, and an import never touches it again.
WRITE_VARIANTS: Final = """
with written as (
    insert into variants as v (
        variant_id, product_id, variant_key, position, title, sku, barcode, option_values,
        currency, price_minor, compare_at_minor, image_url, weight_grams
    )
    select
        coalesce(sv.variant_id, uuidv7()), s.product_id, sv.variant_key, sv.position, sv.title,
        sv.sku, sv.barcode, sv.option_values, s.currency, sv.price_minor, sv.compare_at_minor,
        sv.image_url, sv.weight_grams
    from staged_variants sv join staged_products s using (row_no)
    where s.state <> 'unchanged'
    order by sv.row_no, sv.position
    on conflict on constraint variants_key_key do update
    set position = excluded.position, title = excluded.title, sku = excluded.sku,
        barcode = excluded.barcode, option_values = excluded.option_values,
        currency = excluded.currency, price_minor = excluded.price_minor,
        compare_at_minor = excluded.compare_at_minor, image_url = excluded.image_url,
        weight_grams = excluded.weight_grams, retired_at = null
    returning new.variant_id, new.product_id, new.variant_key, old.variant_id is null as is_new
), first_stock as (
    insert into stock (variant_id, received, available)
    select w.variant_id, sv.quantity, sv.quantity
    from written w
    join staged_products s using (product_id)
    join staged_variants sv on (sv.row_no, sv.variant_key) = (s.row_no, w.variant_key)
    where w.is_new
    returning variant_id, received
)
insert into stock_journal (variant_id, kind, quantity, reason)
select variant_id, 'receive', received, $1 from first_stock where received > 0
"""

RETIRE_VARIANTS: Final = """
update variants v
set retired_at = now()
from staged_products s
where s.state = 'changed' and v.product_id = s.product_id and v.retired_at is null
    and not exists (
        select from staged_variants sv
        where (sv.row_no, sv.variant_key) = (s.row_no, v.variant_key)
    )
"""

DELETE_IMAGES: Final = """
delete from product_images i using staged_products s
where s.state = 'changed' and i.product_id = s.product_id
"""

INSERT_IMAGES: Final = """
insert into product_images (product_id, position, url, alt)
select s.product_id, i.position, i.url, i.alt
from staged_images i join staged_products s using (row_no)
where s.state <> 'unchanged'
"""

INSERT_RATINGS: Final = """
insert into product_ratings (product_id, rating_count, rating_sum)
select product_id, rating_count, rating_sum from staged_products
where state = 'new' and rating_count is not null
"""

INSERT_RELATED: Final = """
insert into related_products (product_id, position, related_product_id)
select s.product_id, r.position, r.related_product_id
from staged_related r
join staged_products s using (row_no)
join products related on related.product_id = r.related_product_id
where s.state = 'new'
"""

# The page of a changed product, and the pages that show it as a related one.
TAG_PRODUCTS: Final = """
insert into outbox (kind, name, aggregate_id)
select 'tag', 'product-' || product_id, product_id::text
from (
    select product_id from staged_products where state = 'changed'
    union
    select r.product_id from related_products r
    join staged_products s on s.product_id = r.related_product_id
    where s.state = 'changed'
) pages
"""

TAG_LISTS: Final = """
insert into outbox (kind, name, aggregate_id)
select 'tag', name, name from unnest($1::text[]) as name
"""

# What can be dropped and built again around a bulk load: foreign keys on the catalog's tables,
# and indexes that hold no constraint. The database itself writes both statements.
REBUILDABLE: Final = """
with tables as (
    select unnest(array[
        'products', 'product_images', 'variants', 'product_ratings', 'related_products',
        'stock', 'stock_journal'
    ]::regclass[]) as relid
)
select format('alter table %s drop constraint %I', conrelid::regclass, conname) as drop_it,
    format('alter table %s add constraint %I %s',
        conrelid::regclass, conname, pg_get_constraintdef(c.oid)) as build_it,
    2 as step
from pg_constraint c join tables on c.conrelid = relid where c.contype = 'f'
union all
select format('drop index %s', indexrelid::regclass), pg_get_indexdef(indexrelid), 1
from pg_index i join tables on i.indrelid = relid
where not exists (select from pg_constraint c where c.conindid = i.indexrelid)
order by step, build_it
"""

ANALYZE: Final = """
analyze products, product_images, variants, product_ratings, related_products, stock, categories
"""
