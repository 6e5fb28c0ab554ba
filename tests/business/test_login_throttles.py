"""Tries are counted before the password is looked at, and nobody locks another out (S15)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from services.business import throttles
from services.data.login_tries import Rule
from tests.accounts import Person, account_id, new_email, problem_of
from tests.served_business import ServedBusiness
from tests.shopping import Books, statuses

WRONG = "not the password"


async def an_hour_passes(books: Books, by: timedelta = timedelta(hours=1)) -> None:
    """As if what was tried had been tried so much earlier."""
    await books.rows(
        "update login_tries set tried_at ="
        " array(select tried - $1::interval from unnest(tried_at) tried order by tried)",
        by,
    )


async def test_tries_wait_longer_and_longer(person: Person, lab_books: Books) -> None:
    await person.sign_up()
    assert statuses([await person.log_in(WRONG) for _ in range(3)]) == [401] * 3
    waits = []
    for wait_s in (1, 2, 4, 8, 16, 32, 64):
        refused = await person.log_in(WRONG)
        assert problem_of(refused) == (429, "too-many-requests")
        waits.append(int(refused.headers["retry-after"]))
        assert waits[-1] == wait_s
        # The right password waits as well: which it is, nobody can tell from the answer.
        assert (await person.log_in()).content == refused.content
        await an_hour_passes(lab_books, timedelta(seconds=wait_s))
        assert (await person.log_in(WRONG)).status_code == 401
    # Ten in all; then none until the first of them is 15 minutes old.
    await an_hour_passes(lab_books, timedelta(seconds=200))
    refused = await person.log_in()
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 64
    await an_hour_passes(lab_books, timedelta(minutes=15))
    assert (await person.log_in()).status_code == 201


async def test_of_a_crowd_at_once_no_more_pass_than_may(
    person: Person, served: ServedBusiness
) -> None:
    await person.sign_up()
    hashes = served.gate.shop.passwords.hashes_total
    answers = await asyncio.gather(*(person.log_in(WRONG) for _ in range(30)))
    assert statuses(answers) == [401] * 3 + [429] * 27
    assert served.gate.shop.passwords.hashes_total == hashes + 3


async def test_an_address_without_an_account_is_throttled_alike(person: Person) -> None:
    answers = [await person.log_in(WRONG) for _ in range(4)]
    assert statuses(answers) == [401] * 3 + [429]


async def test_right_passwords_do_not_count(person: Person) -> None:
    await person.sign_up()
    for _ in range(12):
        assert (await person.log_in()).status_code == 201


async def test_two_right_ones_do_not_give_back_what_others_used(person: Person) -> None:
    """A login by its owner gives those who guess beside him no more tries."""
    await person.sign_up()
    for _ in range(2):
        assert (await person.log_in(WRONG)).status_code == 401
    assert (await person.log_in()).status_code == 201
    assert (await person.log_in(WRONG)).status_code == 401
    assert (await person.log_in(WRONG)).status_code == 429


async def test_one_network_can_not_go_through_many_addresses(
    served: ServedBusiness, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttles, "BY_NETWORK", Rule(free=5, most=8, longest_s=0.001))
    guesser = Person(served.http, lab_books)
    found = []
    for _ in range(10):
        guesser.email = new_email()
        found.append((await guesser.log_in(WRONG)).status_code)
        await asyncio.sleep(0.01)
    assert found == [401] * 8 + [429] * 2


async def test_many_networks_delay_an_account_but_not_where_it_has_logged_in(
    person: Person, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttles, "BY_ACCOUNT", Rule(free=5, most=64, longest_s=30))
    await person.sign_up()
    guessers = [person.elsewhere() for _ in range(8)]
    answers = [await guesser.log_in(WRONG) for guesser in guessers]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
    # Its owner is let in at home whatever the others do; elsewhere he waits, or has a mail sent.
    assert (await person.log_in()).status_code == 201
    abroad = person.elsewhere()
    assert (await abroad.log_in()).status_code == 429
    token = await abroad.ask_reset()
    assert (await abroad.reset(token, abroad.password)).status_code == 204
    assert (await abroad.log_in()).status_code == 201


async def test_what_waits_in_one_network_delays_nobody_in_another(person: Person) -> None:
    """A guesser who does not wait uses up his own tries, not those of the account."""
    await person.sign_up()
    guesser = person.elsewhere()
    answers = [await guesser.log_in(WRONG) for _ in range(60)]
    assert {answer.status_code for answer in answers} == {401, 429}
    assert (await person.elsewhere().log_in()).status_code == 201


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("not an address", ""),
        ("", ""),
    ],
)
def test_a_network_is_what_one_customer_has(address: str, network: str) -> None:
    from starlette.requests import Request

    headers = [(b"x-forwarded-for", address.encode())]
    assert throttles.network_of(Request({"type": "http", "headers": headers})) == network


async def test_neither_address_nor_network_is_kept(person: Person, lab_books: Books) -> None:
    await person.sign_up()
    await person.log_in(WRONG)
    customer_id = await account_id(lab_books, person.email)
    rows = await lab_books.rows(
        "select try_key as key from login_tries union all"
        " select network_key from account_networks where customer_id = $1",
        customer_id,
    )
    assert rows and all(len(row["key"]) == 32 for row in rows)
