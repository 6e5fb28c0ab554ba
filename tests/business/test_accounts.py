"""Accounts: made by a mail, changed by a password or another mail, and told to nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.business.passwords import COMMON, SIZE_MAX_BYTES, Passwords
from services.business.shop import Shop
from tests.accounts import PASSWORD, Person, account_id, identity_of, new_email, problem_of
from tests.served_business import ServedBusiness
from tests.shopping import Books, asgi_client, statuses

OTHER_PASSWORD = "another horse, another battery"


# Signing up


async def test_a_mail_makes_an_account_with_a_first_session(person: Person) -> None:
    answer = await person.sign_up()
    assert answer.status_code == 201
    body = answer.json()
    assert body["role"] == "customer" and body["cart_id"] is None
    assert answer.headers["set-cookie"] == (
        f"tercet_session={body['token']}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"
    )
    shown = (await person.asked("GET", "/customers/me")).json()
    assert (shown["customer_id"], shown["email"]) == (body["customer_id"], person.email)
    assert shown.keys() == {
        "customer_id", "role", "email", "created_at", "password_changed_at",
    }  # fmt: skip


async def test_asking_for_an_account_makes_none(person: Person, lab_books: Books) -> None:
    await person.asked("POST", "/customers", {"email": person.email})
    sql = "select count(*) from accounts where email_key = lower($1)"
    assert await lab_books.value(sql, person.email) == 0
    assert problem_of(await person.log_in()) == (401, "login-refused")


async def test_a_second_account_is_none_and_its_mail_says_so(person: Person) -> None:
    first = (await person.sign_up()).json()["customer_id"]
    stranger = Person(person.business, person.books, person.email.lower())
    answer = await stranger.asked("POST", "/customers", {"email": stranger.email})
    assert (answer.status_code, answer.json()) == (202, {"status": "mailed"})
    sql = "select * from mails where lower(recipient) = lower($1) order by mail_id desc"
    mail = (await person.books.rows(sql, person.email))[0]
    assert mail["recipient"] == person.email  # as it was confirmed, not as it was spelt now
    assert "There is one already" in mail["body"]
    # What is in it sets the password of the account that there is, and makes no other.
    token = await stranger.mailed()
    assert problem_of(await stranger.confirm(token)) == (422, "token-refused")
    assert (await stranger.reset(token, OTHER_PASSWORD)).status_code == 204
    stranger.password = OTHER_PASSWORD
    assert (await stranger.log_in()).json()["customer_id"] == first


async def test_a_confirmation_is_used_once_also_by_two_at_once(person: Person) -> None:
    await person.asked("POST", "/customers", {"email": person.email})
    token = await person.mailed()
    answers = await asyncio.gather(*(person.elsewhere().confirm(token) for _ in range(4)))
    assert statuses(answers) == [201, 422, 422, 422]
    assert {problem_of(a) for a in answers if a.status_code == 422} == {(422, "token-refused")}
    assert await person.books.value(
        "select count(*) from accounts where email_key = lower($1)", person.email
    ) == 1  # fmt: skip


async def test_of_two_confirmations_for_one_address_one_makes_the_account(person: Person) -> None:
    tokens = []
    for _ in range(2):
        await person.asked("POST", "/customers", {"email": person.email})
        tokens.append(await person.mailed())
    answers = await asyncio.gather(*(person.elsewhere().confirm(token) for token in tokens))
    assert statuses(answers) == [201, 422]


@pytest.mark.parametrize(
    "email",
    [
        "nobody",
        "@example.com",
        "a@",
        "a b@example.com",
        "a@example.com\r\nbcc: b@example.com",
        "a\n@example.com",
        "a@example.com\n",
        "a@exa\rmple.com",
        "a\x00@example.com",
        "<a@example.com>",
        "a@example.com,b@example.com",
        "ı@example.com",
        "\u212a@example.com",
        "a@exämple.com",
        f"{'a' * 65}@example.com",
        f"a@{'b' * 63}.{'c' * 63}.{'d' * 63}.{'e' * 63}.com",
        "",
        None,
        ["a@example.com"],
    ],
)
async def test_what_is_no_address_reaches_no_mail(
    email: object, person: Person, lab_books: Books
) -> None:
    before = await lab_books.value("select count(*) from mails")
    for path in ("/customers", "/password-resets"):
        assert problem_of(await person.asked("POST", path, {"email": email})) == (
            422,
            "invalid-body",
        )
    login = await person.asked("POST", "/sessions", {"email": email, "password": PASSWORD})
    assert problem_of(login) == (422, "invalid-body")
    assert await lab_books.value("select count(*) from mails") == before


# Which addresses are known


async def test_answers_do_not_tell_whether_an_address_is_known(
    person: Person, served: ServedBusiness
) -> None:
    """The same status, fields and bytes, and a password is hashed for either."""
    await person.sign_up()
    shop = served.gate.shop
    seen: dict[str, set[tuple[Any, ...]]] = {}
    for email in (person.email, new_email()):
        for path, more in (
            ("/sessions", {"password": "wrong password"}),
            ("/customers", {}),
            ("/password-resets", {}),
        ):
            hashes = shop.passwords.hashes_total
            asker = Person(person.business, person.books)
            answer = await asker.asked("POST", path, {"email": email, **more})
            fields = {name: value for name, value in answer.headers.items() if name != "date"}
            seen.setdefault(path, set()).add(
                (
                    answer.status_code,
                    tuple(sorted(fields.items())),
                    answer.content,
                    shop.passwords.hashes_total - hashes,
                )
            )
    assert [len(kinds) for kinds in seen.values()] == [1, 1, 1], seen
    ((status, _, _, hashes),) = seen["/sessions"]
    assert (status, hashes) == (401, 1)


async def test_an_address_gets_few_mails_and_nobody_is_told(person: Person) -> None:
    answers = [await person.ask_quietly() for _ in range(6)]
    assert {(a.status_code, a.content) for a in answers} == {(202, b'{"status":"mailed"}')}
    sql = "select count(*) from mails where recipient = $1"
    assert await person.books.value(sql, person.email) == 3


async def test_a_network_can_not_make_us_fill_mailboxes(
    served: ServedBusiness, lab_books: Books
) -> None:
    asker = Person(served.http, lab_books)
    answers = [await asker.asked("POST", "/customers", {"email": new_email()}) for _ in range(31)]
    assert statuses(answers) == [202] * 30 + [429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 900


# Passwords


@pytest.mark.parametrize(
    "password",
    [
        "eight ch",
        "x" * 63 + "y",
        "correct horse " * 73,
        "пароль не из списка",
        "🔑" * 8,
        " leading and trailing ",
        "a\x00b c d e f g h",
        "aaaabbbbccccdddd",
    ],
)
async def test_any_characters_make_a_password(password: str, person: Person) -> None:
    person.password = password
    assert (await person.sign_up()).status_code == 201
    assert (await person.log_in()).status_code == 201
    # Nothing is cut off, at 72 bytes or anywhere.
    assert problem_of(await person.log_in(password[:-1])) == (401, "login-refused")
    assert problem_of(await person.log_in(password[:-1] + "~")) == (401, "login-refused")


@pytest.mark.parametrize(
    ("password", "detail"),
    [
        ("seven c", "at least 8"),
        ("password", "most common"),
        ("PassWord", "most common"),
        ("iloveyou", "most common"),
        ("é" * 7, "at least 8"),
        ("e\u0301" * 7, "must have at least 8"),  # fourteen code points, seven characters
        ("€" * 400, f"at most {SIZE_MAX_BYTES} bytes"),
        ("x" * 1025, "at most 1024"),
    ],
)
async def test_a_password_that_is_short_long_or_common_is_refused(
    password: str, detail: str, person: Person
) -> None:
    await person.asked("POST", "/customers", {"email": person.email})
    token, person.password = await person.mailed(), password
    answer = await person.confirm(token)
    assert problem_of(answer) == (422, "invalid-body")
    assert answer.json()["errors"][0]["field"] == "/password"
    assert detail in answer.json()["errors"][0]["detail"]
    person.password = PASSWORD
    assert (await person.confirm(token)).status_code == 201  # the token was not used up


async def test_two_spellings_of_one_password_are_the_same(person: Person) -> None:
    person.password = "caf\u00e9 au lait"
    await person.sign_up()
    assert (await person.log_in("cafe\u0301 au lait")).status_code == 201
    assert problem_of(await person.log_in("cafe au lait")) == (401, "login-refused")


def test_the_list_is_that_of_the_package_and_has_the_first_3000() -> None:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # type: ignore[import-untyped]

    from infra.common_passwords import lines

    written = COMMON.read_text().splitlines()
    assert written == list(lines())
    refused = set(written)
    most_common = FREQUENCY_LISTS["passwords"][:3000]
    assert len(most_common) == 3000
    assert all(password in refused or len(password) < 8 for password in most_common)


async def test_hashes_are_argon2id_of_the_parameters_of_today(
    person: Person, lab_books: Books, served: ServedBusiness
) -> None:
    await person.sign_up()
    customer_id = await account_id(lab_books, person.email)
    sql = "select password_hash from accounts where customer_id = $1"
    stored = await lab_books.value(sql, customer_id)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in stored
    # What was made with fewer is made anew at the next login, of two that come at once, too.
    from argon2 import PasswordHasher

    weak = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    await lab_books.rows(
        "update accounts set password_hash = $2 where customer_id = $1", customer_id, weak
    )
    answers = await asyncio.gather(*(person.elsewhere().log_in() for _ in range(2)))
    assert statuses(answers) == [201, 201]
    renewed = await lab_books.value(sql, customer_id)
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$") and renewed != stored
    assert (await person.log_in()).status_code == 201


# Changing and resetting


async def test_a_changed_password_ends_all_other_sessions(person: Person) -> None:
    await person.sign_up()
    elsewhere = person.elsewhere()
    await elsewhere.log_in()
    assert (await person.change_password(OTHER_PASSWORD)).status_code == 204
    assert await person.is_known()
    assert not await elsewhere.is_known()
    assert problem_of(await elsewhere.log_in(PASSWORD)) == (401, "login-refused")
    assert (await elsewhere.log_in(OTHER_PASSWORD)).status_code == 201
    sql = "select subject from mails where recipient = $1 order by mail_id desc limit 1"
    assert await person.books.value(sql, person.email) == "Your password was changed"


async def test_without_the_password_of_now_there_is_no_other(person: Person) -> None:
    await person.sign_up()
    answer = await person.change_password(OTHER_PASSWORD, "not my password")
    assert problem_of(answer) == (422, "invalid-body")
    assert answer.json()["errors"][0]["field"] == "/current_password"
    assert (await person.log_in()).status_code == 201


async def test_a_stolen_session_guesses_no_faster(person: Person) -> None:
    await person.sign_up()
    answers = [await person.change_password(OTHER_PASSWORD, f"guess {n}") for n in range(5)]
    assert statuses(answers) == [422, 422, 422, 429, 429]


async def test_a_reset_ends_all_sessions_and_is_used_once(person: Person) -> None:
    await person.sign_up()
    token = await person.ask_reset()
    answers = await asyncio.gather(
        *(person.elsewhere().reset(token, OTHER_PASSWORD) for _ in range(3))
    )
    assert statuses(answers) == [204, 422, 422]
    assert not await person.is_known()
    assert problem_of(await person.log_in()) == (401, "login-refused")
    assert (await person.log_in(OTHER_PASSWORD)).status_code == 201
    assert problem_of(await person.reset(token, PASSWORD)) == (422, "token-refused")


async def test_a_reset_ends_what_else_was_mailed(person: Person) -> None:
    await person.sign_up()
    first, second = await person.ask_reset(), await person.ask_reset()
    assert (await person.reset(second, OTHER_PASSWORD)).status_code == 204
    assert problem_of(await person.reset(first, PASSWORD)) == (422, "token-refused")


async def test_what_is_too_old_unknown_or_of_another_kind_resets_nothing(person: Person) -> None:
    await person.sign_up()
    token = await person.ask_reset()
    await person.books.rows(
        "update account_tokens set expires_at = now() where email_key = lower($1)", person.email
    )
    newcomer = person.elsewhere()
    newcomer.email = new_email()
    await newcomer.asked("POST", "/customers", {"email": newcomer.email})
    for wrong in (token, "x" * 43, "", await newcomer.mailed(), str(person.token)):
        assert problem_of(await person.reset(wrong, OTHER_PASSWORD)) == (422, "token-refused")
    assert (await person.log_in()).status_code == 201


async def test_a_reset_is_of_one_account_alone(person: Person) -> None:
    await person.sign_up()
    other = person.elsewhere()
    other.email = new_email()
    await other.sign_up()
    token = await person.ask_reset()
    assert (await other.reset(token, OTHER_PASSWORD)).status_code == 204
    assert (await other.log_in(PASSWORD)).status_code == 201
    assert await other.is_known()
    assert (await person.log_in(OTHER_PASSWORD)).status_code == 201


async def test_who_logs_in_while_the_password_changes_has_no_session_left(person: Person) -> None:
    """With the old password there is a session before the change, which ends it, or none."""
    await person.sign_up()
    current = PASSWORD
    for turn in range(3):
        fresh = f"{OTHER_PASSWORD} {turn}"
        others = [person.elsewhere() for _ in range(4)]
        changed, *logins = await asyncio.gather(
            person.change_password(fresh, current), *(other.log_in(current) for other in others)
        )
        assert changed.status_code == 204
        assert {answer.status_code for answer in logins} <= {201, 401}
        for other in others:
            assert other.token is None or not await other.is_known()
        current = fresh


@pytest.mark.parametrize(
    "change", ["password_changed_at = clock_timestamp()", "disabled_at = now()"]
)
async def test_what_changes_while_a_password_is_compared_counts(
    change: str,
    person: Person,
    lab_shop: Shop,
    lab_books: Books,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The right password of a moment ago begins no session."""
    await person.sign_up()
    compare = Passwords.matches

    async def compared(own: Passwords, password_hash: str | None, password: str) -> bool:
        found = await compare(own, password_hash, password)
        sql = f"update accounts set {change} where email_key = lower($1)"  # noqa: S608 - ours
        await lab_books.rows(sql, person.email)
        return found

    monkeypatch.setattr(Passwords, "matches", compared)
    async with asgi_client(lab_shop) as client:
        other = Person(client, lab_books, person.email)
        assert problem_of(await other.log_in()) == (401, "login-refused")
    sql = "select count(*) from sessions where customer_id = $1"
    assert await lab_books.value(sql, await account_id(lab_books, person.email)) == 1


