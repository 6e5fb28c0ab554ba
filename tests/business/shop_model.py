"""The shop as a few dictionaries: what test_model.py expects of the real one, request by request.

Written from docs/payments.md and nothing else: no code of business is used here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["capture", "void", "refund"]
Said = tuple[object, ...]
Shown = tuple[object, ...]  # what a version of a cart stands for
Lines = tuple[tuple[int, int], ...]  # variants by their number, and how many

UNSETTLED: Final = ("INIT", "PENDING", "UNKNOWN")
ENDED: Final = ("expired", "cancelled")


@dataclass(frozen=True)
class Script:
    """What the provider says at once, and what reconcile comes to, from a moment on.

    asked: when it is asked; decided: once the provider has; old: once it is believed that it never
    arrived.
    """

    first: str
    becomes: str = ""
    once: Literal["", "asked", "decided", "old"] = ""


APPROVED: Final = Script("SUCCESS")
CHARGES: Final = {
    "tok_approve": APPROVED,
    "tok_decline": Script("FAILED"),
    "tok_pending": Script("PENDING", "SUCCESS", "decided"),
    "tok_pending_decline": Script("PENDING", "FAILED", "decided"),
    "tok_drop_after_charge": Script("UNKNOWN", "SUCCESS", "asked"),
    "tok_error_after_charge": Script("UNKNOWN", "SUCCESS", "asked"),
    "tok_error": Script("UNKNOWN", "ERRORED", "old"),
    "tok_error_then_success": Script("UNKNOWN", "ERRORED", "old"),
    "tok_operations_decline": APPROVED,
    "tok_operations_pending": APPROVED,
    "tok_operations_pending_decline": APPROVED,
    "tok_operations_drop": APPROVED,
    "tok_operations_error": APPROVED,
}
OPERATIONS: Final = {
    "tok_operations_decline": Script("FAILED"),
    "tok_operations_pending": Script("PENDING", "SUCCESS", "decided"),
    "tok_operations_pending_decline": Script("PENDING", "FAILED", "decided"),
    "tok_operations_drop": Script("UNKNOWN", "SUCCESS", "asked"),
    "tok_operations_error": Script("UNKNOWN", "SUCCESS", "asked"),
}


@dataclass(frozen=True)
class Place:
    """An order of lines."""

    customer: int
    key: str
    lines: Lines
    body: bytes = b"body"


@dataclass(frozen=True)
class OrderCart:
    """An order of a cart, by a version of it, and what that stands for."""

    customer: int
    key: str
    cart: int
    version: str
    shown: Shown
    body: bytes = b"body"


@dataclass(frozen=True)
class Pay:
    customer: int
    key: str
    order: int
    token: str
    manual: bool
    body: bytes = b"body"


@dataclass(frozen=True)
class Operate:
    """A capture, void or refund; without an amount: of all that is left."""

    key: str
    payment: int
    kind: Kind
    amount: int | None
    currency: str | None
    body: bytes = b"body"


Request = Place | OrderCart | Pay | Operate


@dataclass
class Cart:
    customer: int
    lines: dict[int, int]
    revision: int = 0
    ordered: bool = False


@dataclass
class Order:
    """over, paying_over: whether the time of its hold, or of its payment, was let end."""

    customer: int
    lines: dict[int, int]
    total: int
    state: str = "placed"
    hold: str = "held"
    over: bool = False
    paying_over: bool = False


@dataclass
class Open:
    """What the provider decides: whether it has, and whether it was asked long ago."""

    state: str = "INIT"
    decided: bool = False
    old: bool = False

    def word(self, script: Script) -> str:
        moment = {"": False, "asked": True, "decided": self.decided, "old": self.old}
        return script.becomes if moment[script.once] else script.first


@dataclass
class Payment(Open):
    order: int = 0
    token: str = ""
    manual: bool = False
    amount: int = 0
    capturing: int = 0
    captured: int = 0
    refunding: int = 0
    refunded: int = 0
    voided: bool = False


@dataclass
class Operation(Open):
    payment: int = 0
    kind: Kind = "refund"
    amount: int = 0
    cause: str = "requested"


class Refused(Exception):
    """The problem that is raised, by the name of its class, and the details of its errors."""

    def __init__(self, problem: str, *details: str) -> None:
        super().__init__(problem)
        self.said: Said = ("refused", problem, *details)


@dataclass
class Model:
    """stock: available, held and sold of each variant. Orders and all else by their number."""

    stock: list[list[int]]
    prices: list[int]
    carts: list[Cart] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)  # that were asked for
    given_back: list[Operation] = field(default_factory=list)  # of cause order_ended
    keys: dict[tuple[object, str, str], tuple[bytes, int]] = field(default_factory=dict)
    ledger: Counter[tuple[str, str]] = field(default_factory=Counter)

    def answer(self, request: Request) -> Said:
        """What is said to a request, which is done."""
        try:
            match request:
                case Place() | OrderCart():
                    return self._place(request)
                case Pay():
                    return self._pay(request)
                case Operate():
                    return self._operate(request)
        except Refused as refused:
            return refused.said

    def _earlier(self, scope: tuple[object, str, str], body: bytes) -> int | None:
        known = self.keys.get(scope)
        if known is None:
            return None
        if known[0] != body:
            raise Refused("IdempotencyKeyReused")
        return known[1]

    # Carts and orders

    def shown(self, number: int) -> Shown:
        cart = self.carts[number]
        return cart.revision, tuple(self.prices[variant] for variant in cart.lines)

    def change_line(self, customer: int, number: int, variant: int, quantity: int) -> None:
        """Raises Refused."""
        cart = self.carts[number]
        if cart.customer != customer:
            raise Refused("NotFound")
        if cart.ordered:
            raise Refused("CartOrdered")
        if cart.lines.get(variant, 0) != quantity:
            cart.revision += 1
        cart.lines[variant] = quantity
        if quantity == 0:
            del cart.lines[variant]

    def _place(self, request: Place | OrderCart) -> Said:
        scope = (request.customer, "place_order", request.key)
        earlier = self._earlier(scope, request.body)
        if earlier is not None:
            return "placed", earlier, True
        lines = self._lines(request)
        short = [
            f"only {self.stock[variant][0]} available"
            for variant, quantity in lines.items()
            if quantity > self.stock[variant][0]
        ]
        if short:
            raise Refused("OutOfStock", *short)
        if isinstance(request, OrderCart):
            self.carts[request.cart].ordered = True
        total = sum(self.prices[variant] * quantity for variant, quantity in lines.items())
        self.orders.append(Order(request.customer, lines, total))
        self._move(lines, 0, 1)
        self.keys[scope] = request.body, len(self.orders) - 1
        return "placed", len(self.orders) - 1, False

    def _lines(self, request: Place | OrderCart) -> dict[int, int]:
        if isinstance(request, Place):
            return dict(request.lines)
        cart = self.carts[request.cart]
        if cart.customer != request.customer:
            raise Refused("NotFound")
        if cart.ordered:
            raise Refused("CartOrdered")
        if self.shown(request.cart) != request.shown:
            raise Refused("CartChanged")
        if not cart.lines:
            raise Refused("CartEmpty")
        return dict(cart.lines)

    def _move(self, lines: dict[int, int], was: int, becomes: int) -> None:
        for variant, quantity in lines.items():
            self.stock[variant][was] -= quantity
            self.stock[variant][becomes] += quantity

    def cancel(self, customer: int, number: int) -> Said:
        order = self.orders[number]
        if order.customer != customer:
            return Refused("NotFound").said
        if order.state == "cancelled":
            return ("cancelled",)
        if (order.state, order.hold) != ("placed", "held"):
            return Refused("OrderNotCancellable").said
        order.state, order.hold = "cancelled", "released"
        self._move(order.lines, 1, 0)
        return ("cancelled",)

    def expire(self) -> None:
        for order in self.orders:
            is_over = {"held": order.over, "paying": order.paying_over}.get(order.hold, False)
            if order.state == "placed" and is_over:
                order.state = order.hold = "expired"
                self._move(order.lines, 1, 0)

    # Payments

    def _pay(self, request: Pay) -> Said:
        scope = (request.customer, "pay_order", request.key)
        earlier = self._earlier(scope, request.body)
        if earlier is not None:
            return "payment", earlier, self.payments[earlier].state, True
        order = self.orders[request.order]
        if order.customer != request.customer:
            raise Refused("NotFound")
        if order.state != "placed" or order.over or order.hold == "paying":
            raise Refused("OrderNotPayable")
        order.hold, order.paying_over = "paying", False
        payment = Payment(
            order=request.order, token=request.token, manual=request.manual, amount=order.total
        )
        self.payments.append(payment)
        self.keys[scope] = request.body, len(self.payments) - 1
        self._settle(len(self.payments) - 1, CHARGES[request.token].first)
        return "payment", len(self.payments) - 1, payment.state, False

    def _settle(self, number: int, state: str) -> None:
        payment = self.payments[number]
        order = self.orders[payment.order]
        payment.state = state
        if state in ("FAILED", "ERRORED") and order.hold == "paying":
            order.hold, order.paying_over = "held", False
        if state != "SUCCESS":
            return
        if not payment.manual:
            payment.captured = payment.amount
        if order.state in ENDED:
            kind: Kind = "void" if payment.manual else "refund"
            self.ledger["provider_clearing", "unapplied_receipts"] += payment.captured
            payment.refunding = payment.captured
            self.given_back.append(
                Operation(payment=number, kind=kind, amount=payment.amount, cause="order_ended")
            )
            return
        self.ledger["provider_clearing", "sales"] += payment.captured
        order.state, order.hold = ("authorized" if payment.manual else "paid"), "sold"
        self._move(order.lines, 1, 2)

    # Captures, voids and refunds

    def _operate(self, request: Operate) -> Said:
        scope = ("operator", request.kind, request.key)
        earlier = self._earlier(scope, request.body)
        if earlier is not None:
            return request.kind, earlier, self.operations[earlier].state, True
        payment = self.payments[request.payment]
        self._check(payment, request)
        if request.currency not in (None, "USD"):
            raise Refused("CurrencyMismatch", "it is USD")
        left = payment.amount - payment.captured - payment.capturing
        if request.kind == "refund":
            left = payment.captured - payment.refunded - payment.refunding
        amount = left if request.amount is None else request.amount
        if not 0 < amount <= left:
            raise Refused("OperationNotAllowed", f"only {left} left")
        payment.capturing += amount * (request.kind == "capture")
        payment.refunding += amount * (request.kind == "refund")
        operation = Operation(payment=request.payment, kind=request.kind, amount=amount)
        self.operations.append(operation)
        self.keys[scope] = request.body, len(self.operations) - 1
        self._finish(operation, OPERATIONS.get(payment.token, APPROVED).first)
        return request.kind, len(self.operations) - 1, operation.state, False

    def _check(self, payment: Payment, request: Operate) -> None:
        mine = [one for one in self.operations + self.given_back
            if self.payments[one.payment] is payment]  # fmt: skip
        is_voiding = any(one.kind == "void" and one.state in UNSETTLED for one in mine)
        allowed = payment.state == "SUCCESS" and not payment.voided and not is_voiding
        if request.kind != "refund":
            order = self.orders[payment.order]
            allowed = allowed and payment.manual and order.state in ("authorized", "paid")
        if request.kind == "void":
            allowed = allowed and payment.captured + payment.capturing == 0
        if not allowed:
            raise Refused("OperationNotAllowed")

    def _finish(self, operation: Operation, state: str) -> None:
        operation.state = state
        if state in UNSETTLED:
            return
        payment = self.payments[operation.payment]
        order = self.orders[payment.order]
        done = operation.amount * (state == "SUCCESS")
        if operation.kind == "capture":
            payment.capturing -= operation.amount
            payment.captured += done
            self.ledger["provider_clearing", "sales"] += done
            if done and order.state == "authorized":
                order.state = "paid"
        elif operation.kind == "refund":
            payment.refunding -= operation.amount
            payment.refunded += done
            owed = "unapplied_receipts" if order.state in ENDED else "refunds"
            self.ledger[owed, "provider_clearing"] += done
        elif done:
            payment.voided = True
            if order.state == "authorized":
                order.state, order.hold = "cancelled", "released"
                self._move(order.lines, 2, 0)
        given_back = 0 < payment.captured == payment.refunded and payment.capturing == 0
        if given_back and order.state == "paid":
            order.state = "refunded"

    # Time, the provider, and reconcile

    def unsettled(self) -> list[Open]:
        things = [*self.payments, *self.operations, *self.given_back]
        return [one for one in things if one.state in UNSETTLED]

    def reconcile(self) -> None:
        """All is due. What is found out about payments comes after the list of operations."""
        operations = [one for one in self.operations + self.given_back if one.state in UNSETTLED]
        for number, payment in enumerate(self.payments):
            if payment.state in UNSETTLED:
                self._settle(number, payment.word(CHARGES[payment.token]))
        for operation in operations:
            token = self.payments[operation.payment].token
            self._finish(operation, operation.word(OPERATIONS.get(token, APPROVED)))
