"""What shoppers do: open product pages, some far more than others, and pay for orders."""

from __future__ import annotations

import json
import random
import time
import uuid
from bisect import bisect
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, cycle
from typing import Any, Final
from urllib.parse import quote, urlencode

from loadtests.generator import Asked, Failed, OneRequest, Refused, Start
from loadtests.recorder import Recorder
from services.deadline import Deadline
from services.keepalive import Headers, Pool, Response

# Popularity of web pages falls off with about the first power of their rank (Breslau et al.,
# "Web Caching and Zipf-like Distributions", INFOCOM 1999: 0.64 to 0.83; shops are steeper).
ZIPF_EXPONENT: Final = 1.0
SETUP_TIMEOUT_S: Final = 20.0
JSON_HEADERS: Final = (b"content-type", b"application/json")


class NoShopError(Exception):
    """The address does not serve a shop with products; the message says what came instead."""


@dataclass(frozen=True, slots=True)
class Goods:
    """What the load is about: products in their order of popularity, variants that can be had."""

    slugs: list[str]
    variant_ids: list[str]
    words: list[str] = field(default_factory=list)  # of titles, to search for
    guests: list[str] = field(default_factory=list)  # tokens of customers who are known
    accounts: list[tuple[str, str]] = field(default_factory=list)  # address and password
    flash_sale_id: str = ""


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
    titles: list[str] = []
    cursor: str | None = ""
    while cursor is not None and len(slugs) < products:
        query = "?" + urlencode({"cursor": cursor}) if cursor else ""
        page = await _read_json(pool, f"/products{query}")
        slugs += [item["slug"] for item in page["items"]]
        titles += [item.get("title", "") for item in page["items"]]
        cursor = page["next_cursor"]
    if not slugs:
        raise NoShopError("the shop has no products")
    variant_ids: list[str] = []
    for slug in slugs[:variants_of]:
        page = await _read_json(pool, page_target(slug))
        variant_ids += [v["variant_id"] for v in page["variants"] if v["band"] != "sold_out"]
    words = {word.lower() for title in titles[:products] for word in title.split()}
    return Goods(slugs[:products], variant_ids, sorted(filter(str.isalpha, words)))


async def _read_json(pool: Pool, target: str) -> Any:
    answer = await pool.request(
        b"GET", target.encode("ascii"), deadline=Deadline.after(SETUP_TIMEOUT_S)
    )
    if answer.status != 200:
        raise NoShopError(f"GET {target} answered {answer.status}: {answer.body[:200]!r}")
    return json.loads(answer.body)


def page_target(slug: str) -> str:
    return f"/products/{quote(slug, safe='')}"


class ProductPages(OneRequest):
    """Opens a product page, the popular ones most often."""

    def __init__(
        self,
        pool: Pool,
        goods: Goods,
        *,
        seed: int,
        exponent: float = ZIPF_EXPONENT,
        own: bytes = b"",
    ) -> None:
        self.pool = pool
        targets = [page_target(slug).encode("ascii") for slug in goods.slugs]
        self._requests = [Asked(b"GET", target, [], b"", own) for target in targets]
        self._zipf = Zipf(len(targets), seed=seed, exponent=exponent)

    def ask(self) -> Asked:
        return self._requests[self._zipf.pick()]

    def judge(self, answer: Response) -> None:
        if answer.status != 200:
            raise Failed(status_of(answer))


class Checkouts:
    """A guest orders one piece and pays it. The payment is also recorded on its own.

    The payment's own latency begins when the order is there: what came before is not its fault,
    and is in the latency of the whole.
    """

    def __init__(
        self,
        pool: Pool,
        goods: Goods,
        payments: Recorder,
        *,
        seed: int,
        payment_method: str = "tok_approve",
        own: bytes = b"",
    ) -> None:
        """own: header lines of each request, as they are."""
        self._pool = pool
        self._payments = payments
        self._payment_method = payment_method
        self._own = own
        self._variant_ids = list(goods.variant_ids)
        self._dice = random.Random(seed)

    async def __call__(self, start: Start) -> None:
        order = await self._order(start, self._dice.choice(self._variant_ids))
        await self._pay(start, order["order_id"], order["customer_token"])

    async def _order(self, start: Start, variant_id: str) -> Any:
        body = {"lines": [{"variant_id": variant_id, "quantity": 1}]}
        answer = await self._post(start, "/orders", body)
        if answer.status == 409 and b"out-of-stock" in answer.body:
            raise Refused("sold out")
        return _document(answer, "order")

    async def _pay(self, start: Start, order_id: str, token: str) -> None:
        self._payments.arrive(start.second)
        began_at = time.monotonic()
        body = {"payment_method": self._payment_method}
        answer = await self._post(start, f"/orders/{order_id}/payments", body, bearer(token))
        state = _document(answer, "payment")["state"]
        if state != "SUCCESS":
            raise Failed(f"payment: {state}")
        self._payments.answer(time.monotonic() - began_at, start.second)

    async def _post(
        self, start: Start, target: str, body: dict[str, Any], headers: Headers | None = None
    ) -> Response:
        key = (b"idempotency-key", uuid.uuid4().hex.encode("ascii"))
        return await self._pool.request(
            b"POST",
            target.encode("ascii"),
            [JSON_HEADERS, key, *(headers or [])],
            json.dumps(body).encode(),
            own=self._own,
            deadline=start.deadline,
            patience=start.patience,
        )


