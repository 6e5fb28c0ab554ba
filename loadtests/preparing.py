"""What has to be in the shop before a scenario runs: goods, customers, a flash sale."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from loadtests.accounts import make_accounts
from loadtests.own_stack import Shop
from loadtests.profiles import Run
from loadtests.programs import output_of
from loadtests.shop import (
    JSON_HEADERS,
    SETUP_TIMEOUT_S,
    Goods,
    NoShopError,
    bearer,
    page_target,
    read_goods,
)
from services.deadline import Deadline
from services.keepalive import ExchangeError, Headers, Pool

T = TypeVar("T")

VARIANTS_OF: Final = 50  # products whose variants are bought: enough that none sells out soon
AT_ONCE: Final = 4  # requests of the preparation under way
AGAIN_S: Final = 0.5  # before who was refused comes again
SHOPPERS: Final = {"page", "search", "checkout", "claim", "events", "live"}  # who need goods
SALE_LASTS: Final = timedelta(hours=1)
SALE_SHARE: Final = 0.5  # of its price, at which a unit of the sale is sold


async def prepare(run: Run, shop: Shop) -> Goods:
    """Read the shop and put into it what the run needs; NoShopError where it can not be had."""
    wanted = {traffic.does for traffic in run.scenario.traffic}
    pool = Pool.to(shop.url, size=AT_ONCE)
    try:
        if not wanted & SHOPPERS:
            accounts = await make_accounts(shop) if "login" in wanted else []
            return Goods([], [], accounts=accounts)
        goods = await read_goods(pool, products=run.scenario.products, variants_of=VARIANTS_OF)
        if not goods.variant_ids and wanted & {"checkout", "claim"}:
            raise NoShopError("everything in the shop is sold out")
        if run.scenario.sale is not None:
            if shop.data_dir is not None:
                await _receive(shop.data_dir, goods.variant_ids[0], run.scenario.sale.units)
            goods = replace(goods, guests=await _guests(pool, run.scenario.sale.buyers))
        if "login" in wanted:
            goods = replace(goods, accounts=await make_accounts(shop))
        return goods
    finally:
        await pool.aclose()


async def look_at_pages(run: Run, shop: Shop) -> None:
    """Open each page of the scenario once, whatever comes of it.

    What is measured is a shop that has been open for a while: to make a thousand pages takes
    seconds, in which who comes is refused.
    """
    pool = Pool.to(shop.url, size=AT_ONCE)

    async def one(slug: str) -> None:
        with suppress(ExchangeError):
            target = page_target(slug).encode()
            await pool.request(b"GET", target, deadline=Deadline.after(SETUP_TIMEOUT_S))

    try:
        goods = await read_goods(pool, products=run.scenario.products, variants_of=0)
        await asyncio.gather(*_in_slots(one(slug) for slug in goods.slugs))
    finally:
        await pool.aclose()


async def _receive(data_dir: Path, variant_id: str, units: int) -> None:
    """Units for the sale come in: a sale promises no more than there is."""
    command = [sys.executable, "-m", "infra.cli", "stock", "receive", variant_id, str(units)]
    await output_of([*command, "--data-dir", str(data_dir)], None)


async def open_sale(run: Run, url: str, goods: Goods, operator_token: str | None) -> Goods:
    """Set up the flash sale of the scenario, that opens so long from now. Last of all."""
    sale = run.scenario.sale
    if sale is None:
        return goods
    if operator_token is None:
        raise NoShopError("only an operator sets up a flash sale: give TERCET_OPERATOR_TOKEN")
    pool = Pool.to(url, size=1)
    try:
        page = await _page_of_variant(pool, goods)
        opens_at = datetime.now(UTC) + timedelta(seconds=sale.opens_at_s * run.stretch)
        price = page["price"]
        body = {
            "variant_id": page["variant_id"],
            "opens_at": opens_at.isoformat(),
            "closes_at": (opens_at + SALE_LASTS).isoformat(),
            "quantity": sale.units,
            "customer_limit": sale.customer_limit,
            "unit_price": {
                "amount_minor": max(1, round(price["amount_minor"] * SALE_SHARE)),
                "currency": price["currency"],
            },
        }
        made = await _post(pool, "/flash-sales", body, bearer(operator_token))
        return replace(goods, flash_sale_id=made["flash_sale_id"])
    finally:
        await pool.aclose()


async def _page_of_variant(pool: Pool, goods: Goods) -> dict[str, Any]:
    """The first variant that can be had, as its product's page shows it."""
    for slug in goods.slugs:
        answer = await pool.request(
            b"GET", f"/products/{slug}".encode(), deadline=Deadline.after(SETUP_TIMEOUT_S)
        )
        if answer.status == 200:
            for variant in json.loads(answer.body)["variants"]:
                if variant["variant_id"] == goods.variant_ids[0]:
                    found: dict[str, Any] = variant
                    return found
    raise NoShopError("no variant of the products can be had")


async def _guests(pool: Pool, count: int) -> list[str]:
    """Tokens of new customers, whom the shop knows by an empty cart each."""

    async def one() -> str:
        return str((await _post(pool, "/carts", {}))["customer_token"])

    return list(await asyncio.gather(*_in_slots(one() for _ in range(count))))


def _in_slots(works: Iterable[Awaitable[T]]) -> list[Awaitable[T]]:
    """Each waits for one of a few slots."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def in_slot(work: Awaitable[T]) -> T:
        async with slots:
            return await work

    return [in_slot(work) for work in works]


async def _post(pool: Pool, target: str, body: Any, headers: Headers | None = None) -> Any:
    """Whoever is told to come again does, under the same key."""
    key = (b"idempotency-key", uuid.uuid4().hex.encode())
    deadline = Deadline.after(SETUP_TIMEOUT_S)
    while True:
        answer = await pool.request(
            b"POST",
            target.encode(),
            [JSON_HEADERS, key, *(headers or [])],
            json.dumps(body).encode(),
            deadline=deadline,
        )
        if answer.status not in (429, 503) or deadline.left_s() < 2 * AGAIN_S:
            break
        await asyncio.sleep(AGAIN_S)
    if not 200 <= answer.status < 300:
        raise NoShopError(f"POST {target} answered {answer.status}: {answer.body[:200]!r}")
    return json.loads(answer.body)
