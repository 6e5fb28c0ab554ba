"""The generator: the same catalog for the same seed, and one that can be believed."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain

import orjson
import pytest

from services.business.imports.generate import BLOCK_PRODUCTS, catalog
from services.business.imports.sanitize import safe_html
from services.business.pictures import draw, is_name
from services.data.catalog_rows import Product

# Of the products 1 and 5000 of seed 1. Load tests name products by seed: a change here is one that
# the changelog has to mention.
FIRST_ID = "018cc251-f400-799b-8134-c43e5fdc8dc3"
FIRST_SLUG = "fjell-flannel-long-sleeve-1i0s7r1"
LAST_HASH = "8860ddd14440f08b"

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


def products(count: int, seed: int = 1, currency: str = "USD") -> list[Product]:
    return list(chain.from_iterable(catalog(count, seed, currency)))


@pytest.fixture(scope="module")
def some() -> list[Product]:
    return products(5000)


def test_the_same_seed_gives_the_same_catalog_to_the_last_id() -> None:
    assert products(700) == products(700)
    assert products(700) != products(700, seed=2)


def test_the_catalog_of_a_seed_does_not_change_between_releases(some: list[Product]) -> None:
    first = some[0]
    assert str(first.product_id) == FIRST_ID
    assert first.slug == FIRST_SLUG
    assert some[4999].content_sha256().hex()[:16] == LAST_HASH


def test_a_larger_catalog_holds_the_smaller_one() -> None:
    size = BLOCK_PRODUCTS + 200
    smaller, larger = products(size), products(3 * BLOCK_PRODUCTS)
    assert [p.content_sha256() for p in smaller] == [p.content_sha256() for p in larger[:size]]
    assert [p.product_id for p in smaller] == [p.product_id for p in larger[:size]]


def test_slugs_and_ids_are_all_different(some: list[Product]) -> None:
    ids = [p.product_id for p in some] + [v.variant_id for p in some for v in p.variants]
    assert len(set(ids)) == len(ids)
    assert len({p.slug for p in some}) == len(some)
    assert len({v.sku for p in some for v in p.variants}) == sum(len(p.variants) for p in some)
    for product in some:
        assert SLUG.match(product.slug)
        assert len({v.variant_key for v in product.variants}) == len(product.variants)


def test_ids_are_version_7_and_in_order_of_creation(some: list[Product]) -> None:
    ids = [p.product_id for p in some if p.product_id is not None]
    assert ids == sorted(ids)
    assert {i.version for i in ids} == {7}
    assert {i.variant for i in ids} == {"specified in RFC 4122"}


def test_two_seeds_do_not_share_slugs() -> None:
    assert not {p.slug for p in products(3000)} & {p.slug for p in products(3000, seed=2)}


def test_related_products_are_others_of_the_same_category_that_exist() -> None:
    some = products(BLOCK_PRODUCTS + 120)
    category_of = {p.product_id: p.category for p in some}
    for product in some:
        related = product.related_product_ids
        assert product.product_id not in related
        assert len(set(related)) == len(related)
        assert all(category_of[other] == product.category for other in related)
    assert sum(len(p.related_product_ids) == 4 for p in some) > 0.85 * len(some)


def test_popularity_follows_zipfs_law(some: list[Product]) -> None:
    """The r-th most popular of N products has a weight of about N/r."""
    weights = sorted((p.popularity for p in some), reverse=True)
    for rank in (50, 100, 500, 1000, 2500):
        assert weights[rank - 1] == pytest.approx(len(some) / rank, rel=0.3)


def test_stock_has_all_bands(some: list[Product]) -> None:
    quantities = [v.quantity for p in some for v in p.variants]
    share = 1 / len(quantities)
    assert sum(q == 0 for q in quantities) * share == pytest.approx(0.05, abs=0.01)
    assert sum(1 <= q <= 5 for q in quantities) * share == pytest.approx(0.10, abs=0.02)
    assert max(quantities) <= 400


def test_ratings_are_possible_ones(some: list[Product]) -> None:
    ratings = [p.rating for p in some if p.rating is not None]
    assert len(ratings) / len(some) == pytest.approx(0.8, abs=0.03)
    assert all(r.rating_count <= r.rating_sum <= 5 * r.rating_count for r in ratings)
    averages = [r.rating_sum / r.rating_count for r in ratings if r.rating_count > 20]
    assert min(averages) > 3.1
    assert max(averages) < 5


def test_every_category_has_its_share(some: list[Product]) -> None:
    counts = Counter(p.category.category_slug for p in some if p.category)
    assert len(counts) == 24
    assert min(counts.values()) > 50


def test_descriptions_are_safe_html_of_several_hundred_bytes(some: list[Product]) -> None:
    sizes = [len(p.description_html) for p in some]
    assert min(sizes) > 250
    assert max(sizes) < 700
    assert all(safe_html(p.description_html) == p.description_html for p in some[:500])


def test_a_page_would_have_one_to_three_kilobytes(some: list[Product]) -> None:
    related_bytes = 4 * 170
    sizes = []
    for product in some[:500]:
        parts = [tuple(part) for part in (*product.variants, *product.images)]
        page = [product.title, product.description_html, product.tags, parts]
        sizes.append(len(orjson.dumps(page)) + related_bytes)
    assert sum(sizes) / len(sizes) == pytest.approx(2000, abs=1000)


def test_prices_are_in_minor_units_of_the_currency() -> None:
    dollars, yen, dinars = (products(200, currency=code) for code in ("USD", "JPY", "KWD"))
    for in_usd, in_jpy, in_kwd in zip(dollars, yen, dinars, strict=True):
        cents = in_usd.variants[0].price_minor
        assert in_jpy.variants[0].price_minor == cents // 100
        assert in_kwd.variants[0].price_minor == cents * 10
    assert all(v.price_minor > 0 for p in yen for v in p.variants)
    sales = [v for p in dollars for v in p.variants if v.compare_at_minor is not None]
    assert sales
    assert all(v.compare_at_minor > v.price_minor for v in sales if v.compare_at_minor)


def test_every_picture_of_a_product_can_be_drawn(some: list[Product]) -> None:
    for product in some[:300]:
        urls = [image.url for image in product.images]
        urls += [v.image_url for v in product.variants if v.image_url]
        assert urls
        for url in urls:
            match = re.fullmatch(r"/pictures/(.+)\.svg", url)
            assert match is not None
            assert is_name(match[1])
            assert draw(match[1]).startswith(b"<svg ")
