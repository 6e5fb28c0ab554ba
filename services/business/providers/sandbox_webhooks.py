"""What the sandbox provider tells by itself: planned with the charge, kept on disk, sent again.

Every change of a charge is told in the transaction that makes it, so that no crash loses a webhook;
one that a crash hits between sending and noting is sent twice. docs/sandbox-provider.md has the
ways in which it misbehaves.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import httpx
import msgspec

from services.business.webhook_signature import HEADERS, TOLERANCE_S, sign
from services.telemetry import logger

log = logger(__name__)

SCHEMA: Final = """
create table if not exists webhooks (
    delivery integer primary key autoincrement,
    webhook_id text not null,
    charge_key text not null,
    status_told text not null,
    body blob not null,
    forgery text check (forgery in ('wrong_secret', 'changed_bit', 'old_timestamp')),
    due_at_ms integer not null,
    attempts integer not null default 0,
    status integer not null default 0,
    ended_at_ms integer
) strict;
create index if not exists webhooks_due on webhooks (due_at_ms) where ended_at_ms is null;
create index if not exists webhooks_charge on webhooks (charge_key);
create index if not exists webhooks_ended on webhooks (ended_at_ms) where ended_at_ms is not null;
"""
INSERT: Final = """
insert into webhooks (webhook_id, charge_key, status_told, body, forgery, due_at_ms)
values (:webhook_id, :charge_key, :status_told, :body, :forgery, :due_at_ms)
"""
DUE: Final = """
select delivery, webhook_id, body, forgery, attempts from webhooks
 where ended_at_ms is null and due_at_ms <= :now_ms order by due_at_ms, delivery limit :limit
"""
NEXT_DUE: Final = "select min(due_at_ms) as due_at_ms from webhooks where ended_at_ms is null"
UPDATE: Final = """
update webhooks set attempts = :attempts, status = :status, due_at_ms = :due_at_ms,
                    ended_at_ms = :ended_at_ms
 where delivery = :delivery
"""
OF_CHARGE: Final = """
select webhook_id, charge_key, body, forgery, due_at_ms, attempts, status,
       ended_at_ms is not null as ended
  from webhooks where charge_key = :charge_key order by delivery
"""
# What was to be told of a time that has not come, because the charge was decided before.
CANCEL_PLANNED: Final = """
delete from webhooks
 where charge_key = :charge_key and status_told <> 'pending' and attempts = 0
   and due_at_ms > :now_ms
"""
TRIM: Final = "delete from webhooks where ended_at_ms < :before_ms"

Mode = Literal["normal", "duplicate", "reordered", "late", "forged", "none"]
Forgery = Literal["wrong_secret", "changed_bit", "old_timestamp"]
FORGERIES: Final[tuple[Forgery, ...]] = ("wrong_secret", "changed_bit", "old_timestamp")
DUPLICATES: Final = 5
REORDERED_MS: Final = 300  # how long after the last of a charge the first of it comes
BATCH: Final = 32  # sent at once
TIMEOUT_S: Final = 5.0
FIRST_WAIT_MS: Final = 1000  # before it is sent again; doubled each time
LONGEST_WAIT_MS: Final = 300_000
ATTEMPTS: Final = 30  # about two hours
IDLE_S: Final = 1.0  # a webhook that this misses is late by no more
ENDED_KEPT_MS: Final = 3_600_000
TRIM_EVERY_S: Final = 60.0


class Planned(msgspec.Struct, frozen=True):
    """Something to tell of a charge or an operation on it, and when; told: it as it is then."""

    subject: str
    charge_key: str
    status: str
    told: Any
    due_at_ms: int


class Delivery(msgspec.Struct, frozen=True):
    """A webhook as GET /webhooks shows it; status: of the last answer, 0 for none."""

    webhook_id: str
    type: str
    forgery: str | None
    due_at_ms: int
    attempts: int
    status: int
    ended: bool


def rows_of(
    planned: Sequence[Planned], mode: Mode, *, delay_ms: int, chance: random.Random
) -> list[dict[str, Any]]:
    """The deliveries of what is told of one charge, in the mode that is played."""
    if mode == "none":
        return []
    if mode == "reordered":
        planned = _reordered(planned, delay_ms, chance)
    rows = []
    for one in planned:
        late_ms = delay_ms if mode == "late" else 0
        row = _row(one, one.status, one.due_at_ms + late_ms)
        rows += [row] * (DUPLICATES if mode == "duplicate" else 1)
        if mode == "forged":
            says = "declined" if one.status == "approved" else "approved"
            rows += [_row(one, says, one.due_at_ms) | {"forgery": how} for how in FORGERIES]
    return rows


def _reordered(
    planned: Sequence[Planned], delay_ms: int, chance: random.Random
) -> Sequence[Planned]:
    """The last of a charge first; one that is alone comes at any time."""
    if len(planned) == 1:
        late_ms = chance.randint(0, delay_ms)
        return [msgspec.structs.replace(planned[0], due_at_ms=planned[0].due_at_ms + late_ms)]
    last_ms = planned[-1].due_at_ms
    return [
        msgspec.structs.replace(one, due_at_ms=last_ms + place * REORDERED_MS)
        for place, one in enumerate(reversed(planned))
    ]


def _row(one: Planned, status: str, due_at_ms: int) -> dict[str, Any]:
    told = msgspec.to_builtins(one.told) | {"status": status}
    event = {"type": f"{one.subject}.{status}", "timestamp": _text_of(one.due_at_ms), "data": told}
    return {
        "webhook_id": "msg_" + secrets.token_hex(16),
        "charge_key": one.charge_key,
        "status_told": one.status,
        "body": msgspec.json.encode(event),
        "forgery": None,
        "due_at_ms": due_at_ms,
    }


def _text_of(moment_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment_ms / 1000)) + "Z"


def insert(connection: sqlite3.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Within the transaction that makes what they tell of."""
    connection.executemany(INSERT, rows)


