"""Rules of the ledger: what was booked is what happened."""

from __future__ import annotations

from typing import Final

from services.data.rules import Rule

BOOKED: Final = "every payment, capture and refund is booked once: amount, currency and accounts"
OWED: Final = "in each currency the provider owes us what was captured and not refunded"
UNAPPLIED: Final = "in each currency we owe what came for orders that had ended and did not go back"

LEDGER_RULES: Final = (
    Rule(
        "ledger",
        BOOKED,
        """
        select count(*) from ledger_transfers
        where cause in ('payment_captured', 'payment_refunded')
        """,
        """
        with due as (
            select p.payment_id as cause_id, 'payment_captured' as cause, p.amount_minor,
                p.currency, 'provider_clearing from ' || case
                    when o.state in ('expired', 'cancelled') then 'unapplied_receipts'
                    else 'sales' end as accounts
            from payments p join orders o using (customer_id, order_id)
            where p.state = 'SUCCESS' and p.capture_method = 'automatic'
            union all
            select x.operation_id, case x.kind when 'capture' then 'payment_captured'
                    else 'payment_refunded' end, x.amount_minor, x.currency,
                case when x.kind = 'capture' then 'provider_clearing from sales'
                    when o.state in ('expired', 'cancelled')
                        then 'unapplied_receipts from provider_clearing'
                    else 'refunds from provider_clearing' end
            from payment_operations x join payments p using (customer_id, payment_id)
            join orders o using (customer_id, order_id)
            where x.state = 'SUCCESS' and x.kind in ('capture', 'refund')
        )
        select coalesce(d.cause_id, t.cause_id) as cause_id, cause, d.amount_minor, d.currency,
            d.accounts, t.bookings, t.amount_minor as booked_minor,
            t.currency as booked_currency, t.accounts as booked_accounts
        from due d full join (
            select cause_id, cause, count(*) as bookings, sum(amount_minor) as amount_minor,
                min(currency) as currency,
                min(debit_account || ' from ' || credit_account) as accounts
            from ledger_transfers where cause in ('payment_captured', 'payment_refunded')
            group by cause_id, cause
        ) t using (cause_id, cause)
        where (d.amount_minor, d.currency, 1, d.accounts)
            is distinct from (t.amount_minor, t.currency, t.bookings, t.accounts)
        """,
    ),
    Rule(
        "ledger",
        OWED,
        "select count(*) from ledger_transfers",
        """
        select currency, b.balance_minor, p.kept_minor from (
            select currency, sum(case when debit_account = 'provider_clearing'
                then amount_minor else -amount_minor end) as balance_minor
            from ledger_transfers where 'provider_clearing' in (debit_account, credit_account)
            group by currency
        ) b full join (
            select currency, sum(captured_minor - refunded_minor) as kept_minor
            from payments where state = 'SUCCESS' group by currency
        ) p using (currency)
        where coalesce(b.balance_minor, 0) <> coalesce(p.kept_minor, 0)
        """,
    ),
    Rule(
        "ledger",
        UNAPPLIED,
        """
        select count(*) from ledger_transfers
        where 'unapplied_receipts' in (debit_account, credit_account)
        """,
        """
        select currency, b.balance_minor, p.owed_minor from (
            select currency, sum(case when credit_account = 'unapplied_receipts'
                then amount_minor else -amount_minor end) as balance_minor
            from ledger_transfers where 'unapplied_receipts' in (debit_account, credit_account)
            group by currency
        ) b full join (
            select p.currency, sum(p.captured_minor - p.refunded_minor) as owed_minor
            from payments p join orders o using (customer_id, order_id)
            where p.state = 'SUCCESS' and o.state in ('expired', 'cancelled')
            group by p.currency
        ) p using (currency)
        where coalesce(b.balance_minor, 0) <> coalesce(p.owed_minor, 0)
        """,
    ),
)
