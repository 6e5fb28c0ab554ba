"""What tests here buy with."""

from __future__ import annotations

from tests.shop_fixtures import books, business, customer, http, laboratory, provider, shop

__all__ = ["books", "business", "customer", "http", "laboratory", "provider", "shop"]
