"""From rows to documents: what the database says, in the words that clients read.

Pages and payments are made of plain dicts, because rows need no validation: building and encoding
a model took five times as long. That each is just what its model in schemas.py says is held by a
test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from services.business.cart_versions import cart_version
from services.business.schemas import (
    CartDocument,
    FlashSaleDocument,
    Money,
    OrderDocument,
    OrderLineDocument,
    rfc3339,
)
from services.data.carts import Cart, CartLine
from services.data.flash_sales import Sale
from services.data.orders import Order, OrderEvent, OrderLine
from services.data.payment_operations import PaymentOperation
from services.data.payments import Payment
from services.data.products import Category, ListItem, Offer, Product, Rating
from services.data.stock import StockRow

Part = Literal["band", "rating", "related"]
Json = dict[str, Any]


def product_document(
    product: Product,
    offers: Sequence[Offer],
    *,
    stock: Sequence[StockRow],
    rating: Rating | None,
    related: Sequence[ListItem],
    degraded: Sequence[Part],
) -> Json:
    """A ProductDocument."""
    bands = {row.variant_id: row.band for row in stock}
    return {
        "product_id": str(product.product_id),
        "slug": product.slug,
        "title": product.title,
        "description_html": product.description_html,
        "vendor": product.vendor,
        "category": _category(product),
        "tags": product.tags,
        "option_names": product.option_names,
        "images": [{"url": image.url, "alt": image.alt} for image in product.images],
        "variants": [_variant(offer, bands) for offer in offers],
        "rating": _rating(rating),
        "related": [list_item(item) for item in related],
        "degraded": sorted(degraded),
    }


def list_item(item: ListItem) -> Json:
    """A ListItemDocument."""
    return {
        "slug": item.slug,
        "title": item.title,
        "vendor": item.vendor,
        "category": item.category_slug,
        "price_from": _money(item.price_from_minor, item.currency),
        "image_url": item.image_url,
    }


def category_list(rows: Sequence[Category]) -> Json:
    """A CategoryListDocument."""
    items = [
        {"slug": row.category_slug, "title": row.title, "product_count": row.product_count}
        for row in rows
    ]
    return {"items": items}


def order_document(
    order: Order,
    lines: Sequence[OrderLine],
    payments: Sequence[Payment],
    events: Sequence[OrderEvent],
    operations: Sequence[PaymentOperation] = (),
    *,
    customer_token: str | None = None,
) -> OrderDocument:
    """customer_token is given once, to a guest whom this order has made."""
    return OrderDocument.model_validate(
        {
            "order_id": order.order_id,
            "state": order.state,
            "total": Money(amount_minor=order.total_minor, currency=order.currency),
            "lines": [_order_line(line, order.currency) for line in lines],
            "hold_expires_at": order.hold_expires_at,
            "created_at": order.created_at,
            "payments": [
                payment_document(
                    payment, [one for one in operations if one.payment_id == payment.payment_id]
                )
                for payment in payments
            ],
            "events": [
                {
                    "from": event.was,
                    "to": event.becomes,
                    "cause": event.cause,
                    "at": event.created_at,
                }
                for event in events
            ],
            "customer_token": customer_token,
        }
    )


def cart_document(cart: Cart, *, customer_token: str | None = None) -> CartDocument:
    """customer_token is given once, to a guest whom this cart has made."""
    return CartDocument.model_validate(
        {
            "cart_id": cart.cart_id,
            "state": cart.state,
            "version": cart_version(cart),
            "lines": [_cart_line(line) for line in cart.lines],
            "total": _cart_total(cart),
            "order_id": cart.order_id,
            "created_at": cart.created_at,
            "updated_at": cart.updated_at,
            "customer_token": customer_token,
        }
    )


def payment_document(payment: Payment, operations: Sequence[PaymentOperation] = ()) -> Json:
    """A PaymentDocument. operations: all of this payment, from the first on."""
    return {
        "payment_id": str(payment.payment_id),
        "order_id": str(payment.order_id),
        "state": payment.state,
        "amount": _money(payment.amount_minor, payment.currency),
        "decline_code": payment.decline_code,
        "detail": payment.detail,
        "next_action": _next_action(payment),
        "capture": payment.capture_method,
        "captured": _money(payment.captured_minor, payment.currency),
        "refunded": _money(payment.refunded_minor, payment.currency),
        "voided_at": None if payment.voided_at is None else rfc3339(payment.voided_at),
        "operations": [operation_document(one) for one in operations],
        "created_at": rfc3339(payment.created_at),
        "updated_at": rfc3339(payment.updated_at),
    }


def operation_document(operation: PaymentOperation) -> Json:
    """An OperationDocument."""
    return {
        "operation_id": str(operation.operation_id),
        "payment_id": str(operation.payment_id),
        "kind": operation.kind,
        "cause": operation.cause,
        "state": operation.state,
        "amount": _money(operation.amount_minor, operation.currency),
        "decline_code": operation.decline_code,
        "detail": operation.detail,
        "created_at": rfc3339(operation.created_at),
        "updated_at": rfc3339(operation.updated_at),
    }


def _next_action(payment: Payment) -> Json | None:
    """Only as long as it changes anything."""
    if payment.next_action_url is None or payment.state != "PENDING":
        return None
    return {"type": "redirect", "url": payment.next_action_url}


def flash_sale_document(sale: Sale) -> FlashSaleDocument:
    return FlashSaleDocument(
        flash_sale_id=sale.flash_sale_id,
        variant_id=sale.variant_id,
        opens_at=sale.opens_at,
        closes_at=sale.closes_at,
        quantity=sale.quantity,
        left=sale.left,
        customer_limit=sale.customer_limit,
        unit_price=Money(amount_minor=sale.unit_price_minor, currency=sale.currency),
        created_at=sale.created_at,
    )


def _category(product: Product) -> Json | None:
    if product.category_slug is None:
        return None
    title = product.category_title or product.category_slug
    return {"slug": product.category_slug, "title": title}


def _variant(offer: Offer, bands: dict[UUID, str]) -> Json:
    compare_at = offer.compare_at_minor
    return {
        "variant_id": str(offer.variant_id),
        "title": offer.title,
        "sku": offer.sku,
        "option_values": offer.option_values,
        "price": _money(offer.price_minor, offer.currency),
        "compare_at": None if compare_at is None else _money(compare_at, offer.currency),
        "image_url": offer.image_url,
        "band": bands.get(offer.variant_id, "unknown"),
    }


def _money(amount_minor: int, currency: str) -> Json:
    return {"amount_minor": amount_minor, "currency": currency}


def _rating(rating: Rating | None) -> Json | None:
    if rating is None:
        return None
    average = round(rating.rating_sum / rating.rating_count, 2)
    return {"average": average, "count": rating.rating_count}


def _cart_line(line: CartLine) -> Json:
    return {
        "variant_id": line.variant_id,
        "title": line.title,
        "quantity": line.quantity,
        "for_sale": line.for_sale,
        "unit_price": _money(line.price_minor, line.currency) if line.for_sale else None,
        "band": line.band,
    }


def _cart_total(cart: Cart) -> Json | None:
    currencies = {line.currency for line in cart.lines}
    if len(currencies) != 1 or not all(line.for_sale for line in cart.lines):
        return None
    total_minor = sum(line.quantity * line.price_minor for line in cart.lines)
    return _money(total_minor, currencies.pop())


def _order_line(line: OrderLine, currency: str) -> OrderLineDocument:
    return OrderLineDocument(
        variant_id=line.variant_id,
        title=line.title,
        quantity=line.quantity,
        unit_price=Money(amount_minor=line.unit_price_minor, currency=currency),
    )
