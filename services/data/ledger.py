"""The ledger: transfers between accounts, append-only, balanced by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from services.data.sources import Transaction

PROVIDER_CLEARING: Final = "provider_clearing"
SALES: Final = "sales"
REFUNDS: Final = "refunds"
UNAPPLIED_RECEIPTS: Final = "unapplied_receipts"  # owed to whoever paid an order that had ended


class Transfer(NamedTuple):
    """amount_minor > 0 goes from the credit account to the debit account, once for its cause."""

    debit_account: str
    credit_account: str
    amount_minor: int
    currency: str
    cause: str
    cause_id: UUID


# Each is told by the outbox: analytics count revenue by these events and by no other.
BOOKED_EVENT: Final = "transfer_booked"
INSERT_TRANSFERS = """
    with booked as (
        insert into ledger_transfers
            (debit_account, credit_account, amount_minor, currency, cause, cause_id)
        select * from unnest(
            $1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::uuid[])
        returning *
    )
    insert into outbox (kind, name, aggregate_id, payload)
    select 'event', 'transfer_booked', cause_id::text, jsonb_build_object(
        'cause', cause, 'cause_id', cause_id, 'debit_account', debit_account,
        'credit_account', credit_account, 'amount_minor', amount_minor, 'currency', currency,
        'at', created_at)
    from booked
"""


async def insert_transfers(tx: Transaction, transfers: Sequence[Transfer]) -> None:
    """Book transfers; one that was booked before breaks ledger_transfers_cause_key."""
    if not transfers:
        return
    columns = [list(column) for column in zip(*transfers, strict=True)]
    await tx.execute(INSERT_TRANSFERS, *columns)
