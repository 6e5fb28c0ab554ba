"""What was counted of behaviour events, and which entries of their log are in the counts."""

from __future__ import annotations

from alembic import op

from migrations.statements import execute_each

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What makes counting exact: entries, events and transfers that are counted, each written down in
# the transaction that counts it.
COUNTED = """
create table rolled_up_entries (
    entry_ms bigint not null,
    entry_seq bigint not null,
    events integer not null,
    constraint rolled_up_entries_pkey primary key (entry_ms, entry_seq)
) partition by range (entry_ms);

comment on table rolled_up_entries is
    'entries of the log that are counted: written with the counts, so that none counts twice';

create table unreadable_entries (
    entry_ms bigint not null,
    entry_seq bigint not null,
    reason text not null,
    body bytea not null,
    noted_at timestamptz not null default now(),
    constraint unreadable_entries_pkey primary key (entry_ms, entry_seq)
);

create table seen_events (
    day date not null,
    event_id uuid not null,
    constraint seen_events_pkey primary key (day, event_id)
) partition by range (day);

comment on column seen_events.day is 'of the event, or of its arrival where the two are far apart';

create table counted_transfers (
    cause_id uuid not null,
    cause text not null,
    constraint counted_transfers_pkey primary key (cause_id, cause)
);

comment on table counted_transfers is 'transfers of the ledger that are in revenue_windows';

create table event_totals (
    log_id text not null,
    day date not null,
    taken bigint not null default 0,
    counted bigint not null default 0,
    late bigint not null default 0,
    future bigint not null default 0,
    duplicates bigint not null default 0,
    unreadable bigint not null default 0,
    transfers bigint not null default 0,
    unknown_products bigint not null default 0,
    constraint event_totals_pkey primary key (log_id, day),
    constraint event_totals_whole check
        (taken = counted + late + future + duplicates + unreadable + transfers)
);

comment on column event_totals.log_id is 'a log that was lost begins anew with another one';

comment on column event_totals.day is 'UTC, of the arrival';

create table dropped_windows (
    width_s integer not null,
    day date not null,
    events bigint not null,
    late_events bigint not null,
    future_events bigint not null,
    constraint dropped_windows_pkey primary key (width_s, day)
);

comment on table dropped_windows is 'the sums of days whose windows are not kept any more'
"""

WINDOWS = """
create table event_windows (
    width_s integer not null,
    starts_at timestamptz not null,
    type text not null,
    events bigint not null default 0,
    late_events bigint not null default 0,
    future_events bigint not null default 0,
    visitors integer not null default 0,
    visitor_sketch bytea not null default '',
    constraint event_windows_pkey primary key (width_s, starts_at, type)
) partition by range (width_s, starts_at);

comment on column event_windows.late_events is
    'they arrived in this window, and belong to one that was closed by then';

comment on column event_windows.future_events is
    'they arrived in this window, and say that they happen later than that';

comment on column event_windows.visitor_sketch is 'HyperLogLog, as services/hyperloglog.py has it';

create table product_hours (
    starts_at timestamptz not null,
    product_id uuid not null,
    views bigint not null default 0,
    add_to_carts bigint not null default 0,
    constraint product_hours_pkey primary key (starts_at, product_id)
) partition by range (starts_at);

create table search_hours (
    starts_at timestamptz not null,
    query text not null,
    searches bigint not null default 0,
    without_results bigint not null default 0,
    constraint search_hours_pkey primary key (starts_at, query)
) partition by range (starts_at);

comment on column search_hours.query is
    'in small letters; empty: all that were not noted singly, because there were too many';

create table trending_products (
    product_id uuid not null,
    log_score double precision not null,
    constraint trending_products_pkey primary key (product_id),
    constraint trending_products_product_fkey foreign key (product_id)
        references products on delete cascade
);

comment on column trending_products.log_score is
    'the logarithm to 2 of a score that decays by itself: see services/business/trending.py';

create table revenue_windows (
    width_s integer not null,
    starts_at timestamptz not null,
    currency text not null,
    sales bigint not null default 0,
    sales_minor bigint not null default 0,
    refunds bigint not null default 0,
    refunds_minor bigint not null default 0,
    constraint revenue_windows_pkey primary key (width_s, starts_at, currency)
);

comment on table revenue_windows is 'of the ledger alone; the hours are kept for ever';

create table viewed_products (
    day date not null,
    visitor bytea not null,
    product_id uuid not null,
    constraint viewed_products_pkey primary key (day, visitor, product_id)
) partition by range (day);

comment on column viewed_products.visitor is 'a name for that day only, of which nobody has the key';

create index viewed_products_product_idx on viewed_products (product_id);

create table bought_together (
    product_id uuid not null,
    other_product_id uuid not null,
    orders bigint not null,
    last_at timestamptz not null,
    constraint bought_together_pkey primary key (product_id, other_product_id),
    constraint bought_together_product_fkey foreign key (product_id)
        references products on delete cascade,
    constraint bought_together_other_fkey foreign key (other_product_id)
        references products on delete cascade
);

comment on table bought_together is 'paid orders that have both: each pair stands twice';

create index bought_together_other_idx on bought_together (other_product_id);

create table related_refreshes (
    product_id uuid not null,
    refreshed_at timestamptz not null,
    constraint related_refreshes_pkey primary key (product_id),
    constraint related_refreshes_product_fkey foreign key (product_id)
        references products on delete cascade
)
"""

