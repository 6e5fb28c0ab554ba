"""Rules of analytics: all that happened is counted, once."""

from __future__ import annotations

from typing import Final

from services.data.rules import Rule

COUNTED: Final = "every transfer of the ledger is in the revenue of analytics soon"
REVENUE: Final = "the revenue of analytics is what the ledger has of sales and refunds"
WIDTHS: Final = "hours of events are the sum of their minutes, and minutes of their seconds"
EVENTS: Final = "every event that was counted is in the hours of its type, or was dropped with them"

ANALYTICS_RULES: Final = (
    Rule(
        "analytics",
        COUNTED,
        "select count(*) from ledger_transfers",
        """
        select t.cause, t.cause_id, t.created_at from ledger_transfers t
        left join counted_transfers c using (cause_id, cause)
        where c.cause_id is null and t.created_at < now() - interval '3 minutes'
        """,
    ),
    Rule(
        "analytics",
        REVENUE,
        "select count(*) from counted_transfers",
        """
        select currency, w.sales, w.sales_minor, w.refunds, w.refunds_minor, l.sales as booked,
            l.sales_minor as booked_minor, l.refunds as given_back,
            l.refunds_minor as given_back_minor
        from (
            select currency, sum(sales) as sales, sum(sales_minor) as sales_minor,
                sum(refunds) as refunds, sum(refunds_minor) as refunds_minor
            from revenue_windows where width_s = 3600 group by currency
        ) w full join (
            select currency,
                count(*) filter (where 'sales' in (debit_account, credit_account)) as sales,
                coalesce(sum(amount_minor)
                    filter (where 'sales' in (debit_account, credit_account)), 0) as sales_minor,
                count(*) filter (where 'refunds' in (debit_account, credit_account)) as refunds,
                coalesce(sum(amount_minor)
                    filter (where 'refunds' in (debit_account, credit_account)), 0)
                    as refunds_minor
            from ledger_transfers join counted_transfers using (cause_id, cause)
            where debit_account in ('sales', 'refunds') or credit_account in ('sales', 'refunds')
            group by currency
        ) l using (currency)
        where (w.sales, w.sales_minor, w.refunds, w.refunds_minor)
            is distinct from (l.sales, l.sales_minor, l.refunds, l.refunds_minor)
        """,
    ),
    Rule(
        "analytics",
        WIDTHS,
        "select count(*) from event_windows",
        """
        with sums as (
            select f.wide_s, date_bin(make_interval(secs => f.wide_s), w.starts_at, 'epoch')
                    as starts_at, w.type, sum(w.events) as events,
                sum(w.late_events) as late, sum(w.future_events) as future
            from event_windows w join (values (1, 60), (60, 3600)) as f (width_s, wide_s)
                using (width_s)
            where not exists (select from dropped_windows d where d.width_s = w.width_s
                and d.day = (w.starts_at at time zone 'UTC')::date)
            group by 1, 2, 3
        ), wide as (
            select w.width_s as wide_s, w.starts_at, w.type, w.events, w.late_events as late,
                w.future_events as future
            from event_windows w where w.width_s > 1 and not exists (
                select from dropped_windows d
                where d.width_s = case w.width_s when 60 then 1 else 60 end
                    and d.day = (w.starts_at at time zone 'UTC')::date)
        )
        select wide_s, starts_at, type, sums.events, wide.events as wide_events, sums.late,
            wide.late as wide_late, sums.future, wide.future as wide_future
        from sums full join wide using (wide_s, starts_at, type)
        where (sums.events, sums.late, sums.future)
            is distinct from (wide.events, wide.late, wide.future)
        """,
    ),
    Rule(
        "analytics",
        EVENTS,
        "select coalesce(sum(taken), 0) from event_totals",
        """
        select t.counted, t.late, t.future, w.events, w.late_events, w.future_events
        from (
            select coalesce(sum(counted), 0) as counted, coalesce(sum(late), 0) as late,
                coalesce(sum(future), 0) as future
            from event_totals
        ) t, (
            select coalesce(sum(events), 0) as events, coalesce(sum(late_events), 0) as late_events,
                coalesce(sum(future_events), 0) as future_events
            from (
                select events, late_events, future_events from event_windows where width_s = 3600
                union all
                select events, late_events, future_events from dropped_windows
                where width_s = 3600
            ) kept
        ) w
        where (t.counted, t.late, t.future) <> (w.events, w.late_events, w.future_events)
        """,
    ),
)
