"""The sandbox provider's own ledger: one SQLite file that survives kill -9 and knows every charge.

It is the oracle that payments are checked against, so it shares nothing with Tercet's database.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from services.business.providers import sandbox_operation_ledger, sandbox_webhooks
from services.business.providers.sandbox_behaviour import BY_TOKEN, OperationScript, Script
from services.business.providers.sandbox_operation_ledger import SCHEMA as OPERATIONS_SCHEMA
from services.business.providers.sandbox_operation_ledger import (
    STATUS,
    Operation,
    OperationBalance,
    Wanted,
    rfc3339,
)
from services.business.providers.sandbox_requests import ChargeRequest

Result = TypeVar("Result")
Decision = Literal["approved", "declined"]

# One row a charge_key: that unique constraint is what makes a second charge impossible. A pending
# charge carries what it becomes and when, so it is decided on time even if nobody was running.
SCHEMA: Final = """
create table if not exists charges (
    sequence integer primary key autoincrement,
    charge_id text not null unique,
    charge_key text not null unique,
    amount_minor integer not null check (amount_minor > 0),
    currency text not null,
    payment_method text not null,
    first_status text not null check (first_status in ('approved', 'declined', 'pending')),
    becomes text check (becomes in ('approved', 'declined')),
    becomes_at_ms integer,
    decline_code text,
    created_at_ms integer not null,
    capture integer not null default 1 check (capture in (0, 1)),
    check ((first_status = 'pending') = (becomes is not null)),
    check ((becomes is null) = (becomes_at_ms is null))
) strict;
create table if not exists tokens (
    payment_method text primary key,
    script_token text not null
) strict, without rowid;
create table if not exists errors (
    charge_key text primary key,
    count integer not null
) strict, without rowid;
"""
# What a file has that was made before charges could be authorised only.
ADD_CAPTURE: Final = (
    "alter table charges add column capture integer not null default 1 check (capture in (0, 1))"
)
CHARGE: Final = f"""
select sequence, charge_id, charge_key, amount_minor, currency, payment_method, decline_code,
       created_at_ms, capture, {STATUS} as status,
       (select coalesce(sum(amount_minor), 0) from operations
         where charge_key = charges.charge_key and kind = 'capture'
           and {STATUS} = 'approved') as captured_minor,
       (select coalesce(sum(amount_minor), 0) from operations
         where charge_key = charges.charge_key and kind = 'refund'
           and {STATUS} = 'approved') as refunded_minor,
       exists (select 1 from operations
         where charge_key = charges.charge_key and kind = 'void'
           and {STATUS} = 'approved') as voided
  from charges
"""  # noqa: S608  # nosec B608 - STATUS is a constant
INSERT: Final = """
insert into charges (charge_id, charge_key, amount_minor, currency, payment_method,
                     first_status, becomes, becomes_at_ms, decline_code, created_at_ms, capture)
values (:charge_id, :charge_key, :amount_minor, :currency, :payment_method,
        :first_status, :becomes, :becomes_at_ms, :decline_code, :created_at_ms, :capture)
on conflict (charge_key) do nothing
"""
CHARGE_OF_KEY: Final = CHARGE + " where charge_key = :charge_key"
CHARGE_OF_ID: Final = CHARGE + " where charge_id = :charge_id"
DECIDE: Final = """
update charges set becomes = :outcome, becomes_at_ms = :now_ms
 where charge_id = :charge_id and first_status = 'pending' and becomes_at_ms > :now_ms
returning *
"""
# With a charge that was not approved so far.
NOTHING_DONE: Final = {"captured_minor": 0, "refunded_minor": 0, "voided": 0}
CHARGES_LATEST: Final = CHARGE + " order by sequence desc limit :limit"
CHARGES_SINCE: Final = (
    CHARGE
    + " where created_at_ms >= :since_ms and sequence > :after order by sequence limit :limit"
)
BALANCE: Final = """
select currency,
       case when becomes_at_ms <= :now_ms then becomes else first_status end as status,
       count(*) as charges, sum(amount_minor) as amount_minor
  from charges group by 1, 2 order by 1, 2
