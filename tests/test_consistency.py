"""Tokens of what a customer has seen: whose, for how long, and that nobody else makes one."""

from __future__ import annotations

import secrets

import pytest

from services.consistency import UNKNOWN, Seal, Seen, read_seen

CUSTOMER = "0198c0de-0000-7000-8000-000000000001"
SEEN = Seen(1, 51_767_512)
NOW = 1_795_867_200.123


@pytest.fixture
def seal() -> Seal:
    return Seal(secrets.token_urlsafe(32))


def test_a_token_says_what_was_signed(seal: Seal) -> None:
    for seen in (SEEN, Seen(2, 2**63 - 1), UNKNOWN):
        assert seal.open(seal.token(seen, CUSTOMER, NOW), CUSTOMER, NOW) == seen


def test_a_token_is_of_one_customer(seal: Seal) -> None:
    token = seal.token(SEEN, CUSTOMER, NOW)
    assert seal.open(token, CUSTOMER[:-1] + "2", NOW) is None


def test_a_token_of_another_secret_is_none(seal: Seal) -> None:
    token = Seal(secrets.token_urlsafe(32)).token(SEEN, CUSTOMER, NOW)
    assert seal.open(token, CUSTOMER, NOW) is None


def test_whatever_is_changed_in_a_token_makes_it_none(seal: Seal) -> None:
    token = seal.token(SEEN, CUSTOMER, NOW)
    for place in range(len(token)):
        for other in b"0aA.-_":
            changed = token[:place] + bytes([other]) + token[place + 1 :]
            if changed != token:
                assert seal.open(changed, CUSTOMER, NOW) is None, changed


@pytest.mark.parametrize(
    ("age_s", "is_one"), [(0, True), (9.99, True), (10.01, False), (-9.99, True), (-10.01, False)]
)
def test_a_token_is_one_for_ten_seconds_by_clocks_that_differ_by_as_much(
    seal: Seal, age_s: float, is_one: bool
) -> None:
    token = seal.token(SEEN, CUSTOMER, NOW)
    assert (seal.open(token, CUSTOMER, NOW + age_s) is not None) == is_one


@pytest.mark.parametrize(
    "token", [b"", b"...", b"1.2.3.", b"1.2.3." + b"A" * 23, b"1" * 10_000, b"1.2.3." + b"A" * 22]
)
def test_what_is_no_token_is_none(seal: Seal, token: bytes) -> None:
    assert seal.open(token, CUSTOMER, NOW) is None


def test_the_unknown_is_above_every_position() -> None:
    assert max(UNKNOWN, Seen(7, 2**63 - 1)) == UNKNOWN


def test_what_the_tiers_tell_each_other_is_read_as_it_was_written() -> None:
    for seen in (SEEN, UNKNOWN):
        assert read_seen(seen.text) == seen
    for text in ("", "1", "1/", "/1", "1/-1", "1/2/3", "x/1", "1/" + "9" * 20):
        with pytest.raises(ValueError, match="timeline/position"):
            read_seen(text)
