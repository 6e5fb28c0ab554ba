"""Two customers and something to buy, for every test of security."""

from __future__ import annotations

import pytest

from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, new_guest, plenty_of_goods
from tests.shop_fixtures import laboratory

__all__ = ["laboratory"]


@pytest.fixture(scope="session")
def goods(stack: RunningStack) -> Goods:
    return plenty_of_goods(stack)


@pytest.fixture(scope="session")
def alice(stack: RunningStack, goods: Goods) -> Guest:
    return new_guest(stack, goods)


@pytest.fixture(scope="session")
def bob(stack: RunningStack, goods: Goods) -> Guest:
    return new_guest(stack, goods)
