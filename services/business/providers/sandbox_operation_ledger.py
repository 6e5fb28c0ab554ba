"""Captures, voids and refunds in the sandbox's ledger, and the sums that they have to keep to."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from services.business.providers.sandbox_behaviour import OperationScript

Kind = Literal["capture", "void", "refund"]

# As with charges, a pending one carries what it becomes and when. What the sums do not allow is
# written down as declined, so that its key gets the same answer for ever.
SCHEMA: Final = """
create table if not exists operations (
    sequence integer primary key autoincrement,
    operation_id text not null unique,
    operation_key text not null unique,
    charge_key text not null references charges (charge_key),
    kind text not null check (kind in ('capture', 'void', 'refund')),
    amount_minor integer not null check (amount_minor > 0),
    currency text not null,
    first_status text not null check (first_status in ('approved', 'declined', 'pending')),
    becomes text check (becomes in ('approved', 'declined')),
    becomes_at_ms integer,
    decline_code text,
    created_at_ms integer not null,
    check ((first_status = 'pending') = (becomes is not null)),
    check ((becomes is null) = (becomes_at_ms is null))
) strict;
create index if not exists operations_charge_key on operations (charge_key);
"""
STATUS: Final = "case when becomes_at_ms <= :now_ms then becomes else first_status end"
OPERATION: Final = f"""
select sequence, operation_id, operation_key, charge_key, kind, amount_minor, currency,
       decline_code, created_at_ms, {STATUS} as status
  from operations
"""  # noqa: S608  # nosec B608 - STATUS is a constant
OPERATION_OF_KEY: Final = OPERATION + " where operation_key = :operation_key"
OPERATIONS_SINCE: Final = (
    OPERATION
    + " where created_at_ms >= :since_ms and sequence > :after order by sequence limit :limit"
)
INSERT: Final = """
insert into operations (operation_id, operation_key, charge_key, kind, amount_minor, currency,
                        first_status, becomes, becomes_at_ms, decline_code, created_at_ms)
values (:operation_id, :operation_key, :charge_key, :kind, :amount_minor, :currency,
        :first_status, :becomes, :becomes_at_ms, :decline_code, :created_at_ms)
"""
# standing: what is not declined, so what is done or may still be; done: what is done by now.
SUMS: Final = f"""
select kind, sum(amount_minor) as standing_minor,
       sum(case when status = 'approved' then amount_minor else 0 end) as done_minor
  from (select kind, amount_minor, {STATUS} as status
          from operations where charge_key = :charge_key)
 where status <> 'declined' group by kind
"""  # noqa: S608  # nosec B608 - STATUS is a constant
OPERATION_BALANCE: Final = f"""
select currency, kind, {STATUS} as status, count(*) as operations,
       sum(amount_minor) as amount_minor
  from operations group by 1, 2, 3 order by 1, 2, 3