"""


class NextAction(msgspec.Struct, frozen=True):
    """What the customer has to do before a charge can be decided: go to that page."""

    type: Literal["redirect"]
    url: str


class Charge(msgspec.Struct, frozen=True, omit_defaults=True):
    """A charge as callers see it. created_at is RFC 3339 in UTC; decline_code only if declined.

    capture: the money was to be taken at once; captured_minor and refunded_minor: what is done.
    """

    charge_id: str
    charge_key: str
    status: str
    amount_minor: int
    currency: str
    payment_method: str
    created_at: str
    capture: bool
    captured_minor: int
    refunded_minor: int
    voided: bool
    decline_code: str | None = None
    next_action: NextAction | None = None


class Balance(msgspec.Struct, frozen=True):
    """The sum of all charges of one currency that stand at one status."""

    currency: str
    status: str
    charges: int
    amount_minor: int


class Told(NamedTuple):
    """A charge or operation as it is from a moment on."""

    what: Charge | Operation
    from_ms: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: dict[str, Any]
    done: asyncio.Future[tuple[Charge, bool]]


class Ledger:
    """Charges, tokens and scripted errors in one file; every write is on disk when it returns.

    Charges that wait together share one transaction and one fsync, written by one thread; what
    is only read is a lookup by key of some microseconds, made where it is needed.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write_connection = _connect(path)
        self._write_connection.executescript(SCHEMA + OPERATIONS_SCHEMA + sandbox_webhooks.SCHEMA)
        columns = self._write_connection.execute("pragma table_info(charges)").fetchall()
        if "capture" not in {column["name"] for column in columns}:
            self._write_connection.execute(ADD_CAPTURE)
        self._read_connection = _connect(path)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sandbox-ledger")
        self._waiting: list[_Waiting] = []
        self._drain: asyncio.Task[None] | None = None
        # The webhooks that tell of a charge: written together with it.
        self.announce: Callable[[Sequence[Told]], list[dict[str, Any]]] = lambda _: []

    @property
    def reader(self) -> sqlite3.Connection:
        """For who looks at the ledger from the event loop."""
        return self._read_connection

    async def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in the writer, in a transaction of its own."""

        def within() -> Result:
            with self._write_connection as connection:
                connection.execute("begin immediate")
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._writer, within)

    def close(self) -> None:
        self._writer.shutdown()
        self._read_connection.close()
        self._write_connection.close()

    async def charge(
        self,
        request: ChargeRequest,
        script: Script,
        *,
        pending_ms: int,
        page_url: str | None = None,
    ) -> tuple[Charge, bool]:
        """The charge of this key and whether it is new. A key that is known is left as it is.

        page_url: where the customer is to decide, with the charge's id at its end.
        """
        done: asyncio.Future[tuple[Charge, bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(_row(request, script, pending_ms, page_url), done))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._write_waiting())
        return await done

    async def _write_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results = await loop.run_in_executor(self._writer, self._insert_charges, batch)
            except Exception as error:  # each caller gets it: nothing was written
                for waiting in batch:
                    if not waiting.done.done():
                        waiting.done.set_exception(error)
                continue
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.done.done():
                    waiting.done.set_result(result)

    def _insert_charges(self, batch: list[_Waiting]) -> list[tuple[Charge, bool]]:
        with self._write_connection as connection:
            connection.execute("begin immediate")
            return [self._insert_charge(connection, waiting.row) for waiting in batch]

    def _insert_charge(
        self, connection: sqlite3.Connection, row: dict[str, Any]
    ) -> tuple[Charge, bool]:
        if connection.execute(INSERT, row).rowcount == 1:
            row = row | NOTHING_DONE
            now = _charge(row | {"status": row["first_status"]})
            told = [Told(now, row["created_at_ms"])]
            if row["becomes"] is not None:
                told.append(Told(_charge(row | {"status": row["becomes"]}), row["becomes_at_ms"]))
            sandbox_webhooks.insert(connection, self.announce(told))
            return now, True
        charge = _select_charge(connection, row["charge_key"])
        if charge is None:
            raise sqlite3.IntegrityError("a charge that is in the way can not be read")
        return charge, False

    async def decide(self, charge_id: str, outcome: Decision) -> Charge | None:
        """What the customer has decided, once; None where there is nothing to decide."""

        def work(connection: sqlite3.Connection) -> Charge | None:
            now_ms = _now_ms()
            values = {"charge_id": charge_id, "outcome": outcome, "now_ms": now_ms}
            rows = connection.execute(DECIDE, values).fetchall()
            if not rows:
                return None
            charge = _charge(dict(rows[0]) | NOTHING_DONE | {"status": outcome})
            sandbox_webhooks.cancel_planned(connection, charge.charge_key, now_ms)
            sandbox_webhooks.insert(connection, self.announce([Told(charge, now_ms)]))
            return charge

        return await self.write(work)

    def undecided(self, charge_id: str) -> Charge | None:
        """A charge that waits for its customer."""
        values = {"now_ms": _now_ms(), "charge_id": charge_id}
        row = self._read_connection.execute(CHARGE_OF_ID, values).fetchone()
        if row is None or row["status"] != "pending":
            return None
        return _charge(row)

    async def operate(
        self, wanted: Wanted, script: OperationScript, *, pending_ms: int
    ) -> tuple[Operation, bool]:
        """The capture, void or refund of this key and whether it is new."""

        def work(connection: sqlite3.Connection) -> tuple[Operation, bool]:
            now_ms = _now_ms()
            operation, is_new = sandbox_operation_ledger.operate(
                connection, wanted, script, now_ms=now_ms, pending_ms=pending_ms
            )
            if is_new:
                becomes = sandbox_operation_ledger.find_operation(
                    connection, wanted.operation_key, now_ms=now_ms + pending_ms
                )
                told = [Told(operation, now_ms)]
                if becomes is not None and becomes.status != operation.status:
                    told.append(Told(becomes, now_ms + pending_ms))
                sandbox_webhooks.insert(connection, self.announce(told))
            return operation, is_new

        return await self.write(work)

    def find_operation(self, operation_key: str) -> Operation | None:
        return sandbox_operation_ledger.find_operation(
            self._read_connection, operation_key, now_ms=_now_ms()
        )

    def operations_since(
        self, since_ms: int, *, after: int = 0, limit: int
    ) -> tuple[list[Operation], int | None]:
        """As since, of captures, voids and refunds."""
        return sandbox_operation_ledger.operations_since(
            self._read_connection, since_ms, after=after, limit=limit, now_ms=_now_ms()
        )

    def operation_balance(self) -> list[OperationBalance]:
        return sandbox_operation_ledger.operation_balance(self._read_connection, now_ms=_now_ms())

    async def count_error(self, charge_key: str) -> int:
        """Count one scripted error of this key; returns how many there were with this one."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, self._count_error, charge_key)

    def _count_error(self, charge_key: str) -> int:
        with self._write_connection as connection:
            row = connection.execute(
                "insert into errors values (?, 1)"
                " on conflict (charge_key) do update set count = count + 1 returning count",
                (charge_key,),
            ).fetchone()
        return int(row["count"])

    async def add_token(self, script: Script) -> str:
        """A new payment method that behaves as the script says."""
        payment_method = "tok_" + secrets.token_urlsafe(18)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._insert_token, payment_method, script.token)
        return payment_method

    def _insert_token(self, payment_method: str, script_token: str) -> None:
        with self._write_connection as connection:
            connection.execute("insert into tokens values (?, ?)", (payment_method, script_token))

    def script_of(self, payment_method: str) -> Script | None:
        """The script behind a well-known token or one from add_token."""
        if payment_method in BY_TOKEN:
            return BY_TOKEN[payment_method]
        row = self._read_connection.execute(
            "select script_token from tokens where payment_method = ?", (payment_method,)
        ).fetchone()
        return None if row is None else BY_TOKEN.get(row["script_token"])

    def find(self, charge_key: str) -> Charge | None:
        return _select_charge(self._read_connection, charge_key)

    def since(
        self, since_ms: int, *, after: int = 0, limit: int
    ) -> tuple[list[Charge], int | None]:
        """Charges made since then, oldest first, after that sequence number, and where to go on."""
        rows = self._read_connection.execute(
            CHARGES_SINCE,
            {"now_ms": _now_ms(), "since_ms": since_ms, "after": after, "limit": limit + 1},
        ).fetchall()
        following = int(rows[limit - 1]["sequence"]) if len(rows) > limit else None
        return [_charge(row) for row in rows[:limit]], following

    def latest(self, limit: int) -> list[Charge]:
        rows = self._read_connection.execute(CHARGES_LATEST, {"now_ms": _now_ms(), "limit": limit})
        return [_charge(row) for row in rows]

    def balance(self) -> list[Balance]:
        rows = self._read_connection.execute(BALANCE, {"now_ms": _now_ms()})
        return [Balance(**dict(row)) for row in rows]


