"""From rows to documents: what the database says, in the words that clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from services.business.schemas import (
    CategoryName,
    ImageDocument,
    ListItemDocument,
    Money,
    OrderDocument,
    OrderLineDocument,
    PaymentDocument,
    ProductDocument,
    RatingDocument,
    VariantDocument,
)
from services.data.orders import Order, OrderLine
from services.data.payments import Payment
from services.data.products import ListItem, Offer, Product, Rating
from services.data.stock import StockRow

Part = Literal["band", "rating", "related"]


def product_document(
    product: Product,
    offers: Sequence[Offer],
    *,
    stock: Sequence[StockRow],
    rating: Rating | None,
    related: Sequence[ListItem],
    degraded: Sequence[Part],
) -> ProductDocument:
    bands = {row.variant_id: row.band for row in stock}
    return ProductDocument(
        product_id=product.product_id,
        slug=product.slug,
        title=product.title,
        description_html=product.description_html,
        vendor=product.vendor,
        category=_category(product),
        tags=product.tags,
        option_names=product.option_names,
        images=[ImageDocument(url=image.url, alt=image.alt) for image in product.images],
        variants=[_variant(offer, bands) for offer in offers],
        rating=_rating(rating),
        related=[list_item(item) for item in related],
        degraded=sorted(degraded),
    )


def list_item(item: ListItem) -> ListItemDocument:
    return ListItemDocument(
        slug=item.slug,
        title=item.title,
        vendor=item.vendor,
        category=item.category_slug,
        price_from=Money(amount_minor=item.price_from_minor, currency=item.currency),
        image_url=item.image_url,
    )


def order_document(
    order: Order,
    lines: Sequence[OrderLine],
    payments: Sequence[Payment],
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
            "payments": [payment_document(payment) for payment in payments],
            "customer_token": customer_token,
        }
    )


def payment_document(payment: Payment) -> PaymentDocument:
    return PaymentDocument(
        payment_id=payment.payment_id,
        order_id=payment.order_id,
        state=payment.state,
        amount=Money(amount_minor=payment.amount_minor, currency=payment.currency),
        decline_code=payment.decline_code,
        detail=payment.detail,
        created_at=payment.created_at,
        updated_at=payment.updated_at,
    )


def _category(product: Product) -> CategoryName | None:
    if product.category_slug is None:
        return None
    title = product.category_title or product.category_slug
    return CategoryName(slug=product.category_slug, title=title)


def _variant(offer: Offer, bands: dict[UUID, str]) -> VariantDocument:
    compare_at = None
    if offer.compare_at_minor is not None:
        compare_at = Money(amount_minor=offer.compare_at_minor, currency=offer.currency)
    return VariantDocument.model_validate(
        {
            "variant_id": offer.variant_id,
            "title": offer.title,
            "sku": offer.sku,
            "option_values": offer.option_values,
            "price": Money(amount_minor=offer.price_minor, currency=offer.currency),
            "compare_at": compare_at,
            "image_url": offer.image_url,
            "band": bands.get(offer.variant_id, "unknown"),
        }
    )


def _rating(rating: Rating | None) -> RatingDocument | None:
    if rating is None:
        return None
    average = round(rating.rating_sum / rating.rating_count, 2)
    return RatingDocument(average=average, count=rating.rating_count)


def _order_line(line: OrderLine, currency: str) -> OrderLineDocument:
    return OrderLineDocument(
        variant_id=line.variant_id,
        title=line.title,
        quantity=line.quantity,
        unit_price=Money(amount_minor=line.unit_price_minor, currency=currency),
    )
