"""The provider's own books beside ours, line by line: what `reconcile --report` and `prove` say.

Both are read by pages, theirs first. What was seen there is kept in a file of SQLite's that has no
name, so that memory does not grow with the books.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from services.business.matching import (
    Difference,
    Subject,
    compare_charge,
    compare_operation,
    has_money,
    missing_charge,
    missing_operation,
)
from services.business.provider import (
    Amount,
    ChargeLine,
    Listed,
    OperationLine,
    PaymentProvider,
    Unknown,
)
from services.data.booked import (
    BookedOperation,
    BookedPayment,
    list_booked_operations,
    list_booked_payments,
    select_booked_operations,
    select_booked_payments,
)
from services.data.orphan_charges import select_orphans
from services.data.sources import Reader
from services.deadline import Deadline

# A charge is made after its payment, but not by the same clock.
CLOCKS_APART: Final = timedelta(minutes=5)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TRIES: Final = 3  # one lost answer in a long list is no reason to give up
PAUSE_S: Final = 0.5
SEEN_CACHE_KIB: Final = 8192  # what SQLite keeps in memory; the rest is in a file

Line = TypeVar("Line", ChargeLine, OperationLine)
Ask = Callable[[str | None], Awaitable[Listed[Line] | Unknown]]


class BooksUnanswered(Exception):
    """The provider could not be asked for its books; nothing can be said of them."""


@dataclass
class Sum:
    """So many lines that come to so much."""

    count: int = 0
    amount_minor: int = 0

    def add(self, amount_minor: int) -> None:
        self.count += 1
        self.amount_minor += amount_minor


@dataclass
class Comparison:
    """What comparing has come to so far: sums by subject or side, what became of it, and currency.

    "taken": what charges hold at the provider, captured and not given back; "booked": the same of
    successful payments in our books.
    """

    sums: dict[tuple[str, str, str], Sum] = field(default_factory=dict)
    differences: int = 0
    in_flight: int = 0
    began_at: float = field(default_factory=time.monotonic)

    def add(self, subject: str, became: str, amount: Amount) -> None:
        of = self.sums.setdefault((subject, became, amount.currency), Sum())
        of.add(amount.amount_minor)

    def count(self, subject: Subject, found: Sequence[Difference], amount: Amount) -> None:
        """One line or row is compared."""
        flying = sum(one.in_flight for one in found)
        self.in_flight += flying
        self.differences += len(found) - flying
        became = "matched" if not found else "in flight" if flying == len(found) else "different"
        self.add(subject, became, amount)

    def young_s(self, grace_s: float) -> float:
        """How old a change must be to be in what the provider has listed for certain."""
        return grace_s + time.monotonic() - self.began_at


async def compare_books(
    provider: PaymentProvider,
    reader: Reader,
    comparison: Comparison,
    *,
    since: datetime = EPOCH,
    grace_s: float,
    timeout_s: float,
) -> AsyncIterator[Difference]:
    """Every difference and all that is in flight; sums go to `comparison`.

    reader: the primary, because what a standby does not have yet would look like a difference.
    grace_s: changes in our books that are younger are in flight. Raises BooksUnanswered.
    """
    theirs_since = max(since - CLOCKS_APART, EPOCH) if since > EPOCH else EPOCH
    with _seen() as seen:

        def ask_charges(cursor: str | None) -> Awaitable[Listed[ChargeLine] | Unknown]:
            return provider.list_charges(theirs_since, cursor, Deadline.after(timeout_s))

        def ask_operations(cursor: str | None) -> Awaitable[Listed[OperationLine] | Unknown]:
            return provider.list_operations(theirs_since, cursor, Deadline.after(timeout_s))

        async for charges in pages(ask_charges):
            young_s = comparison.young_s(grace_s)
            for one in await _charges(reader, charges, seen, comparison, young_s):
                yield one
        async for operations in pages(ask_operations):
            young_s = comparison.young_s(grace_s)
            for one in await _operations(reader, operations, seen, comparison, young_s):
                yield one
        async for payments in list_booked_payments(reader, since):
            for one in _not_charged(payments, seen, comparison, comparison.young_s(grace_s)):
                yield one
        async for done in list_booked_operations(reader, since):
            for one in _not_done(done, seen, comparison, comparison.young_s(grace_s)):
                yield one


async def pages(ask: Ask[Line]) -> AsyncIterator[list[Line]]:
    """All pages of a list of the provider's. Raises BooksUnanswered."""
    cursor: str | None = None
    while True:
        listed = await _page(ask, cursor)
        if listed.lines:
            yield listed.lines
        if listed.next_cursor is None:
            return
        if listed.next_cursor == cursor:
            raise BooksUnanswered("the provider's list does not go on")
        cursor = listed.next_cursor


