"""The tables of a shop in memory, and what its statements do with them.

Each statement of services/data is named here by its constant and done by a function; SQL that is
not named can not be executed. Rows are immutable, so a copy of the tables is a snapshot. The
constraints that code relies on are here as well, and are errors of asyncpg.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from services.data import (
    flash_sales,
    idempotency,
    ledger,
    orders,
    outbox,
    payment_operations,
    payment_reviews,
    payments,
    stock,
    webhooks,
)
from services.data.ledger import Transfer
from services.data.orders import Order
from services.data.payment_operations import PaymentOperation
from services.data.payments import Payment
from services.data.webhooks import WebhookKey

BEGAN_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
UNSETTLED: Final = frozenset(("INIT", "PENDING", "UNKNOWN"))
Pair = tuple[UUID, UUID]


class Row(tuple[Any, ...]):
    """A record as asyncpg gives it: by place, by slice and by name."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, row: Any, *more: object) -> Row:
        made = cls((*row, *more))
        made.names = row._fields
        return made

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.names.index(key) if isinstance(key, str) else key)


class Hold(NamedTuple):
    variant_id: UUID
    quantity: int
    state: str
    expires_at: datetime
    paying_until: datetime | None = None


class Stock(NamedTuple):
    available: int
    held: int
    sold: int


class StoredKey(NamedTuple):
    fingerprint: bytes
    subject_id: UUID
    lease_until: datetime
    answered: bool = False


class Unsettled(NamedTuple):
    """A payment or operation with the time of its next check."""

    row: Any
    next_check_at: datetime


class StoredWebhook(NamedTuple):
    payload: bytes
    received_at: datetime
    next_attempt_at: datetime
    attempt_count: int = 0
    state: str = "waiting"


class OrderMove(NamedTuple):
    order_id: UUID
    was: str
    becomes: str


@dataclass
class Tables:
    """One version of the shop's data. seconds: of the database's clock."""

    new_id: Callable[[], UUID]
    seconds: float = 0.0
    orders: dict[Pair, Order] = field(default_factory=dict)
    holds: dict[Pair, Hold] = field(default_factory=dict)  # one an order is enough
    stock: dict[UUID, Stock] = field(default_factory=dict)
    payments: dict[UUID, Unsettled] = field(default_factory=dict)
    operations: dict[UUID, Unsettled] = field(default_factory=dict)
    keys: dict[tuple[UUID, str, str], StoredKey] = field(default_factory=dict)
    transfers: tuple[Transfer, ...] = ()
    webhooks: dict[WebhookKey, StoredWebhook] = field(default_factory=dict)
    reviews: dict[tuple[UUID, int, str], tuple[Any, ...]] = field(default_factory=dict)
    moves: tuple[OrderMove, ...] = ()
    events: tuple[str, ...] = ()
    transfers_are_unique: bool = True

    def copy(self, seconds: float) -> Tables:
        return replace(
            self,
            seconds=seconds,
            orders=dict(self.orders),
            holds=dict(self.holds),
            stock=dict(self.stock),
            payments=dict(self.payments),
            operations=dict(self.operations),
            keys=dict(self.keys),
            webhooks=dict(self.webhooks),
            reviews=dict(self.reviews),
        )

    @property
    def now(self) -> datetime:
        return BEGAN_AT + timedelta(seconds=self.seconds)

    def put_payment(self, payment: Payment, next_check_at: datetime) -> None:
        """Raises CheckViolationError as the constraints of the table do."""
        taken = payment.captured_minor + payment.capturing_minor
        given = payment.refunded_minor + payment.refunding_minor
        sums = (payment.capturing_minor, payment.refunding_minor)
        if min(sums) < 0 or taken > payment.amount_minor or given > payment.captured_minor:
            raise asyncpg.CheckViolationError("payments_sums")
        self.payments[payment.payment_id] = Unsettled(payment, next_check_at)