"""  # noqa: S608  # nosec B608 - STATUS is a constant


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """A capture, void or refund as callers see it; the fields are as those of a charge."""

    operation_id: str
    operation_key: str
    charge_key: str
    kind: str
    status: str
    amount_minor: int
    currency: str
    created_at: str
    decline_code: str | None = None


class OperationBalance(msgspec.Struct, frozen=True):
    """The sum of all operations of one currency and kind that stand at one status."""

    currency: str
    kind: str
    status: str
    operations: int
    amount_minor: int


class Wanted(msgspec.Struct, frozen=True):
    """An operation as it was asked for; without an amount it is a void, of the whole charge."""

    operation_key: str
    charge_key: str
    kind: Kind
    amount_minor: int | None


class NoSuchCharge(Exception):
    """The charge that the operation is of is not known."""


class KeyReused(Exception):
    """The key has an operation of another charge, kind or amount."""


def operate(
    connection: sqlite3.Connection,
    wanted: Wanted,
    script: OperationScript,
    *,
    now_ms: int,
    pending_ms: int,
) -> tuple[Operation, bool]:
    """The operation of this key and whether it is new, within the caller's transaction.

    Raises NoSuchCharge and KeyReused.
    """
    known = find_operation(connection, wanted.operation_key, now_ms=now_ms)
    if known is not None:
        check_same(known, wanted)
        return known, False
    charge = connection.execute(
        f"select amount_minor, currency, capture, {STATUS} as status from charges"  # noqa: S608  # nosec B608 - a constant
        " where charge_key = :charge_key",
        {"charge_key": wanted.charge_key, "now_ms": now_ms},
    ).fetchone()
    if charge is None:
        raise NoSuchCharge
    amount_minor = wanted.amount_minor or charge["amount_minor"]
    decline_code = _forbidden(connection, charge, wanted, amount_minor, now_ms)
    row = {
        "operation_id": {"capture": "cp_", "void": "vo_", "refund": "re_"}[wanted.kind]
        + secrets.token_hex(12),
        "operation_key": wanted.operation_key,
        "charge_key": wanted.charge_key,
        "kind": wanted.kind,
        "amount_minor": amount_minor,
        "currency": charge["currency"],
        "created_at_ms": now_ms,
        **_fate(script, decline_code, now_ms + pending_ms),
    }
    connection.execute(INSERT, row)
    return _operation(row | {"status": row["first_status"]}), True


def _forbidden(
    connection: sqlite3.Connection,
    charge: sqlite3.Row,
    wanted: Wanted,
    amount_minor: int,
    now_ms: int,
) -> str | None:
    """The decline code of what the sums do not allow; None where they do."""
    if charge["status"] != "approved":
        return "charge_not_approved"
    values = {"charge_key": wanted.charge_key, "now_ms": now_ms}
    rows = {row["kind"]: row for row in connection.execute(SUMS, values)}
    standing = {kind: int(row["standing_minor"]) for kind, row in rows.items()}
    done = {kind: int(row["done_minor"]) for kind, row in rows.items()}
    if "void" in standing:
        return "charge_voided"
    if wanted.kind == "refund":
        captured_minor = charge["amount_minor"] if charge["capture"] else done.get("capture", 0)
        too_large = standing.get("refund", 0) + amount_minor > captured_minor
        return "amount_too_large" if too_large else None
    if charge["capture"] or (wanted.kind == "void" and "capture" in standing):
        return "charge_captured"
    if standing.get("capture", 0) + amount_minor > charge["amount_minor"]:
        return "amount_too_large"
    return None


def _fate(script: OperationScript, decline_code: str | None, becomes_at_ms: int) -> dict[str, Any]:
    if decline_code is not None:
        script = OperationScript("declined")
    elif "declined" in (script.outcome, script.becomes):
        decline_code = "operation_declined"
    return {
        "first_status": script.outcome,
        "becomes": script.becomes,
        "becomes_at_ms": None if script.becomes is None else becomes_at_ms,
        "decline_code": decline_code,
    }


def check_same(known: Operation, wanted: Wanted) -> None:
    """Raise KeyReused unless it is the operation that is asked for again."""
    same = (known.charge_key, known.kind) == (wanted.charge_key, wanted.kind)
    if not same or wanted.amount_minor not in (None, known.amount_minor):
        raise KeyReused


def find_operation(
    connection: sqlite3.Connection, operation_key: str, *, now_ms: int
) -> Operation | None:
    row = connection.execute(
        OPERATION_OF_KEY, {"now_ms": now_ms, "operation_key": operation_key}
    ).fetchone()
    return None if row is None else _operation(row)


def operations_since(
    connection: sqlite3.Connection, since_ms: int, *, after: int, limit: int, now_ms: int
) -> tuple[list[Operation], int | None]:
    """As Ledger.since."""
    rows = connection.execute(
        OPERATIONS_SINCE,
        {"now_ms": now_ms, "since_ms": since_ms, "after": after, "limit": limit + 1},
    ).fetchall()
    following = int(rows[limit - 1]["sequence"]) if len(rows) > limit else None
    return [_operation(row) for row in rows[:limit]], following


def operation_balance(connection: sqlite3.Connection, *, now_ms: int) -> list[OperationBalance]:
    rows = connection.execute(OPERATION_BALANCE, {"now_ms": now_ms})
    return [OperationBalance(**dict(row)) for row in rows]


def rfc3339(moment_ms: int) -> str:
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _operation(row: Mapping[str, Any] | sqlite3.Row) -> Operation:
    status = row["status"]
    return Operation(
        operation_id=row["operation_id"],
        operation_key=row["operation_key"],
        charge_key=row["charge_key"],
        kind=row["kind"],
        status=status,
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        created_at=rfc3339(row["created_at_ms"]),
        decline_code=row["decline_code"] if status == "declined" else None,
    )
