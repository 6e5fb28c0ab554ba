"""Customers of the shop for tests: guests with tokens, and goods that do not run out."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

import httpx

from tests.running_stack import RunningStack

STOCK: Final = 1_000_000  # more than all tests buy together


@dataclass(frozen=True)
class Goods:
    """A product on sale, one variant of it, and what that costs."""

    slug: str
    variant_id: str
    price_minor: int
    currency: str


@dataclass(frozen=True)
class Guest:
    """A customer with one order, not paid."""

    token: str
    order_id: str

    @property
    def authorization(self) -> str:
        return f"Bearer {self.token}"


def client_of(stack: RunningStack) -> httpx.Client:
    """A client of the shop, whatever proxy this machine has."""
    return httpx.Client(base_url=stack.url, trust_env=False, timeout=10.0)


def new_key() -> str:
    return uuid.uuid4().hex


def plenty_of_goods(stack: RunningStack, number: int = 0) -> Goods:
    """A product whose first variant has been stocked up by the operator."""
    with client_of(stack) as client:
        slug = client.get("/products").json()["items"][number]["slug"]
        variant = client.get(f"/products/{slug}").json()["variants"][0]
        moved = client.post(
            "/operator/stock-movements",
            headers={"authorization": f"Bearer {stack.secret('operator_token')}"},
            json={
                "variant_id": variant["variant_id"],
                "kind": "receive",
                "quantity": STOCK,
                "reason": "tests buy it",
            },
        )
        assert moved.status_code == 201, moved.text
    price = variant["price"]
    return Goods(slug, variant["variant_id"], price["amount_minor"], price["currency"])


def new_guest(stack: RunningStack, goods: Goods) -> Guest:
    """A guest, made by a first order without a token."""
    with client_of(stack) as client:
        placed = client.post(
            "/orders",
            headers={"idempotency-key": new_key()},
            json={"lines": [{"variant_id": goods.variant_id, "quantity": 1}]},
        )
        assert placed.status_code == 201, placed.text
    return Guest(placed.json()["customer_token"], placed.json()["order_id"])
