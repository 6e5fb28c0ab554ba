"""Sessions: a new token each login, ended at once, listed and ended one by one (S16)."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from services.business.logins import SESSIONS_MAX
from services.business.shop import Shop
from tests.accounts import Person, account_id, headers_of, identity_of, problem_of
from tests.laboratory import OwnDatabase
from tests.served_business import ServedBusiness
from tests.shopping import Books, asgi_client, statuses

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


async def test_each_login_has_a_token_of_its_own_and_ends_the_session_it_shows(
    person: Person,
) -> None:
    """Whoever has put a session into a browser before does not share what comes after (V7.2.4)."""
    await person.sign_up()
    first = str(person.token)
    await person.log_in()
    second = str(person.token)
    assert TOKEN.fullmatch(first) and TOKEN.fullmatch(second) and first != second
    assert not await person.is_known(first)
    assert await person.is_known(second)


async def test_a_login_elsewhere_ends_nothing(person: Person) -> None:
    await person.sign_up()
    elsewhere = person.elsewhere()
    answers = await asyncio.gather(elsewhere.log_in(), person.elsewhere().log_in())
    assert statuses(answers) == [201, 201]
    assert await person.is_known() and await elsewhere.is_known()


async def test_what_is_stored_is_the_hash(person: Person, lab_books: Books) -> None:
    body = (await person.sign_up()).json()
    sql = "select token_sha256 from sessions where session_id = $1"
    stored = await lab_books.value(sql, UUID(body["session_id"]))
    assert stored == hashlib.sha256(body["token"].encode()).digest()


async def test_logging_out_ends_the_session_at_once_and_tells_access(
    person: Person, lab_books: Books
) -> None:
    body = (await person.sign_up()).json()
    token = str(person.token)
    sql = "select count(*) from outbox where kind = 'tag' and name = $1"
    tag = f"customer-{body['customer_id']}"
    told = await lab_books.value(sql, tag)
    answer = await person.asked("DELETE", "/sessions/current")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["set-cookie"] == (
        "tercet_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
    )
    assert not await person.is_known(token)
    assert await lab_books.value(sql, tag) == told + 1


async def test_sessions_are_listed_and_ended_one_by_one(person: Person) -> None:
    own = (await person.sign_up()).json()["session_id"]
    elsewhere = person.elsewhere()
    await elsewhere.asked("POST", "/sessions", None)  # not a login
    body = {"email": person.email, "password": person.password}
    answer = await elsewhere.asked("POST", "/sessions", body, user_agent="A browser")
    elsewhere.token = answer.json()["token"]
    items = (await person.asked("GET", "/sessions")).json()["items"]
    assert [(item["session_id"], item["current"]) for item in items] == [
        (answer.json()["session_id"], False),
        (own, True),
    ]
    assert items[0]["user_agent"] == "A browser"
    assert "token" not in str(items)
    ended = await person.asked("DELETE", f"/sessions/{items[0]['session_id']}")
    assert ended.status_code == 204
    assert not await elsewhere.is_known()
    assert len((await person.asked("GET", "/sessions")).json()["items"]) == 1
    again = await person.asked("DELETE", f"/sessions/{items[0]['session_id']}")
    assert problem_of(again) == (404, "not-found")


async def test_anothers_session_is_as_unknown_as_none(person: Person) -> None:
    await person.sign_up()
    other = Person(person.business, person.books)
    session_id = (await other.sign_up()).json()["session_id"]
    for wanted in (session_id, str(uuid4())):
        answer = await person.asked("DELETE", f"/sessions/{wanted}")
        assert problem_of(answer) == (404, "not-found")
    assert await other.is_known()
    items = (await person.asked("GET", "/sessions")).json()["items"]
    assert session_id not in str(items)
    assert problem_of(await person.asked("DELETE", "/sessions/none")) == (400, "invalid-request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/customers/me"),
        ("PUT", "/customers/me/password"),
        ("GET", "/sessions"),
        ("DELETE", "/sessions/current"),
        ("DELETE", "/sessions/0b6b16eb-438f-40bd-aeac-091c05725564"),
    ],
)
async def test_accounts_are_for_who_is_logged_in(
    method: str, path: str, person: Person, lab_books: Books
) -> None:
    body = {"current_password": "a b c d e f", "new_password": "a b c d e f"}
    nobody = await person.asked(method, path, body)
    assert problem_of(nobody) == (401, "unauthenticated")
    (person.token,) = await lab_books.guests(1)
    assert problem_of(await person.asked(method, path, body)) == (403, "forbidden")


async def test_an_account_has_so_many_sessions_and_the_oldest_end(
    person: Person, lab_books: Books
) -> None:
    await person.sign_up()
    first = str(person.token)
    customer_id = await account_id(lab_books, person.email)
    await lab_books.rows(
        "insert into sessions (token_sha256, customer_id, expires_at, created_at)"
        " select sha256(($1 || n)::bytea), $2, now() + interval '1 day',"
        " now() + n * interval '1 microsecond' from generate_series(1, $3::int - 1) n",
        uuid4().hex,
        customer_id,
        SESSIONS_MAX,
    )
    assert await person.is_known(first)
    await person.elsewhere().log_in()
    assert not await person.is_known(first)
    sql = "select count(*) from sessions where customer_id = $1 and ended_at is null"
    assert await lab_books.value(sql, customer_id) == SESSIONS_MAX


async def test_the_cookie_is_of_this_host_alone_where_there_is_https(
    laboratory: OwnDatabase, lab_shop: Shop, lab_books: Books
) -> None:
    settings = laboratory.settings(cookie_secure=True)
    async with asgi_client(replace(lab_shop, settings=settings)) as client:
        person = Person(client, lab_books)
        answer = await person.sign_up()
        assert answer.headers["set-cookie"] == (
            f"__Host-tercet_session={person.token}; Path=/; Max-Age=2592000; HttpOnly;"
            " SameSite=Lax; Secure"
        )


async def test_use_of_a_session_is_noted_now_and_then(person: Person, lab_books: Books) -> None:
    body = (await person.sign_up()).json()
    session_id = UUID(body["session_id"])
    sql = "select last_used_at from sessions where session_id = $1"
    before = await lab_books.value(sql, session_id)
    assert await person.is_known()
    assert await lab_books.value(sql, session_id) == before
    await lab_books.rows(
        "update sessions set last_used_at = now() - interval '6 minutes' where session_id = $1",
        session_id,
    )
    assert await person.is_known()
    assert await lab_books.value(sql, session_id) > before


async def test_the_operator_of_the_settings_is_not_logged_out(
    served: ServedBusiness, lab_books: Books, laboratory: OwnDatabase
) -> None:
    """Scripts go on with it; another secret and `tercet migrate` end it."""
    operator = Person(served.http, lab_books, token=laboratory.stack.secret("operator_token"))
    assert (await operator.asked("DELETE", "/sessions/current")).status_code == 204
    shown = (await headers_of(served.http, str(operator.token)))["x-session-id"]
    answer = await operator.asked("DELETE", f"/sessions/{shown}")
    assert problem_of(answer) == (404, "not-found")
    assert await operator.is_known()
    assert problem_of(await operator.asked("GET", "/customers/me")) == (404, "not-found")
    found = await identity_of(served.http, str(operator.token))
    assert found is not None and found["role"] == "operator"
