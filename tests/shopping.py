"""Buying as customers do, over HTTP, and the witnesses of what it came to: books and provider."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, TypeVar
from unittest.mock import patch
from uuid import UUID, uuid4

import asyncpg
import httpx
from starlette.applications import Starlette

from services.business.app import Gate, _routes
from services.business.orders import place_order
from services.business.schemas import OrderRequest
from services.business.shop import Shop
from services.consistency import TOKEN_HEADER
from services.data.analytics_rules import COUNTED
from services.data.customers import GUEST_TOKEN_LIFETIME, INSERT_GUESTS, OPERATOR
from services.data.message_rules import PUBLISHED, TRIED
from services.data.orders import OrderKey
from services.data.payment_rules import ASKED, FOLLOWED
from services.data.proofs import RULES
from services.settings import BusinessSettings, ProcessSettings, load
from tests.faults.waiting import until
from tests.running_stack import RunningStack

S = TypeVar("S", bound=ProcessSettings)
# What workers do in time; in a laboratory none runs.
BY_WORKERS = (PUBLISHED, TRIED, FOLLOWED, ASKED, COUNTED)
Rows = list[asyncpg.Record]

# What access says of an operator; business believes it because of the internal secret.
OPERATOR_FIELDS: Final = {"x-customer-id": str(OPERATOR), "x-customer-role": "operator"}

PATIENT_MS: Final = 3000  # for a free connection, as conftest.py has it for the stack
TIMEOUT_S: Final = 15.0  # above every deadline of the stack
LIMITS: Final = httpx.Limits(max_connections=200, max_keepalive_connections=200)

INSERT_PRODUCT: Final = """
    insert into products (slug, title, source, source_id, content_sha256, currency,
        price_from_minor, category_slug, published)
    values ($1, $2, 'generated', $1, '\\x00', $3, $4, $5, $6) returning product_id
"""
INSERT_VARIANTS: Final = """
    with new as (
        insert into variants (product_id, variant_key, position, title, sku, currency, price_minor)
        select $1, n::text, n, 'size ' || n, $2 || '-' || n, $3, $4
        from generate_series(1, $5::int) n returning variant_id, position
    ), stocked as (
        insert into stock (variant_id, received, available) select variant_id, $6, $6 from new
    ), journal as (
        insert into stock_journal (variant_id, kind, quantity, reason)
        select variant_id, 'receive', $6, 'a test' from new where $6 > 0
    )
    select variant_id from new order by position
"""


# Opening and closing by the clock of the database, which is the one that counts.
INSERT_FLASH_SALE: Final = """
    insert into flash_sales (variant_id, opens_at, closes_at, quantity, customer_limit,
        unit_price_minor, currency)
    select variant_id, clock_timestamp() + $2::float8 * interval '1 second',
        clock_timestamp() + ($2::float8 + $3::float8) * interval '1 second', $4, $5, $6, currency
    from variants where variant_id = $1 returning flash_sale_id
