"""Money: exact both ways, for every currency there is."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.money import (
    AMOUNT_MINOR_MAX,
    EXPONENTS,
    InvalidAmount,
    UnknownCurrency,
    exponent,
    format_minor,
    parse_minor,
)

currencies = st.sampled_from(sorted(EXPONENTS))
amounts_minor = st.integers(0, AMOUNT_MINOR_MAX)


@given(amounts_minor, currencies)
def test_what_is_formatted_parses_to_the_same_amount(amount_minor: int, currency: str) -> None:
    assert parse_minor(format_minor(amount_minor, currency), currency) == amount_minor


@given(amounts_minor, currencies)
def test_formatting_says_the_same_as_decimal_arithmetic(amount_minor: int, currency: str) -> None:
    expected = Decimal(amount_minor).scaleb(-EXPONENTS[currency])
    assert Decimal(format_minor(amount_minor, currency)) == expected


@given(st.text(max_size=30), currencies)
def test_any_text_is_an_amount_or_refused_by_name(text: str, currency: str) -> None:
    try:
        amount_minor = parse_minor(text, currency)
    except InvalidAmount:
        return
    assert Decimal(text.strip()).scaleb(EXPONENTS[currency]) == amount_minor


@pytest.mark.parametrize(
    ("text", "currency", "amount_minor"),
    [
        ("19.99", "USD", 1999),
        ("19.9", "USD", 1990),
        ("20", "EUR", 2000),
        ("20.", "EUR", 2000),
        (" 0.10 ", "EUR", 10),
        ("007.50", "GBP", 750),
        ("1500", "JPY", 1500),
        ("1500.00", "JPY", 1500),
        ("1.999", "KWD", 1999),
        ("1.9990", "KWD", 1999),
        ("0.0001", "CLF", 1),
        ("0.1", "USD", 10),
    ],
)
def test_amounts_are_read_by_the_decimals_of_their_currency(
    text: str, currency: str, amount_minor: int
) -> None:
    assert parse_minor(text, currency) == amount_minor


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", ".5", "-1", "+1", "1,234", "1,234.50", "1 000", "1e3", "0x10", "1_000", "nan",
        "inf", "12.345", "$5", "5 USD", "٣", "1\n2", "9" * 40,
    ],
)  # fmt: skip
def test_what_is_not_an_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidAmount):
        parse_minor(text, "USD")


def test_a_fraction_of_a_yen_is_refused() -> None:
    with pytest.raises(InvalidAmount, match="JPY, which has 0"):
        parse_minor("15.5", "JPY")


@pytest.mark.parametrize("code", ["", "usd", "US", "USDX", "XXX", "XAU", "HRK", "ZZZ"])
def test_a_code_that_is_no_currency_in_use_is_refused_by_name(code: str) -> None:
    with pytest.raises(UnknownCurrency, match="ISO 4217"):
        exponent(code)


def test_the_largest_amount_is_one_that_javascript_reads_exactly() -> None:
    assert parse_minor(str(AMOUNT_MINOR_MAX), "JPY") == AMOUNT_MINOR_MAX
    assert int(float(AMOUNT_MINOR_MAX)) == AMOUNT_MINOR_MAX
    with pytest.raises(InvalidAmount, match="too large"):
        parse_minor(str(AMOUNT_MINOR_MAX + 1), "JPY")


def test_a_refund_is_formatted_with_its_sign() -> None:
    assert format_minor(-5, "USD") == "-0.05"
    assert format_minor(-5, "JPY") == "-5"