# The worker may not change the schema; these do it for it, and only this.
MAKE_PARTITIONS = r"""
create function make_event_partitions(wanted date) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    suffix text := to_char(wanted, 'YYYYMMDD');
    began timestamptz := wanted::timestamp at time zone 'UTC';
    ended timestamptz := (wanted + 1)::timestamp at time zone 'UTC';
    width integer;
    kind text;
begin
    perform pg_advisory_xact_lock(7007);
    foreach kind in array array['seen_events', 'viewed_products'] loop
        execute format('create table if not exists public.%I partition of public.%I
            for values from (%L) to (%L)', kind || '_' || suffix, kind, wanted, wanted + 1);
    end loop;
    foreach kind in array array['product_hours', 'search_hours'] loop
        execute format('create table if not exists public.%I partition of public.%I
            for values from (%L) to (%L)', kind || '_' || suffix, kind, began, ended);
    end loop;
    foreach width in array array[1, 60, 3600] loop
        execute format('create table if not exists public.%I partition of public.event_windows
            for values from (%L, %L) to (%L, %L)', format('event_windows_%s_%s', width, suffix),
            width, began, width, ended);
    end loop;
end $$
"""

MAKE_HOUR = r"""
create function make_entry_partition(entry_ms bigint) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    began bigint := entry_ms - entry_ms % 3600000;
begin
    perform pg_advisory_xact_lock(7007);
    execute format('create table if not exists public.%I
        partition of public.rolled_up_entries for values from (%L) to (%L)',
        'rolled_up_entries_'
            || to_char(to_timestamp(began / 1000) at time zone 'UTC', 'YYYYMMDD_HH24'),
        began, began + 3600000);
end $$
"""

DROP_PARTITIONS = r"""
create function drop_event_partitions(kept_days integer, oldest_entry_ms bigint) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp
set lock_timeout = '1s' as $$
declare
    today date := (now() at time zone 'UTC')::date;
    part record;
    dropped integer := 0;
begin
    if kept_days < 8 then  -- minutes are kept for a week
        raise exception 'at least 8 days are kept';
    end if;
    perform pg_advisory_xact_lock(7007);
    for part in
        select c.relname, p.relname as parent, words[1]::integer as width,
            to_date(words[2], 'YYYYMMDD') as day, coalesce(words[3], '23')::integer as hour
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
        cross join lateral regexp_match(c.relname, '(?:_(\d+))??_(\d{8})(?:_(\d\d))?$') as words
        where p.relnamespace = 'public'::regnamespace and p.relname = any (array['seen_events',
            'viewed_products', 'product_hours', 'search_hours', 'event_windows',
            'rolled_up_entries'])
        order by c.relname
    loop
        continue when case
            when part.parent in ('seen_events', 'viewed_products') then part.day >= today - 2
            when part.parent = 'rolled_up_entries' then
                ((part.day::timestamp at time zone 'UTC') + make_interval(hours => part.hour + 1))
                    > least(now() - interval '2 hours', to_timestamp(oldest_entry_ms / 1000.0))
            when part.width = 1 then part.day >= today - 1
            when part.width = 60 then part.day >= today - 7
            else part.day >= today - kept_days
        end;
        if part.parent = 'event_windows' then
            execute format('insert into public.dropped_windows as d
                select width_s, %L, sum(events), sum(late_events), sum(future_events)
                from public.%I group by width_s
                on conflict (width_s, day) do update set events = d.events + excluded.events,
                    late_events = d.late_events + excluded.late_events,
                    future_events = d.future_events + excluded.future_events',
                part.day, part.relname);
        end if;
        execute format('drop table public.%I', part.relname);
        dropped := dropped + 1;
    end loop;
    delete from public.revenue_windows
    where (width_s = 1 and starts_at < now() - interval '1 day')
        or (width_s = 60 and starts_at < now() - interval '7 days');
    return dropped;
end $$
"""

RIGHTS = """
revoke execute on function make_event_partitions(date), make_entry_partition(bigint),
    drop_event_partitions(integer, bigint) from public;

grant execute on function make_event_partitions(date), make_entry_partition(bigint),
    drop_event_partitions(integer, bigint) to tercet_app;

grant select, insert, update, delete on rolled_up_entries, unreadable_entries, seen_events,
    counted_transfers, event_totals, dropped_windows, event_windows, product_hours, search_hours,
    trending_products, revenue_windows, viewed_products, bought_together, related_refreshes
    to tercet_app;

grant select on rolled_up_entries, unreadable_entries, seen_events, counted_transfers,
    event_totals, dropped_windows, event_windows, product_hours, search_hours, trending_products,
    revenue_windows, viewed_products, bought_together, related_refreshes to tercet_read
"""

# Tags do not wait behind events that can not be published: they are found without reading those.
OUTBOX = """
create index outbox_unpublished_tags_idx on outbox (outbox_id)
    where published_at is null and kind = 'tag'
"""

# What the shop has found out by itself is told apart from what a merchant has said.
RELATED = """
alter table related_products add column source text not null default 'import',
    add constraint related_products_source_known check (source in ('import', 'events'));

comment on column related_products.source is
    'import: a merchant has set it; events: bought or viewed together, from position 1001 on'
"""

DROPS = """
delete from related_products where source = 'events';

alter table related_products drop column source;

drop index outbox_unpublished_tags_idx;

drop function make_event_partitions(date);

drop function make_entry_partition(bigint);

drop function drop_event_partitions(integer, bigint);

drop table related_refreshes, bought_together, viewed_products, revenue_windows, trending_products, search_hours, product_hours,
    event_windows, dropped_windows, event_totals, counted_transfers, seen_events,
    unreadable_entries, rolled_up_entries
"""


def upgrade() -> None:
    for part in (COUNTED, WINDOWS):
        execute_each(part)
    for function in (MAKE_PARTITIONS, MAKE_HOUR, DROP_PARTITIONS):
        op.execute(function.replace(":", r"\:"))
    for part in (RIGHTS, OUTBOX, RELATED):
        execute_each(part)


def downgrade() -> None:
    execute_each(DROPS)