Statement = Callable[..., list[Row] | list[Any]]
STATEMENTS: Final[dict[str, Statement]] = {}


def does(*statements: str) -> Callable[[Statement], Statement]:
    def note(function: Statement) -> Statement:
        for sql in statements:
            STATEMENTS[sql] = function
        return function

    return note


def execute(tables: Tables, sql: str, args: Sequence[Any]) -> list[Any]:
    return STATEMENTS[sql](tables, *args)


# Orders, holds, stock


@does(orders.LOCK_FREE_ORDERS)
def lock_free_orders(db: Tables, customers: list[UUID], ids: list[UUID]) -> list[Row]:
    found = [db.orders[key] for key in zip(customers, ids, strict=True) if key in db.orders]
    return [Row.of(one._replace(hold_is_over=one.hold_expires_at <= db.now)) for one in found]


@does(orders.SELECT_EXISTING)
def select_existing(db: Tables, customers: list[UUID], ids: list[UUID]) -> list[Any]:
    return [key for key in zip(customers, ids, strict=True) if key in db.orders]


@does(orders.UPDATE_STATES)
def update_states(
    db: Tables, customers: list[UUID], ids: list[UUID], was: list[str], becomes: str, _cause: str
) -> list[Any]:
    moved = []
    for key in zip(customers, ids, strict=True):
        order = db.orders[key]
        if order.state in was:
            db.orders[key] = order._replace(state=becomes)
            db.moves += (OrderMove(order.order_id, order.state, becomes),)
            moved.append(key)
    return moved


@does(orders.MOVE_HOLDS)
def move_holds(db: Tables, *args: Any) -> list[Any]:
    customers, ids, was, becomes, paying = args
    moved: list[Any] = []
    for key in dict.fromkeys(zip(customers, ids, strict=True)):
        hold = db.holds.get(key)
        if hold is not None and hold.state == was:
            until = db.now + paying if becomes == "paying" else None
            db.holds[key] = hold._replace(state=becomes, paying_until=until)
            moved.append((*key, hold.variant_id, hold.quantity))
    return moved


def hold_is_over(hold: Hold, now: datetime) -> bool:
    if hold.state == "paying":
        return hold.paying_until is not None and hold.paying_until <= now
    return hold.state == "held" and hold.expires_at <= now


@does(orders.LOCK_EXPIRED)
def lock_expired(db: Tables, limit: int) -> list[Any]:
    return [
        key
        for key, order in db.orders.items()
        if order.state == "placed" and hold_is_over(db.holds[key], db.now)
    ][:limit]


@does(orders.EXPIRE_HOLDS)
def expire_holds(db: Tables, customers: list[UUID], ids: list[UUID]) -> list[Any]:
    moved: list[Any] = []
    for key in zip(customers, ids, strict=True):
        hold = db.holds[key]
        if hold_is_over(hold, db.now):
            db.holds[key] = hold._replace(state="expired")
            moved.append((*key, hold.variant_id, hold.quantity))
    return moved


class StockRow(NamedTuple):
    variant_id: UUID
    available: int


@does(stock.LOCK_STOCK, stock.LOCK_FREE_STOCK)
def lock_stock(db: Tables, variants: list[UUID]) -> list[Row]:
    return [Row.of(StockRow(one, db.stock[one].available)) for one in variants]


@does(stock.SELECT_STOCKED)
def select_stocked(_db: Tables, _variants: list[UUID]) -> list[Row]:
    return []  # of those that could not be locked; all can


def _move_stock(
    db: Tables, variants: list[UUID], quantities: list[int], by: tuple[int, int, int]
) -> None:
    for variant_id, quantity in zip(variants, quantities, strict=True):
        old = db.stock[variant_id]
        new = Stock(*(was + sign * quantity for was, sign in zip(old, by, strict=True)))
        if min(new) < 0:
            raise asyncpg.CheckViolationError("stock_not_negative")
        db.stock[variant_id] = new


