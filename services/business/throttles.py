"""How often passwords may be tried and mails asked for: rules, and what they count by.

Three rules, counted before a password is looked at and taken back where it was right. By account
and network together: who guesses is slowed down and stopped. By network over all accounts: who
goes through addresses is. By account over all networks: many machines together are slowed down,
but not in networks from which the account has logged in before, so nobody locks another out.
"""

from __future__ import annotations

import hmac
import math
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.requests import Request

from services.business.shop import Shop
from services.data.login_tries import Keys, Rule, Try, count_one, count_try
from services.data.sources import Transaction
from services.problems import TooManyRequests

# ASVS V6.3.1 and the aim of S15: at most 10 in 15 minutes. 3 at once are typing errors; then 1, 2,
# 4, … 64 s.
BY_PAIR: Final = Rule(free=3, most=10, longest_s=64)
# An office behind one address has so many typing errors in 15 minutes.
BY_NETWORK: Final = Rule(free=50, most=100, longest_s=4)
# Delays only: 20, then one each 30 s is 2,900 guesses a day by all machines of the world together.
# There can not be 64 in 15 minutes at that pace.
BY_ACCOUNT: Final = Rule(free=20, most=64, longest_s=30)
# Mails: nobody's mailbox is filled by us, and no network makes us fill many.
MAILS_TO_ADDRESS: Final = Rule(free=3, most=3, longest_s=0)
MAILS_BY_NETWORK: Final = Rule(free=30, most=30, longest_s=0)
IPV6_CUSTOMER: Final = 64  # bits: the least a provider gives one customer (RFC 6177)


def network_of(request: Request) -> str:
    """Where a request comes from, by the word of access: an IPv4 address, or an IPv6 /64."""
    text = request.headers.get("x-forwarded-for", "")
    try:
        address = ip_address(text.strip())
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> IPV6_CUSTOMER << IPV6_CUSTOMER))
    return str(address)


def keys_of(shop: Shop, email_key: str, network: str) -> Keys:
    """What a try counts under; neither address nor network can be read from it."""
    return Keys(
        _key(shop, "pair", email_key, network),
        _key(shop, "network", network),
        _key(shop, "account", email_key),
    )


async def admit_try(shop: Shop, keys: Keys, email_key: str) -> Try:
    """Count a try, or raise TooManyRequests: then its password is not looked at."""
    counted = await count_try(
        shop.database.primary,
        keys,
        email_key,
        pair=BY_PAIR,
        network=BY_NETWORK,
        account=BY_ACCOUNT,
    )
    if counted.wait_s > 0:
        shop.counts.logins_throttled_total += 1
        raise TooManyRequests(
            "Too many tries with a wrong password.",
            retry_after_s=math.ceil(counted.wait_s),
        )
    return counted


async def admit_mail(shop: Shop, tx: Transaction, email_key: str, network: str) -> bool:
    """Whether one more mail may go to this address; nobody is told that it may not.

    Raises TooManyRequests for a network that asks for too many.
    """
    wait_s = await count_one(tx, _key(shop, "mails from", network), MAILS_BY_NETWORK)
    if wait_s > 0:
        raise TooManyRequests("Too many mails were asked for.", retry_after_s=math.ceil(wait_s))
    return await count_one(tx, _key(shop, "mails to", email_key), MAILS_TO_ADDRESS) == 0


def _key(shop: Shop, *parts: str) -> bytes:
    secret = shop.settings.cookie_secret.get_secret_value().encode()
    return hmac.digest(secret, "\n".join(parts).encode(), "sha256")
