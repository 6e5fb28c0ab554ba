"""Who a token stands for, as business tells access: guests, sessions and the first operator."""

from __future__ import annotations

import hashlib
import secrets
from uuid import UUID

import httpx

from services.business.shop import open_shop
from services.data.customers import OPERATOR
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase, migrated_database
from tests.running_stack import RunningStack
from tests.shopping import Books, Customer, asgi_client, http_client, open_books

INSERT_SESSION = """
    insert into sessions (token_sha256, customer_id, expires_at)
    values ($1, $2, now() + $3::float8 * interval '1 second') returning session_id
"""


def path_of(token: str) -> str:
    return f"/internal/identities/{hashlib.sha256(token.encode()).hexdigest()}"


async def session_of(books: Books, customer_id: UUID, lives_s: float = 3600) -> tuple[str, str]:
    """A session made by hand: its token and its id."""
    token = secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).digest()
    return token, str(await books.value(INSERT_SESSION, digest, customer_id, lives_s))


async def customer_of(books: Books, kind: str) -> UUID:
    sql = "insert into customers (kind) values ($1) returning customer_id"
    return UUID(str(await books.value(sql, kind)))


async def test_a_guest_has_no_session(
    http: httpx.AsyncClient, business: httpx.AsyncClient, books: Books
) -> None:
    guest = Customer(http)
    order_id = await guest.placed({(await books.goods()).variant: 1})
    owner = await books.value("select customer_id from orders where order_id = $1", UUID(order_id))
    shown = (await business.get(path_of(str(guest.token)))).json()
    assert shown == {
        "customer_id": str(owner),
        "role": "guest",
        "session_id": None,
        "guests": [],
        "expires_in_s": 86_400,
    }


async def test_a_session_tells_its_role_and_who_its_customer_was_before(
    business: httpx.AsyncClient, books: Books
) -> None:
    merchant, guests = await customer_of(books, "merchant"), []
    for _ in range(2):
        guests.append(await customer_of(books, "guest"))
        await books.rows("insert into guest_links values ($1, $2)", guests[-1], merchant)
    token, session_id = await session_of(books, merchant, 120)
    shown = (await business.get(path_of(token))).json()
    assert 100 < shown.pop("expires_in_s") <= 120
    assert shown == {
        "customer_id": str(merchant),
        "role": "merchant",
        "session_id": session_id,
        "guests": [str(guest) for guest in reversed(guests)],
    }


async def test_a_session_that_is_over_or_ended_is_nobodys(
    business: httpx.AsyncClient, books: Books
) -> None:
    owner = await customer_of(books, "customer")
    old, _ = await session_of(books, owner, -1)
    ended, session_id = await session_of(books, owner)
    sql = "update sessions set ended_at = now() where session_id = $1"
    await books.rows(sql, UUID(session_id))
    for token in (old, ended):
        assert (await business.get(path_of(token))).status_code == 404


async def test_the_token_of_the_settings_is_the_first_operators(
    business: httpx.AsyncClient, stack: RunningStack
) -> None:
    shown = (await business.get(path_of(stack.secret("operator_token")))).json()
    assert (shown["customer_id"], shown["role"]) == (str(OPERATOR), "operator")


async def test_another_token_of_the_settings_takes_its_place(stack: RunningStack) -> None:
    async with migrated_database(stack) as database:
        fresh = secrets.token_urlsafe(32)
        await with_token(database, fresh)
        async with open_books(database.superuser_dsn(), relayed=False) as books:
            rows = await books.rows("select token_sha256 from sessions where ended_at is null")
            assert [row[0] for row in rows] == [hashlib.sha256(fresh.encode()).digest()]
            told = await books.value("select count(*) from outbox where name = $1", TAG)
            assert told == 1
        await database.upgrade()
        async with open_books(database.superuser_dsn(), relayed=False) as books:
            rows = await books.rows("select token_sha256 from sessions where ended_at is null")
            first = stack.secret("operator_token")
            assert [row[0] for row in rows] == [hashlib.sha256(first.encode()).digest()]


TAG = f"customer-{OPERATOR}"


async def with_token(database: OwnDatabase, token: str) -> None:
    """What `tercet migrate` does after the secret was made anew."""
    await database.upgrade(operator_token=token)


async def test_an_operator_is_who_access_says_is_one(
    stack: RunningStack, business: httpx.AsyncClient
) -> None:
    known = await business.get("/operator/upstreams", headers={"x-customer-role": "operator"})
    assert known.status_code == 200
    for role in ("merchant", "customer", "guest", "operators", ""):
        headers = {"x-customer-role": role}
        assert (await business.get("/operator/upstreams", headers=headers)).status_code == 403
    async with http_client(stack.url) as client:
        answer = await client.get("/operator/upstreams", headers={"x-customer-role": "operator"})
        assert answer.status_code == 401, "access lets clients say who they are"


async def test_while_the_primary_is_away_a_standby_is_asked(
    laboratory: OwnDatabase, lab_books: Books
) -> None:
    """Who reads standbys may not read tokens, and learns whose one is by its hash alone."""
    merchant, guest = (
        await customer_of(lab_books, "merchant"),
        await customer_of(lab_books, "guest"),
    )
    await lab_books.rows("insert into guest_links values ($1, $2)", guest, merchant)
    token, session_id = await session_of(lab_books, merchant, 120)
    ended, ended_id = await session_of(lab_books, merchant)
    sql = "update sessions set ended_at = now() where session_id = $1"
    await lab_books.rows(sql, UUID(ended_id))
    await lab_books.replayed()
    nobody = laboratory.settings(primary_dsn="postgresql://tercet_app@127.0.0.1:1/tercet")
    async with open_shop(nobody) as shop, asgi_client(shop) as client:
        reads = shop.database.readers
        await until(lambda: len(reads()) > 1, within_s=20, what="the standby is read from")
        found = await client.get(path_of(token))
        assert found.status_code == 200, found.text
        shown = found.json()
        assert shown == {
            "customer_id": str(merchant),
            "role": "merchant",
            "session_id": session_id,
            "guests": [str(guest)],
            "expires_in_s": 1,
        }
        for wrong in (ended, "x" * 43):  # that a standby knows none says nothing
            assert (await client.get(path_of(wrong))).status_code == 503