@does(stock.HOLD)
def hold_stock(db: Tables, variants: list[UUID], quantities: list[int]) -> list[Row]:
    _move_stock(db, variants, quantities, (-1, 1, 0))
    return []


@does(stock.SELL)
def sell_stock(db: Tables, variants: list[UUID], quantities: list[int]) -> list[Row]:
    _move_stock(db, variants, quantities, (0, -1, 1))
    return []


@does(stock.RETURN)
def return_stock(db: Tables, variants: list[UUID], quantities: list[int]) -> list[Row]:
    _move_stock(db, variants, quantities, (1, 0, -1))
    return []


@does(flash_sales.SELECT_CLAIMED_SALES)
def select_claimed_sales(_db: Tables, _customers: list[UUID], _ids: list[UUID]) -> list[Row]:
    return []  # nothing here is of a sale


# Payments


def is_live(payment: Payment) -> bool:
    return payment.state not in ("FAILED", "ERRORED") and payment.voided_at is None


@does(payments.INSERT_PAYMENTS)
def insert_payments(db: Tables, *columns: Any) -> list[Row]:
    *columns_, first_check = columns
    made = []
    for customer_id, order_id, amount, currency, method, capture in zip(*columns_, strict=True):
        of_order = [u.row for u in db.payments.values() if u.row.order_id == order_id]
        if any(is_live(one) for one in of_order):
            continue
        told = (None, None, "", None, 0)
        row = (customer_id, db.new_id(), order_id, "INIT", amount, currency, method, *told)
        payment = Payment._make((*row, db.now, db.now, capture, 0, 0, 0, 0, None))
        db.put_payment(payment, db.now + first_check)
        made.append(Row.of(payment))
    return made


@does(payments.SELECT_PAYMENTS, payments.LOCK_PAYMENTS)
def select_payments(db: Tables, _customers: list[UUID], ids: list[UUID]) -> list[Row]:
    return [Row.of(db.payments[one].row) for one in ids if one in db.payments]


@does(payments.SELECT_BY_ID)
def select_by_id(db: Tables, ids: list[UUID]) -> list[Row]:
    return [Row.of(db.payments[one].row) for one in dict.fromkeys(ids) if one in db.payments]


@does(payments.UPDATE_PAYMENTS)
def update_payments(db: Tables, *columns: Any) -> list[Row]:
    *columns_, first_wait = columns
    rows = []
    for _, payment_id, state, charge_id, code, detail, url in zip(*columns_, strict=True):
        old, next_check_at = db.payments[payment_id]
        taken = state == "SUCCESS" and old.capture_method == "automatic"
        new = old._replace(
            state=state,
            charge_id=charge_id or old.charge_id,
            decline_code=code,
            detail=detail,
            updated_at=db.now,
            next_action_url=url or old.next_action_url,
            captured_minor=old.amount_minor if taken else old.captured_minor,
        )
        due = db.now + first_wait if old.state == "INIT" else next_check_at
        db.put_payment(new, due)
        rows.append(Row.of(new))
    return rows


def _claim_due(
    db: Tables, table: dict[UUID, Unsettled], limit: int, *waits: timedelta
) -> list[Row]:
    first, longest, believed_after = waits
    due = sorted(
        (next_at, one)
        for one, (row, next_at) in table.items()
        if row.state in UNSETTLED and next_at <= db.now
    )
    rows = []
    for _, one in due[:limit]:
        old = table[one].row
        wait = min(first * 2 ** min(old.check_count, 10), longest)
        if (left := old.created_at + believed_after - db.now) > timedelta():
            wait = min(wait, max(left, first))
        new = old._replace(check_count=old.check_count + 1)
        table[one] = Unsettled(new, db.now + wait)
        rows.append(Row.of(new, db.now - new.created_at))
    return rows


