"""Money: integer minor units with an ISO 4217 currency, read and written exactly.

An amount is never a float: "19.99" USD is the integer 1999, "1999" JPY is 1999, "1.999" KWD is
1999. How many decimals a currency has is its exponent in ISO 4217, list one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# The largest integer that a JSON reader with 64-bit floats (JavaScript) still reads exactly.
AMOUNT_MINOR_MAX: Final = 2**53 - 1

# ISO 4217 list one, currencies in use (2026); metals, funds and test codes have no exponent
# and are not money that a shop takes.
_BY_EXPONENT: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD "
        "CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP "
        "GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK "
        "LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO "
        "NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS "
        "SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST "
        "XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

EXPONENTS: Final[Mapping[str, int]] = MappingProxyType(
    {code: exponent for exponent, codes in _BY_EXPONENT.items() for code in codes.split()}
)

# \Z, not $: $ also matches before a line break at the end.
_DECIMAL: Final = re.compile(r"(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]*))?\Z")


class UnknownCurrency(ValueError):
    """The code is not one of a currency in use in ISO 4217."""


class InvalidAmount(ValueError):
    """The text is not an amount of its currency; the message says what is wrong with it."""


def exponent(currency: str) -> int:
    """Decimals of a currency: 2 for USD, 0 for JPY, 3 for KWD; UnknownCurrency for others."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise UnknownCurrency(f"{currency[:20]!r} is not an ISO 4217 currency in use") from None


def parse_minor(text: str, currency: str) -> int:
    """The amount in minor units that a decimal like "19.99" stands for, exactly.

    Digits with a point for the decimals; no sign, no exponent, nothing between thousands, since
    "1,234" is a thousand to some and a bit more than one to others. Decimals beyond those of the
    currency are taken only where they are zeros. Raises InvalidAmount or UnknownCurrency.
    """
    decimals = exponent(currency)
    match = _DECIMAL.match(text.strip())
    if match is None:
        raise InvalidAmount(f"{text[:40]!r} is not an amount: digits with a point for decimals")
    fraction = (match["fraction"] or "").rstrip("0")
    if len(fraction) > decimals:
        raise InvalidAmount(
            f"{text[:40]!r} has more decimals than {currency}, which has {decimals}"
        )
    digits = (match["whole"] + fraction.ljust(decimals, "0")).lstrip("0") or "0"
    if len(digits) > len(str(AMOUNT_MINOR_MAX)) or int(digits) > AMOUNT_MINOR_MAX:
        raise InvalidAmount(f"{text[:40]!r} is too large")
    return int(digits)


def format_minor(amount_minor: int, currency: str) -> str:
    """The decimal with all the decimals of its currency: 1999 USD is "19.99"; exact both ways."""
    decimals = exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    if decimals == 0:
        return f"{amount_minor}"
    whole, fraction = divmod(abs(amount_minor), 10**decimals)
    return f"{sign}{whole}.{fraction:0{decimals}d}"