class Claims(Checkouts):
    """A known customer claims a unit of the flash sale and pays it.

    That the sale is not open yet or sold out, and that he has had his share, are whole answers.
    """

    def __init__(
        self, pool: Pool, goods: Goods, payments: Recorder, *, seed: int, **options: Any
    ) -> None:
        super().__init__(pool, goods, payments, seed=seed, **options)
        self._target = f"/flash-sales/{goods.flash_sale_id}/claims"
        self._next_guest = cycle(self._dice.sample(goods.guests, len(goods.guests))).__next__

    async def __call__(self, start: Start) -> None:
        token = self._next_guest()
        answer = await self._post(start, self._target, {"quantity": 1}, bearer(token))
        if answer.status == 409:
            raise Refused(json.loads(answer.body)["type"].rpartition("/")[2])
        await self._pay(start, _document(answer, "claim")["order_id"], token)


class Searches(OneRequest):
    """Looks for a word that stands in some titles."""

    def __init__(self, pool: Pool, goods: Goods, *, seed: int, own: bytes = b"") -> None:
        self.pool = pool
        if not goods.words:
            raise NoShopError("no title has a word to search for")
        targets = ["/products?" + urlencode({"q": word}) for word in goods.words]
        self._requests = [Asked(b"GET", target.encode(), [], b"", own) for target in targets]
        self._dice = random.Random(seed)

    def ask(self) -> Asked:
        return self._dice.choice(self._requests)

    def judge(self, answer: Response) -> None:
        if answer.status != 200:
            raise Failed(status_of(answer))


class Requests(OneRequest):
    """The same request again and again; any 2xx is what was hoped for."""

    def __init__(
        self, pool: Pool, method: str, target: str, body: str, *, own: bytes = b""
    ) -> None:
        self.pool = pool
        headers = [JSON_HEADERS] if body else []
        self._asked = Asked(method.encode(), target.encode(), headers, body.encode(), own)

    def ask(self) -> Asked:
        return self._asked

    def judge(self, answer: Response) -> None:
        if not 200 <= answer.status < 300:
            raise Failed(status_of(answer))


class Logins(OneRequest):
    """Opens a session; each account in turn."""

    def __init__(self, pool: Pool, goods: Goods, *, own: bytes = b"") -> None:
        self.pool = pool
        if not goods.accounts:
            raise NoShopError("there is no account to log in to")
        bodies = (
            json.dumps({"email": email, "password": password}).encode()
            for email, password in goods.accounts
        )
        self._next = cycle(
            Asked(b"POST", b"/sessions", [JSON_HEADERS], body, own) for body in bodies
        ).__next__

    def ask(self) -> Asked:
        return self._next()

    def judge(self, answer: Response) -> None:
        if answer.status != 201:
            raise Failed(status_of(answer))


class SignUps(OneRequest):
    """Asks for an account with a new address each time, which has a mail sent there.

    A network may ask for so many in a while (docs/accounts.md): what is more is refused.
    """

    def __init__(self, pool: Pool, *, own: bytes = b"") -> None:
        self.pool = pool
        self._own = own

    def ask(self) -> Asked:
        body = json.dumps({"email": f"load-{uuid.uuid4().hex}@example.com"}).encode()
        return Asked(b"POST", b"/customers", [JSON_HEADERS], body, self._own)

    def judge(self, answer: Response) -> None:
        if answer.status == 429:
            raise Refused("too many mails")
        if answer.status != 202:
            raise Failed(status_of(answer))


def status_of(answer: Response) -> str:
    """The status, and the name of the problem that its body tells: who refuses, and why."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        return f"status {answer.status}, {json.loads(answer.body)['type'].rpartition('/')[2]}"
    return f"status {answer.status}"


def bearer(token: str) -> Headers:
    return [(b"authorization", b"Bearer " + token.encode("ascii"))]


def _document(answer: Response, what: str) -> Any:
    if answer.status != 201:
        raise Failed(f"{what}: {status_of(answer)}")
    return json.loads(answer.body)
