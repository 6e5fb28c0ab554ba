"""Guests: customers who are known by a token in their cookie, and by nothing else."""

from __future__ import annotations

from typing import Final

from services.business.shop import Shop
from services.data import customers

COOKIE: Final = "tercet_customer"


def guest_cookie(shop: Shop, token: str) -> str:
    """The Set-Cookie of a guest who has just been made."""
    max_age_s = int(customers.GUEST_TOKEN_LIFETIME.total_seconds())
    secure = "; Secure" if shop.settings.cookie_secure else ""
    return f"{COOKIE}={token}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"


def no_guest_cookie(shop: Shop) -> str:
    """The Set-Cookie of who is no guest any more."""
    secure = "; Secure" if shop.settings.cookie_secure else ""
    return f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{secure}"
