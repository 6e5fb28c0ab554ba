"""What shoppers do: open product pages, some far more than others, and pay for orders."""

from __future__ import annotations

import json
import random
import time
import uuid
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final
from urllib.parse import quote, urlencode

from loadtests.generator import Failed, Refused, Start
from loadtests.recorder import Recorder
from services.deadline import Deadline
from services.keepalive import Headers, Pool, Response

# Popularity of web pages falls off with about the first power of their rank (Breslau et al.,
# "Web Caching and Zipf-like Distributions", INFOCOM 1999: 0.64 to 0.83; shops are steeper).
ZIPF_EXPONENT: Final = 1.0
SETUP_TIMEOUT_S: Final = 10.0
JSON_HEADERS: Final = (b"content-type", b"application/json")


class NoShopError(Exception):
    """The address does not serve a shop with products; the message says what came instead."""


@dataclass(frozen=True, slots=True)
class Goods:
    """What the load is about: products in their order of popularity, variants that can be had."""

    slugs: list[str]
    variant_ids: list[str]


class Zipf:
    """Picks the n-th of some things in proportion to 1 / n ** exponent."""

    def __init__(self, count: int, *, seed: int, exponent: float = ZIPF_EXPONENT) -> None:
        self._sums = list(accumulate((n + 1) ** -exponent for n in range(count)))
        self._dice = random.Random(seed)

    def pick(self) -> int:
        """An index, 0 for the most popular."""
        return bisect(self._sums, self._dice.random() * self._sums[-1])


async def read_goods(pool: Pool, *, products: int, variants_of: int) -> Goods:
    """Slugs from the first pages of the list, and variants on the pages of the first of them."""
    slugs: list[str] = []
    cursor: str | None = ""
    while cursor is not None and len(slugs) < products:
        query = "?" + urlencode({"cursor": cursor}) if cursor else ""
        page = await _read_json(pool, f"/products{query}")
        slugs += [item["slug"] for item in page["items"]]
        cursor = page["next_cursor"]
    if not slugs:
        raise NoShopError("the shop has no products")
    variant_ids: list[str] = []
    for slug in slugs[:variants_of]:
        page = await _read_json(pool, page_target(slug))
        variant_ids += [v["variant_id"] for v in page["variants"] if v["band"] != "sold_out"]
    return Goods(slugs[:products], variant_ids)


async def _read_json(pool: Pool, target: str) -> Any:
    answer = await pool.request(
        b"GET", target.encode("ascii"), deadline=Deadline.after(SETUP_TIMEOUT_S)
    )
    if answer.status != 200:
        raise NoShopError(f"GET {target} answered {answer.status}: {answer.body[:200]!r}")
    return json.loads(answer.body)


def page_target(slug: str) -> str:
    return f"/products/{quote(slug, safe='')}"


class ProductPages:
    """Opens a product page, the popular ones most often."""

    def __init__(self, pool: Pool, goods: Goods, *, seed: int) -> None:
        self._pool = pool
        self._targets = [page_target(slug).encode("ascii") for slug in goods.slugs]
        self._zipf = Zipf(len(self._targets), seed=seed)

    async def __call__(self, start: Start) -> None:
        answer = await self._pool.request(
            b"GET",
            self._targets[self._zipf.pick()],
            deadline=start.deadline,
            patience=start.patience,
        )
        if answer.status != 200:
            raise Failed(f"status {answer.status}")


class Checkouts:
    """A guest orders one piece and pays it. The payment is also recorded on its own.

    The payment's own latency begins when the order is there: what came before is not its fault,
    and is in the latency of the whole.
    """

    def __init__(self, pool: Pool, goods: Goods, payments: Recorder, *, seed: int) -> None:
        self._pool = pool
        self._payments = payments
        self._variant_ids = list(goods.variant_ids)
        self._dice = random.Random(seed)

    async def __call__(self, start: Start) -> None:
        variant_id = self._dice.choice(self._variant_ids)
        order = await self._order(start, variant_id)
        self._payments.due += 1
        began_at = time.monotonic()
        await self._pay(start, order["order_id"], order["customer_token"])
        self._payments.answer(time.monotonic() - began_at)

    async def _order(self, start: Start, variant_id: str) -> Any:
        body = {"lines": [{"variant_id": variant_id, "quantity": 1}]}
        answer = await self._post(start, "/orders", body)
        if answer.status == 409 and b"out-of-stock" in answer.body:
            raise Refused("sold out")
        return _document(answer, "order")

    async def _pay(self, start: Start, order_id: str, token: str) -> None:
        headers: Headers = [(b"authorization", b"Bearer " + token.encode("ascii"))]
        body = {"payment_method": "tok_approve"}
        answer = await self._post(start, f"/orders/{order_id}/payments", body, headers)
        state = _document(answer, "payment")["state"]
        if state != "SUCCESS":
            raise Failed(f"payment: {state}")

    async def _post(
        self, start: Start, target: str, body: dict[str, Any], headers: Headers | None = None
    ) -> Response:
        key = (b"idempotency-key", uuid.uuid4().hex.encode("ascii"))
        return await self._pool.request(
            b"POST",
            target.encode("ascii"),
            [JSON_HEADERS, key, *(headers or [])],
            json.dumps(body).encode(),
            deadline=start.deadline,
            patience=start.patience,
        )


def _document(answer: Response, what: str) -> Any:
    if answer.status != 201:
        raise Failed(f"{what}: status {answer.status}")
    return json.loads(answer.body)