async def _page(ask: Ask[Line], cursor: str | None) -> Listed[Line]:
    reason = ""
    for turn in range(TRIES):
        if turn:
            await asyncio.sleep(PAUSE_S)
        listed = await ask(cursor)
        if not isinstance(listed, Unknown):
            return listed
        reason = listed.reason
    raise BooksUnanswered(reason)


def ids_in(keys: Iterable[str]) -> list[UUID]:
    """Those that can be ids of ours: written as we write them."""
    return [found for key in keys if (found := id_of(key)) is not None]


def id_of(key: str) -> UUID | None:
    try:
        found = UUID(key)
    except ValueError:
        return None
    return found if str(found) == key else None


class Seen:
    """What was in the provider's lists."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, subject: Subject, key: str) -> bool:
        """Whether it is new."""
        sql = "insert into seen values (?, ?) on conflict do nothing"
        return self._connection.execute(sql, (subject, key)).rowcount == 1

    def has(self, subject: Subject, key: str) -> bool:
        sql = "select 1 from seen where subject = ? and key = ?"
        return self._connection.execute(sql, (subject, key)).fetchone() is not None


@contextmanager
def _seen() -> Iterator[Seen]:
    connection = sqlite3.connect("", isolation_level=None)  # "": a file that goes with it
    try:
        connection.execute(f"pragma cache_size = -{SEEN_CACHE_KIB}")
        connection.execute("pragma journal_mode = off")
        connection.execute(
            "create table seen (subject text, key text, primary key (subject, key)) without rowid"
        )
        yield Seen(connection)
    finally:
        connection.close()


async def _charges(
    reader: Reader,
    lines: list[ChargeLine],
    seen: Seen,
    comparison: Comparison,
    young_s: float,
) -> list[Difference]:
    payments = await select_booked_payments(reader, ids_in(line.charge_key for line in lines))
    orphans = await select_orphans(reader, [line.charge_key for line in lines])
    differences: list[Difference] = []
    for line in lines:
        key = id_of(line.charge_key)
        booked = payments.get(key) if key is not None else None
        orphan = orphans.get(line.charge_key)
        found = compare_charge(line, booked, orphan, young_s=young_s)
        if not seen.add("charge", line.charge_key):
            sides = ("one charge", "another charge")
            found.append(
                Difference("charge", "twice", line.charge_key, line.charge_id, *sides, line.amount)
            )
        comparison.count("charge", found, line.amount)
        held_minor = line.captured_minor - line.refunded_minor
        if held_minor and has_money(line):
            comparison.add("provider", "taken", Amount(held_minor, line.amount.currency))
        differences += found
    return differences


async def _operations(
    reader: Reader,
    lines: list[OperationLine],
    seen: Seen,
    comparison: Comparison,
    young_s: float,
) -> list[Difference]:
    """What was done with an orphan is ours without a row: its charge tells whether it is back."""
    known = await select_booked_operations(reader, ids_in(line.operation_key for line in lines))
    orphans = await select_orphans(reader, [line.charge_key for line in lines])
    differences: list[Difference] = []
    for line in lines:
        key = id_of(line.operation_key)
        booked = known.get(key) if key is not None else None
        found: list[Difference] = []
        if booked is not None or line.charge_key not in orphans:
            found = compare_operation(line, booked, young_s=young_s)
        if not seen.add("operation", line.operation_key):
            sides = ("one operation", "another operation")
            key_text, reference = line.operation_key, line.operation_id
            found.append(Difference("operation", "twice", key_text, reference, *sides, line.amount))
        comparison.count("operation", found, line.amount)
        differences += found
    return differences


def _not_charged(
    payments: list[BookedPayment], seen: Seen, comparison: Comparison, young_s: float
) -> list[Difference]:
    differences: list[Difference] = []
    for payment in payments:
        held_minor = payment.captured_minor - payment.refunded_minor
        if held_minor:
            comparison.add("payment", "booked", Amount(held_minor, payment.currency))
        if not seen.has("charge", str(payment.payment_id)):
            found = missing_charge(payment, young_s=young_s)
            amount = Amount(payment.amount_minor, payment.currency)
            comparison.count("charge", found, amount)
            differences += found
    return differences


def _not_done(
    done: list[BookedOperation], seen: Seen, comparison: Comparison, young_s: float
) -> list[Difference]:
    differences: list[Difference] = []
    for operation in done:
        if not seen.has("operation", str(operation.operation_id)):
            found = missing_operation(operation, young_s=young_s)
            comparison.count("operation", found, Amount(operation.amount_minor, operation.currency))
            differences += found
    return differences