"""


@dataclass(frozen=True)
class Goods:
    """A product made for one test, so that no other test buys it."""

    product_id: UUID
    slug: str
    variants: list[UUID]

    @property
    def variant(self) -> UUID:
        return self.variants[0]


class Books:
    """The database as a test looks at it, as its owner, and changes what time would change.

    relayed: whether workers publish what is in its outbox, handle webhooks and ask the provider;
    where none run, all of it waits.
    """

    def __init__(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        standby: asyncpg.Connection[asyncpg.Record] | None = None,
        *,
        relayed: bool = True,
    ) -> None:
        self.connection = connection
        self._standby = standby
        self._rules = [rule for rule in RULES if relayed or rule.sentence not in BY_WORKERS]

    async def rows(self, sql: str, *args: object) -> Rows:
        return await self.connection.fetch(sql, *args)

    async def value(self, sql: str, *args: object) -> Any:
        return await self.connection.fetchval(sql, *args)

    async def goods(
        self,
        *,
        available: int = 100,
        price_minor: int = 1000,
        currency: str = "USD",
        variants: int = 1,
        category: str | None = None,
        published: bool = True,
        title: str = "Plain Test Goods",
    ) -> Goods:
        """A new product; pages and lists are told, as an import would."""
        slug = f"test-{uuid4().hex}"
        async with self.connection.transaction():
            product_id = await self.value(
                INSERT_PRODUCT, slug, title, currency, price_minor, category, published
            )
            rows = await self.rows(
                INSERT_VARIANTS, product_id, slug, currency, price_minor, variants, available
            )
            await self.rows(
                "insert into outbox (kind, name, aggregate_id) values ('tag', 'products', '')"
            )
        await self.replayed()
        return Goods(product_id, slug, [row["variant_id"] for row in rows])

    async def flash_sale(
        self,
        variant_id: UUID,
        *,
        units: int = 100,
        customer_limit: int = 100,
        price_minor: int = 500,
        opens_in_s: float = -1.0,
        open_for_s: float = 3600.0,
    ) -> UUID:
        """The id of a new sale; open, if nothing else is said."""
        seconds = (opens_in_s, open_for_s)
        found: UUID = await self.value(
            INSERT_FLASH_SALE, variant_id, *seconds, units, customer_limit, price_minor
        )
        await self.replayed()
        return found

    async def guests(self, count: int) -> list[str]:
        """So many new customers, by the tokens that they come with."""
        tokens = [secrets.token_urlsafe(32) for _ in range(count)]
        hashes = [hashlib.sha256(token.encode()).digest() for token in tokens]
        async with self.connection.transaction():
            await self.rows(INSERT_GUESTS, hashes, GUEST_TOKEN_LIFETIME)
        return tokens

    async def guest_ids(self, count: int) -> list[UUID]:
        """The same, by the ids that access finds behind their tokens."""
        hashes = [hashlib.sha256(token.encode()).digest() for token in await self.guests(count)]
        rows = await self.rows(
            "select customer_id from customer_tokens where token_sha256 = any($1)", hashes
        )
        return [row["customer_id"] for row in rows]

    async def claimed(self, flash_sale_id: UUID) -> int:
        """Units of a sale in claims that were not given back."""
        sql = "select claimed from flash_sales where flash_sale_id = $1"
        return int(await self.value(sql, flash_sale_id))

    async def let_holds_end(self, variant_id: UUID) -> None:
        """As if the time of all unpaid orders of a variant were over."""
        await self.rows(
            "update orders set hold_expires_at = now() where order_id in"
            " (select order_id from stock_holds where variant_id = $1 and state = 'held')",
            variant_id,
        )
        await self.rows(
            "update stock_holds set expires_at = now() where variant_id = $1 and state = 'held'",
            variant_id,
        )

    async def replayed(self) -> None:
        """Wait until the standby, if it was given, has all that was committed before."""
        if self._standby is None:
            return
        standby, position = self._standby, await self.value("select pg_current_wal_lsn()::text")

        async def is_there() -> bool:
            sql = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
            return bool(await standby.fetchval(sql, position))

        await until(is_there, within_s=TIMEOUT_S, what="the standby has caught up")

    async def stock(self, variant_id: UUID) -> tuple[int, int, int]:
        """Available, held, sold."""
        rows = await self.rows(
            "select available, held, sold from stock where variant_id = $1", variant_id
        )
        return rows[0]["available"], rows[0]["held"], rows[0]["sold"]

    async def payments(self, order_id: str) -> Rows:
        return await self.rows(
            "select * from payments where order_id = $1 order by created_at", UUID(order_id)
        )

    async def transfers(self, payment_id: object) -> Rows:
        return await self.rows(
            "select * from ledger_transfers where cause_id = $1", UUID(str(payment_id))
        )

    async def broken_rules(self) -> list[str]:
        """The sentences of the invariants that do not hold now, in one snapshot."""
        async with self.connection.transaction(isolation="repeatable_read", readonly=True):
            return [rule.sentence for rule in self._rules if await self.rows(rule.broken)]


@asynccontextmanager
async def open_books(
    dsn: str, standby_dsn: str | None = None, *, relayed: bool = True
) -> AsyncIterator[Books]:
    """With a standby, new goods are there as well before they are handed out."""
    connection = await asyncpg.connect(dsn)
    standby = None if standby_dsn is None else await asyncpg.connect(standby_dsn)
    try:
        yield Books(connection, standby, relayed=relayed)
    finally:
        await connection.close()
        if standby is not None:
            await standby.close()


@dataclass
class Customer:
    """One who buys at a shop's address; the token of the first order is kept.

    seen: the newest Consistency-Token, which goes with every request; None while `forgetful`.
    """

    http: httpx.AsyncClient
    token: str | None = None
    seen: str | None = None
    forgetful: bool = False

    async def order(
        self, lines: dict[UUID, int] | Any, *, key: str | None = None, **body: object
    ) -> httpx.Response:
        if isinstance(lines, dict):
            lines = [{"variant_id": str(v), "quantity": q} for v, q in lines.items()]
        answer = await self.post("/orders", {"lines": lines, **body}, key=key)
        if self.token is None and answer.status_code == 201:
            self.token = answer.json()["customer_token"]
        return answer

    async def cart(self, lines: dict[UUID, int] | None = None) -> httpx.Response:
        """A new cart."""
        body = [{"variant_id": str(v), "quantity": q} for v, q in (lines or {}).items()]
        answer = await self.post("/carts", {"lines": body})
        if self.token is None and answer.status_code == 201:
            self.token = answer.json()["customer_token"]
        return answer

    async def put_line(self, cart_id: str, variant_id: UUID, quantity: object) -> httpx.Response:
        path = f"/carts/{cart_id}/lines/{variant_id}"
        body = {"quantity": quantity}
        return self._kept(await self.http.put(path, json=body, headers=self._credential()))

    async def delete_line(self, cart_id: str, variant_id: UUID) -> httpx.Response:
        path = f"/carts/{cart_id}/lines/{variant_id}"
        return self._kept(await self.http.delete(path, headers=self._credential()))

    async def order_cart(self, cart: Any, *, key: str | None = None) -> httpx.Response:
        """Order a cart as it is shown by this document of it."""
        body = {"cart_id": cart["cart_id"], "cart_version": cart["version"]}
        return await self.post("/orders", body, key=key)

    async def cancel(self, order_id: str) -> httpx.Response:
        path = f"/orders/{order_id}/cancellation"
        return self._kept(await self.http.put(path, headers=self._credential()))

    async def placed(self, lines: dict[UUID, int]) -> str:
        """The id of a new order."""
        answer = await self.order(lines)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["order_id"])

    async def pay(
        self, order_id: str, payment_method: str = "tok_approve", *, key: str | None = None
    ) -> httpx.Response:
        body = {"payment_method": payment_method}
        return await self.post(f"/orders/{order_id}/payments", body, key=key)

    async def claim(
        self, flash_sale_id: object, quantity: int = 1, *, key: str | None = None
    ) -> httpx.Response:
        return await self.post(
            f"/flash-sales/{flash_sale_id}/claims", {"quantity": quantity}, key=key
        )

    async def post(self, path: str, body: object, *, key: str | None = None) -> httpx.Response:
        headers = {"idempotency-key": key or uuid4().hex, **self._credential()}
        return self._kept(await self.http.post(path, json=body, headers=headers))

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return self._kept(await self.http.get(path, headers={**self._credential(), **headers}))

    async def payment_state(self, payment_id: str) -> str:
        return str((await self.get(f"/payments/{payment_id}")).json()["state"])

    def _credential(self) -> dict[str, str]:
        credential = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        return credential if self.seen is None else credential | {TOKEN_HEADER: self.seen}

    def _kept(self, answer: httpx.Response) -> httpx.Response:
        if not self.forgetful:
            self.seen = answer.headers.get(TOKEN_HEADER, self.seen)
        return answer


class ProviderBooks:
    """The provider's own ledger: what it says was charged counts, not what we think."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def charges(self, payment_id: object) -> list[dict[str, Any]]:
        """Every charge under this payment's id, looked for in the whole ledger."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": "1000"} | ({"cursor": cursor} if cursor else {})
            page = (await self.http.get("/charges", params=query)).raise_for_status().json()
            found += [item for item in page["items"] if item["charge_key"] == str(payment_id)]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    async def behave(self, **behaviour: object) -> None:
        (await self.http.put("/behaviour", json=behaviour)).raise_for_status()


async def place(shop: Shop, lines: dict[UUID, int], customer_id: UUID | None = None) -> OrderKey:
    """A new order made inside the test's process, of a new guest if of nobody else."""
    body = {"lines": [{"variant_id": str(v), "quantity": q} for v, q in lines.items()]}
    wanted = OrderRequest.model_validate(body)
    placed = await place_order(shop, customer_id, wanted, uuid4().hex, b"body")
    sql = "select customer_id from orders where order_id = $1"
    return OrderKey(await shop.database.primary.fetchval(sql, placed.order_id), placed.order_id)


