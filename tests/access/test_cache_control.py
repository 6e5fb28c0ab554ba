"""Reading Cache-Control: whatever bytes come, and the reading that holds less wins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access.cache_control import (
    DELTA_MAX_S,
    Directives,
    Terms,
    read_age,
    read_cache_control,
    terms_of,
)

TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12
)
QUOTED = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=12).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
KNOWN = [
    *("public", "private", "no-store", "no-cache", "must-revalidate", "proxy-revalidate"),
    *("s-maxage", "stale-while-revalidate", "stale-if-error"),
]
OTHER = TOKEN.filter(lambda name: name.lower() not in KNOWN)
MEMBER = st.one_of(
    OTHER,
    st.tuples(OTHER, st.one_of(TOKEN, QUOTED)).map("=".join),
)
RESTRICTIVE = ["no-store", "private", "no-cache"]


def held(value: str) -> Terms | None:
    return terms_of(200, [(b"cache-control", value.encode("latin-1"))])


@given(st.binary(max_size=200))
def test_any_bytes_are_read(value: bytes) -> None:
    said = read_cache_control([value])
    for seconds in (said.s_maxage or 0, said.stale_while_revalidate, said.stale_if_error):
        assert 0 <= seconds <= DELTA_MAX_S


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_lines_are_read_as_one_list(values: list[bytes]) -> None:
    assert read_cache_control(values) == read_cache_control([b",".join(values)])


@given(st.lists(MEMBER, max_size=5), st.integers(0, 10**12))
def test_what_is_not_known_changes_nothing(others: list[str], seconds: int) -> None:
    members = ["public", *others[:2], f"s-maxage={seconds}", *others[2:]]
    found = held(", ".join(members))
    assert found == Terms(min(seconds, DELTA_MAX_S), 0, 0, 0)


@given(st.permutations(["public", "s-maxage=5", "stale-while-revalidate=6", "stale-if-error=7"]))
def test_the_order_of_directives_does_not_matter(members: list[str]) -> None:
    assert held(",".join(members)) == Terms(5, 6, 7, 0)


@given(
    st.lists(MEMBER, max_size=4),
    st.sampled_from(RESTRICTIVE),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0,"), max_size=10),
)
def test_a_restriction_counts_whatever_stands_behind_it(
    others: list[str], name: str, rest: str
) -> None:
    # After the name comes something that is not a part of it.
    rest = "=" + rest if rest else rest
    assert held(", ".join(["public", "s-maxage=5", *others, name.upper() + rest])) is None


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=12))
def test_a_lifetime_is_digits_or_nothing(text: str) -> None:
    said = read_cache_control([b"s-maxage=" + text.encode("latin-1")])
    number = text.partition(",")[0].strip("\t ").strip('"').replace("\\", "")
    if said.s_maxage:
        assert number.isascii() and number.isdigit() and said.s_maxage == int(number)
        assert not said.broken


@pytest.mark.parametrize(
    ("value", "seconds", "broken"),
    [
        ("s-maxage=0", 0, False),
        ("s-maxage=2147483648", DELTA_MAX_S, False),
        ("s-maxage=2147483649", DELTA_MAX_S, False),
        ("s-maxage=" + "0" * 5000 + "7", 7, False),
        ("s-maxage=" + "9" * 5000, DELTA_MAX_S, False),
        ('s-maxage="7"', 7, False),
        ('s-maxage="\\7"', 7, False),
        ('s-maxage="7', 0, True),
        ("s-maxage=7 ", 7, False),
        ("s-maxage=7 8", 0, True),
        ("s-maxage= 7", 0, True),
        ("s-maxage=-7", 0, True),
        ("s-maxage=7,s-maxage=7", 7, False),
        ("s-maxage=7,s-maxage=8", 0, True),
        ("s-maxage=7,s-maxage=8,s-maxage=7", 0, True),
    ],
)
def test_a_lifetime_is_read_as_the_standard_says(value: str, seconds: int, broken: bool) -> None:
    said = read_cache_control([value.encode()])
    assert (said.s_maxage, said.broken) == (seconds, broken)


def test_nothing_said_is_nothing_allowed() -> None:
    assert read_cache_control([]) == Directives()
    assert terms_of(200, []) is None


@given(st.binary(max_size=30))
def test_any_age_is_read(value: bytes) -> None:
    assert 0 <= read_age([value]) <= DELTA_MAX_S


def test_age_is_taken_off_the_lifetime() -> None:
    headers = [(b"cache-control", b"public, s-maxage=10, stale-if-error=5"), (b"age", b"4")]
    assert terms_of(200, headers) == Terms(6, 0, 5, 4)
