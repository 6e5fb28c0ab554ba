"""What `tercet doctor` says about statements: whose they are, and what they cost."""

from __future__ import annotations

import pytest

from infra.local.heaviest import Statement, heaviest, table
from services.business.shop import Shop
from services.data.products import select_offers
from tests.running_stack import RunningStack

__all__ = ["shop"]
from tests.shop_fixtures import shop


def addresses(stack: RunningStack) -> dict[str, str]:
    return {name: stack.part(name)["address"] for name in ("primary", "standby")}


async def test_statements_have_the_names_of_their_constants(
    stack: RunningStack, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.local.heaviest.HEAVIEST", 1000)
    for source in (shop.database.primary, *shop.database.replicas):
        await select_offers(source, "none")
    found = await heaviest(stack.folder, addresses(stack))
    by_place = {(one.name, one.server): one for one in found}
    for server in ("primary", "standby"):
        assert by_place["products.SELECT_OFFERS", server].calls > 0
    # With constants in its text, which the server shows as parameters.
    assert ("outbox.CLAIM_UNPUBLISHED", "primary") in by_place
    assert ("outbox.TAGS_ARE_LATE", "primary") in by_place
    assert all(one.mean_ms * one.calls == pytest.approx(one.total_ms) for one in found)


async def test_no_more_are_told_than_are_read(stack: RunningStack) -> None:
    found = await heaviest(stack.folder, addresses(stack))
    assert len(found) == 10
    assert len(list(table(found))) == 11


async def test_a_server_that_is_away_is_named(stack: RunningStack) -> None:
    with pytest.raises(OSError, match=r"standby can not be asked|Connect call failed"):
        await heaviest(stack.folder, {"standby": "127.0.0.1:1"})


def test_what_is_not_a_constant_is_told_by_its_beginning() -> None:
    one = Statement("select a, b from c", "primary", 4, 10.0)
    *_, line = table([one])
    assert line.split(maxsplit=4) == ["10.0", "4", "2.500", "primary", "select a, b from c"]
