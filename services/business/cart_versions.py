"""The version of a cart: what an order names, so that nothing is ordered that was not shown."""

from __future__ import annotations

import hashlib
from typing import Final

from services.data.carts import Cart

HASH_HEX: Final = 16  # nobody gains by a cart of his own that is taken for another


def cart_version(cart: Cart) -> str:
    """Its revision, and a hash of what is shown of it and would be ordered.

    A band is not: how many are left is told when the stock is held.
    """
    shown = [
        (str(variant_id), quantity, title, currency, price_minor, for_sale)
        for variant_id, quantity, title, currency, price_minor, for_sale, _ in cart.lines
    ]
    digest = hashlib.sha256(repr(shown).encode()).hexdigest()
    return f"{cart.revision}-{digest[:HASH_HEX]}"
