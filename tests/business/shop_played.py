"""The real shop as one run of test_model.py has it: the same requests, and what is in the books."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from services.business.cancellations import CANCEL_ORDERS
from services.business.followup_claims import FollowUp
from services.business.followups import follow_up
from services.business.orders import place_order
from services.business.payments import pay
from services.business.schemas import OrderRequest
from services.data.customers import OPERATOR
from services.data.idempotency import Key
from services.data.orders import OrderKey
from services.data.payments import CaptureMethod
from services.problems import Problem
from tests.business.shop_model import Model, Operate, OrderCart, Pay, Place, Request, Said
from tests.own_books import OwnBooks

OPEN: Final = "customer_id = any($1) and state in ('INIT', 'PENDING', 'UNKNOWN')"
LET_END: Final = """
    with moved as (
        update orders set hold_expires_at = now() where order_id = $1 and state = 'placed'
        returning order_id
    )
    update stock_holds set expires_at = now() where order_id in (select order_id from moved)
"""
LET_PAYING_END: Final = """
    update stock_holds set paying_until = now() where order_id = $1 and state = 'paying'
"""
STATES: Final = """
    select o.order_id, o.state, h.state, o.total_minor from orders o
    join stock_holds h using (customer_id, order_id) where o.customer_id = any($1)
"""
PAYMENTS: Final = """
    select payment_id, state, capturing_minor, captured_minor, refunding_minor, refunded_minor,
        voided_at is not null
    from payments where customer_id = any($1)
"""
OPERATIONS: Final = """
    select payment_id, kind, cause, state, amount_minor from payment_operations
    where customer_id = any($1)
"""
BOOKED: Final = """
    select debit_account, credit_account, sum(amount_minor)::bigint from ledger_transfers
    where cause_id in (select payment_id from payments where customer_id = any($1)
        union all select operation_id from payment_operations where customer_id = any($1))
    group by 1, 2
"""


def said(refused: Problem) -> Said:
    """A problem as the model tells it."""
    details = [error["detail"] for error in refused.errors]
    return "refused", type(refused).__name__, *details


def number_of(known: list[UUID], one: UUID) -> int:
    if one not in known:
        known.append(one)
    return known.index(one)


@dataclass
class Played:
    """The real shop, as one run of two customers and three variants has it."""

    own: OwnBooks
    customers: list[UUID]
    variants: list[UUID]
    carts: list[UUID] = field(default_factory=list)
    orders: list[UUID] = field(default_factory=list)
    payments: list[UUID] = field(default_factory=list)
    operations: list[UUID] = field(default_factory=list)
    bodies: dict[UUID, bytes] = field(default_factory=dict)

    async def answer(self, request: Request) -> Said:
        try:
            match request:
                case Place(customer, key, lines):
                    asked = [{"variant_id": str(self.variants[v]), "quantity": q} for v, q in lines]
                    return await self._place(customer, key, request.body, {"lines": asked})
                case OrderCart(customer, key, cart, version):
                    named = {"cart_id": str(self.carts[cart]), "cart_version": version}
                    return await self._place(customer, key, request.body, named)
                case Pay():
                    return await self._pay(request)
                case Operate():
                    return await self._operate(request)
        except Problem as refused:
            return said(refused)

    async def _place(self, customer: int, key: str, body: bytes, asked: dict[str, Any]) -> Said:
        wanted = OrderRequest.model_validate(asked)
        placed = await place_order(self.own.shop, self.customers[customer], wanted, key, body)
        assert self.bodies.setdefault(placed.order_id, placed.body) == placed.body
        return "placed", number_of(self.orders, placed.order_id), placed.replayed

    async def _pay(self, request: Pay) -> Said:
        order_key = OrderKey(self.customers[request.customer], self.orders[request.order])
        how: CaptureMethod = "manual" if request.manual else "automatic"
        payment, replayed = await pay(
            self.own.shop, order_key, request.token, request.key, request.body, capture=how
        )
        number = number_of(self.payments, payment.payment_id)
        return "payment", number, payment.state, replayed

    async def _operate(self, request: Operate) -> Said:
        key = Key(OPERATOR, request.kind, request.key, request.body)
        payment_id = self.payments[request.payment]
        wanted = FollowUp(payment_id, request.kind, key, request.amount, request.currency)
        operation, _, replayed = await follow_up(self.own.shop, wanted)
        number = number_of(self.operations, operation.operation_id)
        return request.kind, number, operation.state, replayed

    async def cancel(self, customer: int, order: int) -> Said:
        try:
            await self.own.shop.join(
                CANCEL_ORDERS, OrderKey(self.customers[customer], self.orders[order])
            )
        except Problem as refused:
            return said(refused)
        return ("cancelled",)

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.own.books.rows(sql, self.customers)]

    async def compare(self, model: Model) -> None:
        """What the database has is what the model has."""
        stock = [list(await self.own.books.stock(variant)) for variant in self.variants]
        assert stock == model.stock, "stock"
        assert {(number_of(self.orders, one), *row) for one, *row in await self.rows(STATES)} == {
            (number, one.state, one.hold, one.total) for number, one in enumerate(model.orders)
        }
        paid = await self.rows(PAYMENTS)
        assert {(number_of(self.payments, one), *row) for one, *row in paid} == {
            (number, one.state, one.capturing, one.captured, one.refunding, one.refunded,
                one.voided) for number, one in enumerate(model.payments)
        }  # fmt: skip
        made = await self.rows(OPERATIONS)
        assert Counter((number_of(self.payments, one), *row) for one, *row in made) == Counter(
            (one.payment, one.kind, one.cause, one.state, one.amount)
            for one in model.operations + model.given_back
        )
        booked = {(debit, credit): amount for debit, credit, amount in await self.rows(BOOKED)}
        assert booked == +model.ledger, "ledger"

    async def all_is_due(self) -> None:
        for table in ("payments", "payment_operations"):
            await self.rows(f"update {table} set next_check_at = now() where {OPEN}")  # noqa: S608

    async def all_is_old(self) -> None:
        older = "created_at = created_at - interval '31 seconds'"
        for table in ("payments", "payment_operations"):
            await self.rows(f"update {table} set {older} where {OPEN}")  # noqa: S608

    def all_is_decided(self) -> None:
        for table in ("charges", "operations"):
            sql = f"update {table} set becomes_at_ms = 1 where first_status = 'pending'"  # noqa: S608
            self.own.change_theirs(sql)