@does(payments.CLAIM_DUE)
def claim_due(db: Tables, limit: int, *waits: timedelta) -> list[Row]:
    return _claim_due(db, db.payments, limit, *waits)


@does(payments.ADD_SUMS)
def add_sums(db: Tables, *columns: Any) -> list[Row]:
    rows = []
    for _, payment_id, capturing, captured, refunding, refunded, voided in zip(
        *columns, strict=True
    ):
        old, next_check_at = db.payments[payment_id]
        new = old._replace(
            capturing_minor=old.capturing_minor + capturing,
            captured_minor=old.captured_minor + captured,
            refunding_minor=old.refunding_minor + refunding,
            refunded_minor=old.refunded_minor + refunded,
            voided_at=db.now if voided else old.voided_at,
        )
        db.put_payment(new, next_check_at)
        rows.append(Row.of(new))
    return rows


@does(payments.ESCALATE_PAYMENT, payment_operations.ESCALATE_OPERATION)
def escalate(_db: Tables, _customer_id: UUID, _one: UUID) -> list[Row]:
    return []  # somebody is told, which changes nothing


# Captures, voids, refunds


@does(payment_operations.INSERT_OPERATIONS)
def insert_operations(db: Tables, *columns: Any) -> list[Row]:
    *columns_, first_check = columns
    made = []
    for customer_id, payment_id, kind, cause, amount, currency in zip(*columns_, strict=True):
        row = (customer_id, db.new_id(), payment_id, kind, cause, "INIT", amount, currency)
        one = PaymentOperation._make((*row, None, None, "", 0, db.now, db.now))
        db.operations[one.operation_id] = Unsettled(one, db.now + first_check)
        made.append(Row.of(one))
    return made


@does(payment_operations.SELECT_OPERATIONS, payment_operations.LOCK_OPERATIONS)
def select_operations(db: Tables, ids: list[UUID]) -> list[Row]:
    return [Row.of(db.operations[one].row) for one in dict.fromkeys(ids) if one in db.operations]


@does(payment_operations.SELECT_OF_PAYMENTS)
def select_of_payments(db: Tables, _customers: list[UUID], ids: list[UUID]) -> list[Row]:
    return [Row.of(one.row) for one in db.operations.values() if one.row.payment_id in ids]


@does(payment_operations.UPDATE_OPERATIONS)
def update_operations(db: Tables, *columns: Any) -> list[Row]:
    *columns_, first_wait = columns
    rows = []
    for _, operation_id, state, reference, code, detail in zip(*columns_, strict=True):
        old, next_check_at = db.operations[operation_id]
        new = old._replace(
            state=state,
            provider_reference=reference or old.provider_reference,
            decline_code=code,
            detail=detail,
            updated_at=db.now,
        )
        due = db.now + first_wait if old.state == "INIT" else next_check_at
        db.operations[operation_id] = Unsettled(new, due)
        rows.append(Row.of(new))
    return rows


@does(payment_operations.CLAIM_DUE)
def claim_due_operations(db: Tables, limit: int, *waits: timedelta) -> list[Row]:
    return _claim_due(db, db.operations, limit, *waits)


# Keys, ledger, webhooks, reviews, events


class KeyFound(NamedTuple):
    customer_id: UUID
    operation: str
    idempotency_key: str
    fingerprint: bytes
    subject_id: UUID
    response_body: bytes | None
    leased: bool


class Subject(NamedTuple):
    subject_id: UUID


@does(idempotency.SELECT_KEYS)
def select_keys(db: Tables, *columns: Any) -> list[Row]:
    found = [(key, db.keys[key]) for key in zip(*columns, strict=True) if key in db.keys]
    return [
        Row.of(KeyFound(*key, row.fingerprint, row.subject_id, b"", row.lease_until > db.now))
        for key, row in found
    ]


