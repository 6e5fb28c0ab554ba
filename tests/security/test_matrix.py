"""S6 and S7: every route, asked by everybody, about what is the owner's; nothing is listed by hand
that follows from the route's guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from tests.running_stack import RunningStack
from tests.security.guests import Goods, new_key
from tests.security.matrix import (
    ACTORS,
    LET_IN,
    OWNED,
    ROUTES,
    SHARED,
    Actor,
    Asked,
    People,
    Verdict,
    body_of,
)
from tests.shopping import Books, http_client, open_books

NOBODYS: Final = "01890000-0000-7000-8000-000000000000"
# What nobody says of itself or of what it buys.
TOO_MUCH: Final = {
    "price": 1,
    "price_minor": 1,
    "unit_price_minor": 1,
    "total_minor": 1,
    "role": "operator",
    "kind": "operator",
    "status": "paid",
    "state": "paid",
    "customer_id": NOBODYS,
    "guests": [NOBODYS],
    "session_id": NOBODYS,
}


class Shop:
    """Access of the stack, everybody who asks there, and the owner's things."""

    def __init__(self, http: httpx.AsyncClient, people: People, things: dict[str, str]) -> None:
        self.people = people
        self.things = things
        self._http = http

    async def ask(self, asked: Asked, actor: Actor, body: Any = None) -> httpx.Response:
        """The answer's head, with a body unless it is a stream that goes on."""
        headers = {"idempotency-key": new_key()}
        token = await self.people.token_of(actor)
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        things = self.things
        if "session_id" in asked.parameters:  # what an owner ends is gone for the next one
            things = things | {"session_id": await self.people.session_of("owner")}
        path = asked.path.format(**things)
        async with self._http.stream(asked.method, path, headers=headers, json=body) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
        return answer

    async def owners(self) -> list[Any]:
        """What the owner has: as it is shown to it, and nothing that changes by itself."""
        paths = ("/orders/{order_id}", "/carts/{cart_id}", "/payments/{payment_id}")
        shown = [await self.ask(Asked("GET", path, "customer"), "owner") for path in paths]
        assert [each.status_code for each in shown] == [200] * len(paths)
        return [each.json() for each in shown]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def owner_books(stack: RunningStack) -> AsyncIterator[Books]:
    async with open_books(stack.dsn("tercet_owner")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(stack: RunningStack, goods: Goods, owner_books: Books) -> AsyncIterator[Shop]:
    people = People(owner_books)
    things = {
        "slug": goods.slug,
        "variant_id": goods.variant_id,
        "provider": "sandbox",
        "upstream": "provider",
        "payment_review_id": NOBODYS,
    }
    async with http_client(stack.url) as http:
        made = Shop(http, people, things)
        lines = {"lines": [{"variant_id": goods.variant_id, "quantity": 1}]}

        async def make(path: str, body: Any, actor: Actor = "owner") -> Any:
            answer = await made.ask(Asked("POST", path, ""), actor, body)
            assert answer.status_code == 201, answer.text
            return answer.json()

        paid = (await make("/orders", lines))["order_id"]
        payment = await make(f"/orders/{paid}/payments", {"payment_method": "tok_approve"})
        things["payment_id"] = payment["payment_id"]
        things["order_id"] = (await make("/orders", lines))["order_id"]
        things["cart_id"] = (await make("/carts", lines))["cart_id"]
        sale = body_of(sale_model(), things)
        sale["unit_price"] = {"amount_minor": 1, "currency": goods.currency}
        things["flash_sale_id"] = (await make("/flash-sales", sale, "operator"))["flash_sale_id"]
        yield made


def sale_model() -> Any:
    return next(each.body for each in ROUTES if each.name == "POST /flash-sales")


def verdict_on(answer: httpx.Response, asked: Asked) -> Verdict:
    """What it says about who asked; not-found counts where it is about a customer's thing."""
    problem = ""
    if answer.headers.get("content-type") == "application/problem+json":
        problem = answer.json()["type"].removeprefix("/problems/")
    if problem in ("unauthenticated", "forbidden"):
        return "unauthenticated" if problem == "unauthenticated" else "forbidden"
    if problem == "not-found" and asked.parameters & OWNED:
        return "not-found"
    return "let in"


def test_every_parameter_of_a_path_and_every_guard_is_known_here() -> None:
    for asked in ROUTES:
        assert asked.parameters <= OWNED | SHARED, f"{asked.name}: whose is that? say it in matrix"
        assert asked.guard in LET_IN, f"{asked.name}: whom does {asked.guard} let in?"
        body_of(asked.body, {"variant_id": NOBODYS})


@pytest.mark.parametrize("asked", ROUTES, ids=lambda asked: asked.name)
async def test_a_route_lets_in_whom_its_guard_says_and_to_ones_own_things_only(
    asked: Asked, shop: Shop
) -> None:
    before = await shop.owners()
    found: dict[Actor, Verdict] = {}
    refused = [actor for actor in ACTORS if asked.verdict(actor) != "let in"]
    for actor in (*refused, *(actor for actor in ACTORS if actor not in refused)):
        if len(found) == len(refused):
            assert await shop.owners() == before, "who was refused has changed something"
        answer = await shop.ask(asked, actor, body_of(asked.body, shop.things))
        assert answer.status_code < 500 or asked.path == "/events", answer.text
        found[actor] = verdict_on(answer, asked)
    assert found == {actor: asked.verdict(actor) for actor in ACTORS}


@pytest.mark.parametrize(
    "asked", [asked for asked in ROUTES if asked.body is not None], ids=lambda asked: asked.name
)
async def test_what_a_client_has_no_say_in_is_refused_and_does_nothing(
    asked: Asked, shop: Shop, owner_books: Books
) -> None:
    if asked.path.startswith("/webhooks/"):
        pytest.skip("its body is signed by the provider, and read by our names only")
    allowed = LET_IN[asked.guard]
    actor: Actor = "owner" if "customer" in allowed else "operator"
    before = await shop.owners()
    assert asked.body is not None
    for name, value in TOO_MUCH.items():
        if name in asked.body.model_fields:
            continue
        body = body_of(asked.body, shop.things) | {name: value}
        answer = await shop.ask(asked, actor, body)
        assert answer.status_code == 422, (name, answer.text)
        assert f"/{name}" in [error["field"] for error in answer.json()["errors"]]
    assert await shop.owners() == before
    sql = "select kind from customers where customer_id = $1"
    assert await owner_books.value(sql, await shop.people.id_of("owner")) == "customer"
