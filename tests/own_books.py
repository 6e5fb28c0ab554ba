"""A shop with a provider of its own: both books are nobody else's, so that they can agree."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from pydantic import SecretStr

from services.business.followup_claims import FollowUp
from services.business.followups import follow_up
from services.business.matching import Difference
from services.business.payments import pay
from services.business.provider_books import Comparison, compare_books
from services.business.shop import Shop, open_shop
from services.data.customers import OPERATOR
from services.data.idempotency import Key
from services.data.payment_operations import Kind, PaymentOperation
from services.data.payments import CaptureMethod, Payment
from services.data.sources import Reader
from tests.business.test_sandbox import SECRET, Provider, running
from tests.laboratory import OwnDatabase, migrated_database
from tests.running_stack import RunningStack
from tests.shopping import Books, Goods, open_books, place


@dataclass
class OwnBooks:
    """A shop inside the test's process, what it writes down, and the provider with its file."""

    database: OwnDatabase
    shop: Shop
    books: Books
    provider: Provider
    http: httpx.AsyncClient
    goods: Goods
    comparison: Comparison = field(default_factory=Comparison)

    async def pay(
        self, method: str = "tok_approve", capture: CaptureMethod = "automatic"
    ) -> Payment:
        """A payment of 2000, as the request left it."""
        key = await place(self.shop, {self.goods.variant: 2})
        return (await pay(self.shop, key, method, uuid4().hex, b"", capture=capture)).payment

    async def do(
        self, payment: Payment, kind: Kind, amount_minor: int | None = None
    ) -> PaymentOperation:
        currency = None if amount_minor is None else payment.currency
        key = Key(OPERATOR, kind, uuid4().hex, b"")
        wanted = FollowUp(payment.payment_id, kind, key, amount_minor, currency)
        return (await follow_up(self.shop, wanted)).operation

    async def charge(self, charge_key: str, method: str = "tok_approve", **more: Any) -> None:
        """Behind the shop's back, by whoever has its credential."""
        body = {"charge_key": charge_key, "amount_minor": 700, "currency": "USD"}
        answer = await self.http.post("/charges", json=body | {"payment_method": method} | more)
        answer.raise_for_status()

    async def at_provider(self, charge_key: object) -> dict[str, Any]:
        found: dict[str, Any] = (await self.http.get(f"/charges/{charge_key}")).json()
        return found

    async def differences(
        self, reader: Reader | None = None, shop: Shop | None = None, grace_s: float = 0
    ) -> list[Difference]:
        """What the report says now; its sums are in `comparison`."""
        self.comparison = Comparison()
        return [
            one
            async for one in compare_books(
                (shop or self.shop).provider,
                reader or self.shop.database.primary,
                self.comparison,
                grace_s=grace_s,
                timeout_s=5,
            )
        ]

    def change_theirs(self, sql: str) -> int:
        """In the provider's own file; how many rows were changed."""
        with sqlite3.connect(self.provider.ledger, timeout=5) as file:
            return file.execute(sql).rowcount

    async def settled(self, payment_id: object, state: str) -> None:
        sql = "select state from payments where payment_id = $1"
        assert await self.books.value(sql, payment_id) == state


@asynccontextmanager
async def own_books(
    stack: RunningStack, folder: Path, **changes: object
) -> AsyncIterator[OwnBooks]:
    ledger = folder / "provider.sqlite3"
    async with migrated_database(stack) as database, running(ledger) as provider:
        settings = database.settings(
            provider_url=f"http://127.0.0.1:{provider.port}",
            provider_secret=SecretStr(SECRET),
            standby_dsns=[],
            **{"provider_timeout_ms": 500, **changes},
        )
        async with (
            open_shop(settings) as shop,
            open_books(database.superuser_dsn(), relayed=False) as books,
            provider.client() as http,
        ):
            goods = await books.goods(available=100_000)
            yield OwnBooks(database, shop, books, provider, http, goods)