@does(idempotency.INSERT_KEYS)
def insert_keys(db: Tables, *columns: Any) -> list[Row]:
    *columns_, lease = columns
    inserted = []
    for customer_id, operation, key, fingerprint, subject_id, _, _ in zip(*columns_, strict=True):
        if (customer_id, operation, key) not in db.keys:
            row = StoredKey(fingerprint, subject_id, db.now + lease)
            db.keys[customer_id, operation, key] = row
            inserted.append(Row.of(Subject(subject_id)))
    return inserted


@does(idempotency.ANSWER_KEYS)
def answer_keys(
    db: Tables, customers: list[UUID], subjects: list[UUID], operation: str, _status: int
) -> list[Row]:
    done = set(zip(customers, subjects, strict=True))
    for key, row in db.keys.items():
        if (key[0], row.subject_id) in done and key[1] == operation:
            db.keys[key] = row._replace(answered=True)
    return []


@does(ledger.INSERT_TRANSFERS)
def insert_transfers(db: Tables, *columns: Any) -> list[Row]:
    for new in (Transfer(*row) for row in zip(*columns, strict=True)):
        known = {(one.cause, one.cause_id) for one in db.transfers}
        if (new.cause, new.cause_id) in known and db.transfers_are_unique:
            raise asyncpg.UniqueViolationError("ledger_transfers_cause_key")
        db.transfers += (new,)
    return []


@does(webhooks.IS_FULL)
def is_full(_db: Tables, _limit: int) -> list[Any]:
    return [(False,)]


@does(webhooks.INSERT_WEBHOOKS)
def insert_webhooks(
    db: Tables, providers: list[str], ids: list[str], payloads: list[bytes], lease: timedelta
) -> list[Any]:
    new: list[Any] = []
    for provider, webhook_id, payload in zip(providers, ids, payloads, strict=True):
        key = WebhookKey(provider, webhook_id)
        if key not in db.webhooks:
            db.webhooks[key] = StoredWebhook(payload, db.now, db.now + lease)
            new.append(key)
    return new


@does(webhooks.CLAIM_DUE)
def claim_due_webhooks(
    db: Tables, limit: int, first: timedelta, longest: timedelta
) -> list[tuple[Any, ...]]:
    due = [
        (key, one)
        for key, one in db.webhooks.items()
        if one.state == "waiting" and one.next_attempt_at <= db.now
    ]
    for key, one in due[:limit]:
        wait = min(first * 2 ** min(one.attempt_count, 12), longest)
        db.webhooks[key] = one._replace(
            attempt_count=one.attempt_count + 1, next_attempt_at=db.now + wait
        )
    return [(*key, one.payload, db.now - one.received_at) for key, one in due[:limit]]


@does(webhooks.END_WEBHOOKS)
def end_webhooks(
    db: Tables, providers: list[str], ids: list[str], states: list[str], _details: list[str]
) -> list[Row]:
    for provider, webhook_id, state in zip(providers, ids, states, strict=True):
        key = WebhookKey(provider, webhook_id)
        if db.webhooks[key].state == "waiting":
            db.webhooks[key] = db.webhooks[key]._replace(state=state)
    return []


@does(webhooks.TRIM)
def trim_webhooks(_db: Tables, *_: Any) -> list[Any]:
    return [(0,)]


@does(payment_reviews.INSERT_REVIEWS)
def insert_reviews(db: Tables, *columns: Iterable[Any]) -> list[Row]:
    made = []
    for row in zip(*columns, strict=True):
        subject_id, _, _, _, seen_minor, seen_currency, _ = row
        if (subject_id, seen_minor, seen_currency) not in db.reviews:
            db.reviews[subject_id, seen_minor, seen_currency] = row
            review = payment_reviews.Review._make((db.new_id(), *row, db.now))
            made.append(Row.of(review))
    return made


@does(outbox.INSERT_EVENTS)
def insert_events(db: Tables, names: list[str], *_: Any) -> list[Row]:
    db.events += tuple(names)
    return []
