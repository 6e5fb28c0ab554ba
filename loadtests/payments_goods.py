"""What is bought in `make bench-payments`: customers, orders to be paid, and a hot flash sale."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from loadtests.data_goods import fill
from loadtests.data_stack import DataStack
from loadtests.posts import post_bytes
from loadtests.programs import BrokenRunError
from services.data.customers import GUEST_TOKEN_LIFETIME, INSERT_GUESTS
from services.data.message_rules import PUBLISHED
from services.data.proofs import RULES

TOKEN_BYTES: Final = 32  # as a guest's token has
CUSTOMERS: Final = 1_000  # who come again and again, so that access knows them
STOCKED: Final = 2_000_000_000  # units of each variant: no run sells them out
PRICE_MINOR: Final = 1999
SALE_UNITS: Final = 1_000_000_000
SALE_LIMIT: Final = 1000  # units a customer, the most there can be
# What the journal of stock would say of goods that `fill` has put there.
JOURNAL: Final = """
    insert into stock_journal (variant_id, kind, quantity, reason)
    select variant_id, 'receive', received, 'a benchmark' from stock where variant_id = any($1)
"""
# Orders as placing leaves them: lines, holds, history, keys; the stock is held.
INSERT_ORDERS: Final = """
    with fresh as materialized (
        select customer_id, uuidv7() as order_id from unnest($1::uuid[]) customer_id
    ), placed as (
        insert into orders (customer_id, order_id, state, currency, total_minor, hold_expires_at)
        select customer_id, order_id, 'placed', 'USD', $3, now() + interval '1 hour' from fresh
    ), noted as (
        insert into order_events (customer_id, order_id, from_state, to_state, cause)
        select customer_id, order_id, null, 'placed', 'placed' from fresh
    ), lines as (
        insert into order_lines (customer_id, order_id, position, variant_id, title, quantity,
            unit_price_minor)
        select customer_id, order_id, 1, $2, 'Product', 1, $3 from fresh
    ), holds as (
        insert into stock_holds (customer_id, order_id, variant_id, quantity, state, expires_at)
        select customer_id, order_id, $2, 1, 'held', now() + interval '1 hour' from fresh
    ), keys as (
        insert into idempotency_keys (customer_id, operation, idempotency_key, fingerprint, state,
            subject_id, response_status, response_body, lease_until)
        select customer_id, 'place_order', order_id::text, '\\x00', 'answered', order_id, 201, '',
            now()
        from fresh
    ), held as (
        update stock set available = available - (select count(*) from fresh),
            held = held + (select count(*) from fresh)
        where variant_id = $2
    )
    select order_id from fresh
"""
INSERT_SALE: Final = """
    insert into flash_sales (variant_id, opens_at, closes_at, quantity, customer_limit,
        unit_price_minor, currency)
    values ($1, now(), now() + interval '1 day', $2, $3, 999, 'USD') returning flash_sale_id
"""
# Some wait for the relay while the load runs; the others have to hold whatever the load was.
PROVED: Final = [rule for rule in RULES if rule.sentence != PUBLISHED]


class Goods(NamedTuple):
    """Customers by token and id; ordered: what the orders are of; hot: what is in the sale."""

    tokens: list[str]
    customer_ids: list[UUID]
    ordered: UUID
    hot: UUID
    flash_sale_id: UUID


async def make_goods(stack: DataStack) -> Goods:
    tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in range(CUSTOMERS)]
    hashes = [hashlib.sha256(token.encode()).digest() for token in tokens]
    ordered, hot = await fill(stack, 2, available=STOCKED)
    async with stack.owner() as owner:
        await owner.execute(JOURNAL, [ordered, hot])
        rows = await owner.fetch(INSERT_GUESTS, hashes, GUEST_TOKEN_LIFETIME)
        ids = {row["token_sha256"]: row["customer_id"] for row in rows}
        sale_id = await owner.fetchval(INSERT_SALE, hot, SALE_UNITS, SALE_LIMIT)
    return Goods(tokens, [ids[one] for one in hashes], ordered, hot, sale_id)


async def payments(
    stack: DataStack, goods: Goods, host: str, count: int, *, close: bool = False
) -> list[bytes]:
    """So many new orders, and for each the request that pays it."""
    owners = list(islice(cycle(goods.customer_ids), count))
    async with stack.owner() as owner:
        rows = await owner.fetch(INSERT_ORDERS, owners, goods.ordered, PRICE_MINOR, timeout=120)
    body = json.dumps({"payment_method": "tok_approve"}).encode()
    pairs = zip(rows, _credentials(goods), strict=False)
    return [
        post_bytes(host, f"/orders/{row['order_id']}/payments", body, lines, close=close)
        for row, lines in pairs
    ]


def claims(goods: Goods, host: str, count: int) -> list[bytes]:
    """So many requests that claim a unit of the sale."""
    target = f"/flash-sales/{goods.flash_sale_id}/claims"
    lines = islice(_credentials(goods), count)
    return [post_bytes(host, target, b'{"quantity": 1}', each, close=False) for each in lines]


async def prove(stack: DataStack) -> None:
    """BrokenRunError where a rule of the books does not hold after all that was measured."""
    async with stack.owner() as owner:
        broken = [rule.sentence for rule in PROVED if await _rows(owner, rule.broken)]
    if broken:
        raise BrokenRunError(f"broken after the load: {'; '.join(broken)}")


async def _rows(owner: asyncpg.Connection[asyncpg.Record], sql: str) -> int:
    return len(await owner.fetch(f"{sql} limit 1", timeout=120))


def _credentials(goods: Goods) -> Iterator[list[str]]:
    for token in cycle(goods.tokens):
        yield [f"Authorization: Bearer {token}", f"Idempotency-Key: {uuid4().hex}"]
