"""What live streams tell of a thing: its whole state, the same bytes while it is the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.data.flash_sales import Sale
from services.data.live import LiveOrder, LiveState, LiveVariant

Json = dict[str, Any]


class Told(NamedTuple):
    """A state, and what of it makes it another one: its bytes but for the time."""

    state: LiveState
    compared: bytes


def product_states(
    slugs: Iterable[str], found: Mapping[str, Sequence[LiveVariant]]
) -> Iterable[Told]:
    """Price, band and exact stock of each variant; a product that is not on sale has none."""
    for slug in slugs:
        topic = f"product:{slug}"
        variants = [_variant(one) for one in found.get(slug, ())]
        yield _told(topic, "product", {"topic": topic, "slug": slug, "variants": variants})


def sale_states(sale_ids: Iterable[UUID], found: Mapping[UUID, Sale]) -> Iterable[Told]:
    """Window, units left, and the time by which a client counts down to either end of it."""
    for sale_id in sale_ids:
        topic, sale = f"sale:{sale_id}", found.get(sale_id)
        if sale is None:
            body: Json = {"topic": topic, "flash_sale_id": sale_id, "state": "unknown"}
            yield _told(topic, "sale", body)
        else:
            yield _told(topic, "sale", _sale(topic, sale), {"server_time": sale.seen_at})


def order_states(orders: Iterable[LiveOrder]) -> Iterable[Told]:
    """A state for each order, under the topic of its customer."""
    for order in orders:
        topic = f"customer:{order.customer_id}"
        yield _told(topic, "order", _order(topic, order), key=f"order:{order.order_id}")


def _variant(variant: LiveVariant) -> Json:
    compare_at = variant.compare_at_minor
    return {
        "variant_id": variant.variant_id,
        "price": _money(variant.price_minor, variant.currency),
        "compare_at": None if compare_at is None else _money(compare_at, variant.currency),
        "band": variant.band,
        "available": variant.available,
    }


def _sale(topic: str, sale: Sale) -> Json:
    if sale.seen_at < sale.opens_at:
        state = "upcoming"
    else:
        state = "open" if sale.seen_at < sale.closes_at else "over"
    return {
        "topic": topic,
        "flash_sale_id": sale.flash_sale_id,
        "variant_id": sale.variant_id,
        "state": state,
        "opens_at": sale.opens_at,
        "closes_at": sale.closes_at,
        "quantity": sale.quantity,
        "left": sale.left,
        "unit_price": _money(sale.unit_price_minor, sale.currency),
    }


def _order(topic: str, order: LiveOrder) -> Json:
    payment = None
    if order.payment_id is not None:
        payment = {"payment_id": order.payment_id, "state": order.payment_state}
    return {
        "topic": topic,
        "order_id": order.order_id,
        "state": order.state,
        "total": _money(order.total_minor, order.currency),
        "hold_expires_at": order.hold_expires_at,
        "updated_at": order.updated_at,
        "payment": payment,
    }


def _money(amount_minor: int, currency: str) -> Json:
    return {"amount_minor": amount_minor, "currency": currency}


def _told(topic: str, event: str, body: Json, timed: Json | None = None, *, key: str = "") -> Told:
    compared = _line(body)
    data = compared if timed is None else _line(body | timed)
    return Told(LiveState(topic, event, data, key or topic), compared)


def _line(body: Json) -> bytes:
    # asyncpg's UUIDs are of a class of their own, which orjson does not know.
    return orjson.dumps(body, default=str, option=orjson.OPT_UTC_Z)