def _connect(path: Path) -> sqlite3.Connection:
    # Used by one thread at a time each: the writer's from its executor, the other from the loop.
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _row(
    request: ChargeRequest, script: Script, pending_ms: int, page_url: str | None
) -> dict[str, Any]:
    now_ms, charge_id = _now_ms(), "ch_" + secrets.token_hex(12)
    return {
        "charge_id": charge_id,
        "page_url": None if page_url is None else page_url + charge_id,
        "charge_key": request.charge_key,
        "amount_minor": request.amount_minor,
        "currency": request.currency,
        "payment_method": request.payment_method,
        "first_status": script.outcome,
        "becomes": script.becomes,
        "becomes_at_ms": None if script.becomes is None else now_ms + pending_ms,
        "decline_code": script.decline_code,
        "created_at_ms": now_ms,
        "capture": int(request.capture),
    }


def _select_charge(connection: sqlite3.Connection, charge_key: str) -> Charge | None:
    row = connection.execute(
        CHARGE_OF_KEY, {"now_ms": _now_ms(), "charge_key": charge_key}
    ).fetchone()
    return None if row is None else _charge(row)


def _charge(row: Mapping[str, Any] | sqlite3.Row) -> Charge:
    status = row["status"]
    page_url = row["page_url"] if isinstance(row, dict) and "page_url" in row else None
    taken_at_once = row["capture"] and status == "approved"
    return Charge(
        charge_id=row["charge_id"],
        charge_key=row["charge_key"],
        status=status,
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        payment_method=row["payment_method"],
        created_at=rfc3339(row["created_at_ms"]),
        capture=bool(row["capture"]),
        captured_minor=row["amount_minor"] if taken_at_once else row["captured_minor"],
        refunded_minor=row["refunded_minor"],
        voided=bool(row["voided"]),
        decline_code=row["decline_code"] if status == "declined" else None,
        next_action=NextAction("redirect", page_url) if page_url and status == "pending" else None,
    )