def http_client(url: str, **headers: str) -> httpx.AsyncClient:
    """A client that many customers share: it keeps nobody's cookie."""
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        cookies=no_cookies,
        timeout=TIMEOUT_S,
        trust_env=False,
        limits=LIMITS,
    )


def gate_of(shop: Shop, settings: BusinessSettings | None = None) -> Gate:
    """The routes of business, behind their gate, on a shop that is open in the test's process."""
    app = Starlette(routes=_routes())
    app.state.shop = shop
    return Gate(app, settings or shop.settings)


def asgi_client(shop: Shop, settings: BusinessSettings | None = None) -> httpx.AsyncClient:
    """A client of the routes of business on a shop that is open inside the test's process."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=gate_of(shop, settings)),
        base_url="http://business",
        headers={"x-internal-secret": shop.settings.internal_secret.get_secret_value()},
    )


@asynccontextmanager
async def provider_books(stack: RunningStack) -> AsyncIterator[ProviderBooks]:
    url = stack.environment["TERCET_PROVIDER_URL"]
    async with http_client(url, authorization=f"Bearer {stack.secret('provider_secret')}") as http:
        yield ProviderBooks(http)


def settings_of(stack: RunningStack, kind: type[S], **changes: object) -> S:
    """The settings of a process of this stack, with some of them changed."""
    with patch.dict(os.environ, stack.environment):
        return load(kind).model_copy(update=changes)


def business_settings(stack: RunningStack, **changes: object) -> BusinessSettings:
    return settings_of(stack, BusinessSettings, **{"pool_wait_ms": PATIENT_MS, **changes})


def statuses(answers: Sequence[httpx.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)
