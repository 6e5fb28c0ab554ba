"""The proofs: each rule is broken on purpose once, and says so. Planted = caught."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from services.business.cancellations import CANCEL_ORDERS
from services.business.cart_versions import cart_version
from services.business.carts import open_cart
from services.business.expiry import run_once as expire
from services.business.followup_claims import CLAIM_FOLLOWUPS, FollowUp
from services.business.followups import follow_up, send, settle_followup
from services.business.order_states import COMES_FROM, move_orders
from services.business.orders import place_order
from services.business.payments import charge_order, claim, pay, settle
from services.business.rollups import catch_up, count_entries
from services.business.sale_claims import CLAIM_UNITS, NewClaim
from services.business.schemas import OrderRequest
from services.business.shop import Shop, open_shop
from services.data import orders, payment_operations, payments
from services.data.analytics_rules import COUNTED, EVENTS, REVENUE, WIDTHS
from services.data.customers import OPERATOR
from services.data.idempotency import Key
from services.data.ledger_rules import BOOKED, OWED, UNAPPLIED
from services.data.log_reader import LogEntry
from services.data.message_rules import HANDLED
from services.data.order_rules import ALLOWED_MOVES
from services.data.payment_operations import Kind
from services.data.payment_rules import ASKED, CAPTURES, LATE, PAID, REFUNDED, VOIDED
from services.data.payments import Payment
from services.data.proofs import RULES, VIOLATIONS_SHOWN, find_violations
from services.data.rollups import make_hour, make_partitions
from services.data.rules import Rule
from services.data.stock import Quantity, release_stock
from services.deadline import Deadline
from services.events import View, write_events
from tests.laboratory import OwnDatabase, migrated_database
from tests.running_stack import RunningStack
from tests.shopping import Books, open_books, place


class Planted(NamedTuple):
    """What breaks a rule, and the constraints that would not have let it."""

    sentence: str
    sql: str
    without: tuple[str, ...] = ()
    where: str = ""


PLACED = "where order_id = (select order_id from orders where state = 'placed' limit 1)"
UNSETTLED = "where order_id = (select order_id from payments where state = 'INIT' limit 1)"

KEEPS = "an unsettled payment keeps the stock of its order, until its time is over"
HISTORY = "the history of an order begins where it was placed, has no gap and ends at its state"
MOVES = "an order moves only as orders may"
CARTS = "a cart is ordered if there is an order of it, with just its lines"
MANUAL = "where capture_method = 'manual' and captured_minor > 0"
CLAIMED = "what is claimed of a sale is claimed by orders"
AT_ITS_TERMS = (
    "a claim is an order of its units alone, at the price of the sale and while it was open"
)
SALE_FKEY = "flash_sales_variant_fkey"

PLANTED = (
    Planted(
        HANDLED,
        "insert into webhook_events (provider, webhook_id, payload, received_at, next_attempt_at)"
        " values ('sandbox', 'msg_2', '{}', now() - interval '73 hours', now())",
    ),
    Planted(
        "every webhook that waits is tried again in time",
        "insert into webhook_events (provider, webhook_id, payload, next_attempt_at)"
        " values ('sandbox', 'msg_1', '{}', now() - interval '2 minutes')",
    ),
    Planted(
        "an amount that is held for review was not booked",
        "insert into payment_reviews (subject_id, source, expected_minor, expected_currency,"
        " seen_minor, seen_currency)"
        " select cause_id, 'webhook', 1, 'USD', amount_minor, currency from ledger_transfers",
    ),
    Planted(
        "what came in is available, held or sold",
        "update stock set available = available + 1",
        ("stock_sum",),
    ),
    Planted(
        "what came in is the sum of the journal",
        "update stock set received = received + 1, available = available + 1",
    ),
    Planted("what came in is the sum of the journal", "delete from stock_journal"),
    Planted(
        "what is held is held by orders",
        "update stock set available = available - 1, held = held + 1",
    ),
    Planted(
        "what is sold was sold by orders",
        "update stock set available = available - 1, sold = sold + 1",
    ),
    Planted("the total is the sum of the lines", "update orders set total_minor = total_minor + 1"),
    Planted(
        "the total is the sum of the lines",
        "delete from order_lines",
        where=PLACED,
    ),
    Planted(
        "each line has one hold of its quantity, in the state of the order",
        "update stock_holds set quantity = quantity + 1",
    ),
    Planted(
        "each line has one hold of its quantity, in the state of the order",
        "delete from stock_holds",
        where=PLACED,
    ),
    Planted(
        "each line has one hold of its quantity, in the state of the order",
        "update orders set state = 'expired' where state = 'placed'",
    ),
    Planted(
        "each line has one hold of its quantity, in the state of the order",
        "update stock_holds set state = 'expired' where state = 'released'",
    ),
    Planted(HISTORY, "delete from order_events where to_state = 'expired'"),
    Planted(HISTORY, "delete from order_events where from_state is null and to_state = 'placed'"),
    Planted(HISTORY, "delete from order_events", where=PLACED),
    Planted(HISTORY, "update order_events set to_state = 'cancelled' where to_state = 'expired'"),
    Planted(HISTORY, "update order_events set from_state = 'authorized' where to_state = 'paid'"),
    Planted(
        HISTORY,
        "insert into order_events (customer_id, order_id, from_state, to_state, cause)"
        " select customer_id, order_id, 'placed', 'expired', 'not_paid_in_time' from orders"
        " where state = 'cancelled'",
    ),
    Planted(
        MOVES,
        "insert into order_events (customer_id, order_id, from_state, to_state, cause)"
        " select customer_id, order_id, 'expired', 'paid', 'payment_captured' from orders"
        " where state = 'expired'",
    ),
    Planted(MOVES, "update order_events set from_state = null where to_state = 'cancelled'"),
    Planted(CARTS, "update carts set state = 'open' where state = 'ordered'"),
    Planted(CARTS, "update carts set state = 'ordered' where state = 'open'"),
    Planted(CARTS, "update cart_lines set quantity = quantity + 1"),
    Planted(CARTS, "delete from cart_lines where quantity = 2"),
    Planted(
        CARTS,
        "insert into cart_lines (customer_id, cart_id, variant_id, quantity)"
        " select c.customer_id, c.cart_id, v.variant_id, 1 from carts c, variants v"
        " on conflict do nothing",
    ),
    Planted(
        PAID,
        "update orders set state = 'paid'",
        where=PLACED,
    ),
    Planted(
        PAID,
        "update payments set state = 'FAILED' where state = 'SUCCESS'",
        ("payments_captured_once_successful",),
    ),
    Planted(
        PAID,
        "update payments set amount_minor = amount_minor - 1 where state = 'SUCCESS'",
        ("payments_captured_range", "payments_automatic_is_captured"),
    ),
    Planted(
        PAID,
        "update payments set currency = 'EUR' where state = 'SUCCESS'",
    ),
    Planted(
        PAID,
        "insert into payments (customer_id, payment_id, order_id, state, amount_minor, currency,"
        " payment_method, charge_id, next_check_at, captured_minor)"
        " select customer_id, uuidv7(), order_id, state, amount_minor, currency, payment_method,"
        " charge_id, next_check_at, captured_minor from payments where state = 'SUCCESS'"
        " and capture_method = 'automatic'",
        ("payments_one_live_per_order",),
    ),
    Planted(CLAIMED, "update flash_sales set claimed = claimed - 1"),
    Planted(CLAIMED, "update flash_sale_claims set quantity = quantity + 1"),
    Planted(
        "no customer has more of a sale than one customer may have",
        "update flash_sales set customer_limit = 1",
    ),
    Planted(AT_ITS_TERMS, "update flash_sales set unit_price_minor = unit_price_minor + 1"),
    Planted(AT_ITS_TERMS, "update flash_sales set currency = 'EUR'"),
    Planted(AT_ITS_TERMS, "update flash_sales set variant_id = uuidv7()", (SALE_FKEY,)),
    Planted(AT_ITS_TERMS, "update flash_sales set opens_at = now()"),
    Planted(
        AT_ITS_TERMS,
        "update flash_sales set closes_at = opens_at + interval '1 microsecond'",
    ),
    Planted(
        "units go back to the sale when their order ends unpaid, and not otherwise",
        "update flash_sale_claims set returned_at = null where returned_at is not null",
    ),
    Planted(
        "units go back to the sale when their order ends unpaid, and not otherwise",
        "update flash_sale_claims set returned_at = now() where returned_at is null",
    ),
    Planted(
        KEEPS,
        "update stock_holds set state = 'held'",
        where=UNSETTLED,
    ),
    Planted(
        KEEPS,
        "update stock_holds set state = 'expired', resolved_at = paying_until - interval '1 s'",
        where=UNSETTLED,
    ),
    Planted(
        KEEPS,
        "update stock_holds set state = 'released', resolved_at = now(), paying_until = null",
        where=UNSETTLED,
    ),
    Planted(
        "stock is kept for a payment only while there is one",
        "update stock_holds set state = 'paying', paying_until = now() + interval '1 minute'",
        where=PLACED,
    ),
    Planted(
        "reconcile asks about every unsettled payment in time",
        "update payments set next_check_at = now() - interval '2 minutes' where state = 'INIT'",
    ),
    Planted(PAID, "update orders set state = 'authorized' where state = 'paid'"),
    Planted(PAID, "update orders set state = 'refunded' where state = 'paid'"),
    Planted(PAID, "update orders set state = 'paid' where state = 'refunded'"),
    Planted(
        LATE,
        "delete from payment_operations where cause = 'order_ended' and state = 'INIT'",
    ),
    Planted(
        CAPTURES,
        "update payments set captured_minor = captured_minor + 1",
        (
            "payments_captured_range",
            "payments_automatic_is_captured",
            "payments_captured_once_successful",
        ),
        where=MANUAL,
    ),
    Planted(
        CAPTURES,
        "update payments set capturing_minor = capturing_minor + 1",
        (
            "payments_captured_range",
            "payments_automatic_is_captured",
            "payments_captured_once_successful",
        ),
        where=MANUAL,
    ),
    Planted(
        CAPTURES,
        "update payment_operations set amount_minor = amount_minor + 1 where kind = 'capture'",
    ),
    Planted(
        CAPTURES,
        "update payment_operations set state = 'FAILED' where kind = 'capture'",
    ),
    Planted(
        REFUNDED,
        "update payments set refunded_minor = refunded_minor + 1",
        ("payments_refunded_range",),
        where=MANUAL,
    ),
    Planted(
        REFUNDED,
        "update payments set refunding_minor = refunding_minor + 1",
        ("payments_refunded_range",),
        where=MANUAL,
    ),
    Planted(
        REFUNDED,
        "update payment_operations set state = 'ERRORED' where kind = 'refund'",
    ),
    Planted(VOIDED, "update payments set voided_at = null where voided_at is not null"),
    Planted(VOIDED, "update payment_operations set state = 'FAILED' where kind = 'void'"),
    Planted(
        ASKED,
        "update payment_operations set next_check_at = now() - interval '2 minutes'"
        " where state = 'INIT'",
    ),
    Planted(
        BOOKED,
        "update ledger_transfers set debit_account = 'unapplied_receipts'"
        " where debit_account = 'refunds'",
    ),
    Planted(
        UNAPPLIED,
        "update ledger_transfers set credit_account = 'sales'"
        " where credit_account = 'unapplied_receipts'",
    ),
    Planted(
        OWED,
        "update ledger_transfers set amount_minor = amount_minor + 1 where cause ="
        " 'payment_refunded'",
    ),
    Planted(
        BOOKED,
        "delete from ledger_transfers",
    ),
    Planted(
        BOOKED,
        "update ledger_transfers set amount_minor = amount_minor + 1",
    ),
    Planted(BOOKED, "update ledger_transfers set currency = 'EUR'"),
    Planted(
        BOOKED,
        "update ledger_transfers set debit_account = 'sales', credit_account = 'provider_clearing'",
    ),
    Planted(
        BOOKED,
        "insert into ledger_transfers (debit_account, credit_account, amount_minor, currency,"
        " cause, cause_id) select debit_account, credit_account, amount_minor, currency, cause,"
        " uuidv7() from ledger_transfers",
    ),
    Planted(
        BOOKED,
        "insert into ledger_transfers (debit_account, credit_account, amount_minor, currency,"
        " cause, cause_id) select debit_account, credit_account, amount_minor, currency, cause,"
        " cause_id from ledger_transfers",
        ("ledger_transfers_cause_key",),
    ),
    Planted(OWED, "update ledger_transfers set amount_minor = amount_minor + 1"),
    Planted(OWED, "update payments set currency = 'EUR' where state = 'SUCCESS'"),
    Planted(
        OWED,
        "insert into ledger_transfers (debit_account, credit_account, amount_minor, currency,"
        " cause, cause_id) select credit_account, debit_account, 1, currency, 'made_up', cause_id"
        " from ledger_transfers",
    ),
    Planted(
        "every key stands for what it has made, which exists",
        "update idempotency_keys set subject_id = uuidv7()",
    ),
    Planted(
        "every order, payment and operation on one of the last day was made by a key",
        "delete from idempotency_keys where operation = 'pay_order'",
    ),
    Planted(
        COUNTED,
        "with moved as (update ledger_transfers set created_at = now() - interval '4 minutes')"
        " delete from counted_transfers",
    ),
    Planted(REVENUE, "update revenue_windows set sales_minor = sales_minor + 1"),
    Planted(REVENUE, "delete from revenue_windows where refunds > 0"),
    Planted(REVENUE, "update revenue_windows set currency = 'EUR'"),
    Planted(
        REVENUE,
        "insert into revenue_windows (width_s, starts_at, currency, sales, sales_minor)"
        " values (3600, 'epoch', 'JPY', 1, 1)",
    ),
    Planted(WIDTHS, "update event_windows set events = events + 1 where width_s = 1"),
    Planted(WIDTHS, "delete from event_windows where width_s = 60"),
    Planted(EVENTS, "update event_windows set late_events = late_events + 1"),
    Planted(EVENTS, "delete from event_windows"),
    Planted(
        EVENTS,
        "update event_totals set taken = taken + 1, counted = counted + 1",
    ),
    Planted(
        "nothing waits to be published for more than a minute",
        "update outbox set created_at = now() - interval '2 minutes', published_at = null",
    ),
)


@pytest_asyncio.fixture(scope="module")
async def traded(stack: RunningStack) -> AsyncIterator[OwnDatabase]:
    """A database with an order in every state, and payments."""
    async with migrated_database(stack) as database:
        dsn = database.superuser_dsn()
        async with open_shop(database.settings()) as shop, open_books(dsn) as books:
            await trade(shop, books)
            await analyse(shop)
        yield database


async def trade(shop: Shop, books: Books) -> None:
    goods = await books.goods(variants=3)
    lines = {goods.variants[0]: 2, goods.variants[1]: 1}
    keys = [await place(shop, lines) for _ in range(6)]
    assert (await pay(shop, keys[0], "tok_approve", "a", b"")).payment.state == "SUCCESS"
    assert (await pay(shop, keys[1], "tok_decline", "a", b"")).payment.state == "FAILED"
    await claim(shop, keys[2], "tok_approve", "a", b"")
    await books.rows(
        "update stock_holds set expires_at = now() where order_id = $1", keys[3].order_id
    )
    await books.rows(
        "insert into webhook_events (provider, webhook_id, payload, next_attempt_at)"
        " values ('sandbox', 'msg_0', '{}', now() + interval '1 hour')"
    )
    await books.rows(
        "insert into payment_reviews (subject_id, source, expected_minor, expected_currency,"
        " seen_minor, seen_currency) select payment_id, 'webhook', amount_minor, currency, 1, 'USD'"
        " from payments where state = 'SUCCESS'"
    )
    sale_id = await books.flash_sale(goods.variants[0], units=9, customer_limit=2)
    for customer_id, key in ((keys[0].customer_id, "b"), (keys[1].customer_id, "b")):
        placed = await shop.join(CLAIM_UNITS, NewClaim(customer_id, sale_id, 2, key, b""))
    await books.rows(
        "update stock_holds set expires_at = now() where order_id = $1", placed.order_id
    )
    assert await expire(shop) == 2
    await shop.join(CANCEL_ORDERS, keys[4])
    await order_a_cart(shop, keys[0].customer_id, goods.variants[:2])
    await open_cart(shop, keys[0].customer_id, None, [Quantity(goods.variant, 1)])
    await trade_later(shop, books, lines)


async def order_a_cart(shop: Shop, customer_id: UUID, variants: list[UUID]) -> None:
    lines = [Quantity(variant, place) for place, variant in enumerate(variants, start=1)]
    cart = await open_cart(shop, customer_id, None, lines)
    wanted = OrderRequest(cart_id=cart.cart_id, cart_version=cart_version(cart))
    await place_order(shop, customer_id, wanted, "cart", b"")


def test_the_moves_that_are_proved_are_those_that_are_made() -> None:
    made = {(was, to) for to, states in COMES_FROM.items() for was in states}
    proved = re.findall(r"\('(\w+)', '(\w+)'\)", ALLOWED_MOVES)
    assert {*proved} == made | {("nothing", "placed")}


async def trade_later(shop: Shop, books: Books, lines: dict[UUID, int]) -> None:
    """Captures, a void, refunds, and money that came when its order had ended."""
    keys = [await place(shop, lines) for _ in range(6)]
    one, two, three, four = [
        (await pay(shop, key, "tok_approve", "a", b"", capture="manual")).payment
        for key in keys[:4]
    ]
    done: list[tuple[Payment, Kind, int | None]] = [
        (one, "capture", 10),
        (one, "refund", 4),
        (two, "void", None),
        (three, "capture", None),
        (three, "refund", None),
    ]
    for number, (payment, kind, amount_minor) in enumerate(done):
        asked = followup(payment, kind, amount_minor, f"key {number}")
        assert (await follow_up(shop, asked)).operation.state == "SUCCESS"
    await shop.join(CLAIM_FOLLOWUPS, followup(four, "capture", 5, "never sent"))
    for key in keys[4:]:
        late = (await claim(shop, key, "tok_approve", "a", b"")).payment
        async with shop.database.primary.transaction() as tx:
            moved = await orders.move_holds(tx, [key], was="paying", becomes="expired")
            await release_stock(tx, list(moved.values()))
            await move_orders(tx, [key], "expired", "not_paid_in_time")
        charged = await shop.provider.charge(charge_order(late), Deadline.after(5.0))
        assert (await settle(shop, late, charged)).state == "SUCCESS"
    # One of them was given back by now.
    back = await books.value(
        "select operation_id from payment_operations where cause = 'order_ended' limit 1"
    )
    found = await payment_operations.select_operations(shop.database.primary, [back])
    given = found[back]
    rows = await payments.select_payments_by_id(shop.database.primary, [given.payment_id])
    sent = await send(shop, given, rows[given.payment_id], Deadline.after(5.0))
    settled = await settle_followup(shop, given, rows[given.payment_id], sent)
    assert settled.state == "SUCCESS"


async def analyse(shop: Shop) -> None:
    """What was booked, and what two visitors did, in the numbers of analytics."""
    assert await catch_up(shop, timedelta()) > 0
    now = datetime.now(UTC)
    arrived_ms = int(now.timestamp() * 1000)
    moments = (now, now - timedelta(hours=1), now + timedelta(hours=1))
    written = write_events([View(uuid4(), at) for at in moments])
    entry = LogEntry(arrived_ms, 0, arrived_ms, b"visitor1", len(moments), written)
    for step in (-1, 0, 1):
        async with shop.database.primary.transaction() as tx:
            await make_partitions(tx, now.date() + timedelta(days=step))
    async with shop.database.primary.transaction() as tx:
        await make_hour(tx, arrived_ms)
    await count_entries(shop, "a log", [entry])


def followup(payment: Payment, kind: Kind, amount_minor: int | None, key: str) -> FollowUp:
    currency = None if amount_minor is None else payment.currency
    used = Key(OPERATOR, kind, key, b"")
    return FollowUp(payment.payment_id, kind, used, amount_minor, currency)


@pytest_asyncio.fixture(scope="module")
async def books(traded: OwnDatabase) -> AsyncIterator[Books]:
    async with open_books(traded.superuser_dsn()) as opened:
        yield opened


async def drop(books: Books, constraint: str) -> None:
    """For the rest of the transaction: a constraint, or an index that is one."""
    table = await books.value(
        "select conrelid::regclass::text from pg_constraint where conname = $1", constraint
    )
    if table is None:
        await books.rows(f"drop index {constraint}")
    else:
        await books.rows(f"alter table {table} drop constraint {constraint}")


async def broken(books: Books) -> list[str]:
    return [rule.sentence for rule in RULES if await books.rows(rule.broken)]


async def test_all_rules_hold_for_what_was_traded_and_had_something_to_look_at(
    traded: OwnDatabase, books: Books
) -> None:
    assert await broken(books) == []
    for rule in RULES:
        assert await books.value(rule.checked) > 0, rule.sentence


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.sql[:60])
async def test_what_is_planted_is_caught(planted: Planted, books: Books) -> None:
    transaction = books.connection.transaction()
    await transaction.start()
    try:
        for constraint in planted.without:
            await drop(books, constraint)
        status = await books.connection.execute(f"{planted.sql} {planted.where}")
        assert not status.endswith(" 0"), "nothing was planted"
        assert planted.sentence in await broken(books)
    finally:
        await transaction.rollback()
    assert await broken(books) == []


@pytest.mark.parametrize(
    "planted", [one for one in PLANTED if one.without], ids=lambda planted: planted.without[0]
)
async def test_a_constraint_does_not_let_it_be_planted(planted: Planted, books: Books) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        async with books.connection.transaction():
            await books.rows(planted.sql)
    assert refused.value.constraint_name in planted.without


def test_every_rule_was_broken_once() -> None:
    sentences = {rule.sentence for rule in RULES}
    assert {planted.sentence for planted in PLANTED} == sentences
    assert len(PLANTED) >= 25


async def test_findings_name_the_rows_and_not_too_many(traded: OwnDatabase) -> None:
    # The row after the first that is not shown says that there are more; the next is not read.
    rows = "select 1 / (22 - n) as inverse, n from generate_series(1, 30) n"
    many = Rule("area", "there are no numbers", "select 30", rows)
    fine = Rule("area", "nothing is nothing", "select 1", "select 1 where false")
    async with open_shop(traded.settings()) as shop:
        primary = shop.database.primary
        findings = [finding async for finding in find_violations(primary, (many, fine))]
        assert [finding.checked_count for finding in findings] == [30, 1]
        numbers = range(1, VIOLATIONS_SHOWN + 1)
        shown = [f"inverse {1 // (22 - number)}, n {number}" for number in numbers]
        assert findings[0].broken == [*shown, "and more"]
        assert findings[1].broken == []
        held = [finding.broken async for finding in find_violations(primary)]
        assert held == [[]] * len(RULES)


async def test_all_rules_see_one_moment_while_the_shop_goes_on(traded: OwnDatabase) -> None:
    count = Rule("area", "orders", "select count(*) from orders", "select 1 where false")
    async with open_shop(traded.settings()) as shop:
        async with open_books(traded.superuser_dsn()) as books:
            goods = await books.goods()
        counts = []
        async for finding in find_violations(shop.database.primary, (count, count)):
            counts.append(finding.checked_count)
            await place(shop, {goods.variant: 1})
        assert counts[0] == counts[1]