async def test_of_two_changes_at_once_one_is_made(person: Person) -> None:
    await person.sign_up()
    answers = await asyncio.gather(
        *(person.change_password(f"{OTHER_PASSWORD} {n}") for n in range(2))
    )
    assert statuses(answers) == [204, 422]


# The database


async def test_no_token_and_no_password_is_kept_as_it_is(person: Person, lab_books: Books) -> None:
    body = (await person.sign_up()).json()
    await person.books.rows("delete from mails where recipient = $1", person.email)
    for table in ("accounts", "sessions", "account_tokens", "login_tries", "account_networks"):
        rows = " ".join(str(dict(row)) for row in await lab_books.rows(f"select * from {table}"))  # noqa: S608 - names of ours
        for secret in (body["token"], PASSWORD, person.address):
            assert secret not in rows, table


async def test_what_is_over_is_deleted(person: Person, lab_books: Books, lab_shop: Shop) -> None:
    from services.business import account_purging

    await person.sign_up()
    await person.log_in("a wrong password")
    customer_id = await account_id(lab_books, person.email)
    old = "now() - interval '40 days'"
    await lab_books.rows(
        f"update sessions set ended_at = {old}, expires_at = {old} where customer_id = $1",  # noqa: S608 - ours
        customer_id,
    )
    await lab_books.rows(f"update account_tokens set expires_at = {old}")  # noqa: S608 - ours
    await lab_books.rows(f"update login_tries set tried_at = array[{old}]")  # noqa: S608 - ours
    assert await account_purging.run_once(lab_shop) > 0
    for table in ("account_tokens", "login_tries"):
        assert await lab_books.value(f"select count(*) from {table}") == 0  # noqa: S608 - ours
    sql = "select count(*) from sessions where customer_id = $1"
    assert await lab_books.value(sql, customer_id) == 0
    assert await identity_of(person.business, str(person.token)) is None