def cancel_planned(connection: sqlite3.Connection, charge_key: str, now_ms: int) -> None:
    """Forget what was to be told of a decision that was made otherwise."""
    connection.execute(CANCEL_PLANNED, {"charge_key": charge_key, "now_ms": now_ms})


def deliveries(connection: sqlite3.Connection, charge_key: str) -> list[Delivery]:
    found = connection.execute(OF_CHARGE, {"charge_key": charge_key})
    return [
        Delivery(
            webhook_id=row["webhook_id"],
            type=msgspec.json.decode(row["body"])["type"],
            forgery=row["forgery"],
            due_at_ms=row["due_at_ms"],
            attempts=row["attempts"],
            status=row["status"],
            ended=bool(row["ended"]),
        )
        for row in found
    ]


class Sender:
    """Sends what is due to the one address that the settings name, again until it is taken.

    read: a connection for the event loop. write: runs a function of the ledger's connection in its
    writer, in a transaction.
    """

    def __init__(
        self,
        url: str,
        key: bytes,
        *,
        http: httpx.AsyncClient,
        read: sqlite3.Connection,
        write: Callable[[Callable[[sqlite3.Connection], None]], Any],
    ) -> None:
        self._url, self._key, self._http = url, key, http
        self._read, self._write = read, write
        self._wake = asyncio.Event()
        self._trimmed_at = float("-inf")

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            self._wake.clear()
            sent = await self.send_due()
            if sent < BATCH:
                await self._trim()
                await self._pause()

    async def send_due(self) -> int:
        """Send a batch of what is due, and note what became of it; returns how many there were."""
        due = self._read.execute(DUE, {"now_ms": _now_ms(), "limit": BATCH}).fetchall()
        if due:
            statuses = await asyncio.gather(*(self._send(row) for row in due))
            ended = [_ended(row, status) for row, status in zip(due, statuses, strict=True)]
            await self._write(lambda connection: _update(connection, ended))
        return len(due)

    async def _send(self, row: sqlite3.Row) -> int:
        """The status of the answer; 0 where there was none."""
        headers, body = signed(self._key, row["webhook_id"], row["body"], row["forgery"])
        try:
            async with self._http.stream(
                "POST", self._url, content=body, headers=headers, timeout=TIMEOUT_S
            ) as answer:  # its body is nobody's business
                return answer.status_code
        except httpx.HTTPError as error:
            log.debug("webhook not taken", webhook_id=row["webhook_id"], error=repr(error))
            return 0

    async def _pause(self) -> None:
        due_at_ms = self._read.execute(NEXT_DUE).fetchone()["due_at_ms"]
        wait_s = IDLE_S
        if due_at_ms is not None:
            wait_s = min(wait_s, max(0.0, (due_at_ms - _now_ms()) / 1000))
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _trim(self) -> None:
        if time.monotonic() - self._trimmed_at >= TRIM_EVERY_S:
            self._trimmed_at = time.monotonic()
            before = {"before_ms": _now_ms() - ENDED_KEPT_MS}
            await self._write(lambda connection: _trim(connection, before))


def signed(
    key: bytes, webhook_id: str, body: bytes, forgery: Forgery | None
) -> tuple[dict[str, str], bytes]:
    """The headers and the bytes that are sent: of a forgery such as must not be believed."""
    sent_at_s = int(time.time()) - (TOLERANCE_S + 1 if forgery == "old_timestamp" else 0)
    used = secrets.token_bytes(32) if forgery == "wrong_secret" else key
    signature = sign(used, webhook_id, sent_at_s, body)
    if forgery == "changed_bit":
        changed = bytearray(body)
        changed[len(changed) // 2] ^= 1
        body = bytes(changed)
    values = (webhook_id, str(sent_at_s), signature)
    headers = dict(zip(HEADERS, values, strict=True))
    return headers | {"content-type": "application/json"}, body


def _ended(row: sqlite3.Row, status: int) -> dict[str, Any]:
    """What is noted of an attempt: it is over, or when the next one is."""
    attempts, now_ms = row["attempts"] + 1, _now_ms()
    over = 200 <= status < 300 or row["forgery"] is not None or attempts >= ATTEMPTS
    wait_ms = min(FIRST_WAIT_MS * 2 ** (attempts - 1), LONGEST_WAIT_MS)
    return {
        "delivery": row["delivery"],
        "attempts": attempts,
        "status": status,
        "due_at_ms": now_ms if over else now_ms + wait_ms,
        "ended_at_ms": now_ms if over else None,
    }


def _update(connection: sqlite3.Connection, ended: Sequence[dict[str, Any]]) -> None:
    connection.executemany(UPDATE, ended)


def _trim(connection: sqlite3.Connection, before: dict[str, int]) -> None:
    connection.execute(TRIM, before)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
