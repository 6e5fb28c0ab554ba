"""Shopify's product CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.data.catalog_rows import Category, Image
from tests.business.product_files import (
    SAMPLES,
    mug,
    notes_of,
    read_all,
    shopify_csv,
    skipped_count,
)


def test_the_sample_is_read_without_a_complaint() -> None:
    products, bad = read_all(SAMPLES / "shopify.csv")
    assert bad == []
    assert list(products) == [
        "tidemark-linen-shirt",
        "stoneware-mug",
        "brass-desk-lamp",
        "field-notebook",
        "crème-brûlée-dish",
        "winter-blanket",
    ]


def test_variants_and_pictures_on_rows_of_their_own_make_one_product() -> None:
    shirt = read_all(SAMPLES / "shopify.csv")[0]["tidemark-linen-shirt"]
    assert shirt.option_names == ["Colour", "Size"]
    assert [variant.title for variant in shirt.variants] == ["Sand / S", "Sand / M", "Indigo / M"]
    assert [variant.price_minor for variant in shirt.variants] == [5900, 5900, 6250]
    assert [variant.compare_at_minor for variant in shirt.variants] == [7400, 7400, None]
    assert [variant.quantity for variant in shirt.variants] == [12, 3, 0]
    assert shirt.price_from_minor == 5900
    assert len(shirt.images) == 4
    assert shirt.images[3] == Image(
        "https://images.example.com/tidemark-linen-shirt-back.jpg", "Seen from behind"
    )
    assert shirt.category == Category("shirts", "Shirts")
    assert shirt.tags == ["linen", "summer", "shirt"]


def test_a_product_without_options_has_one_variant_that_needs_no_name() -> None:
    product = read_all(SAMPLES / "shopify.csv")[0]["stoneware-mug"]
    assert product.option_names == []
    (variant,) = product.variants
    assert (variant.variant_key, variant.title, variant.option_values) == ("default", "", ())
    assert variant.weight_grams == 410


def test_decimals_of_grams_are_rounded() -> None:
    assert read_all(SAMPLES / "shopify.csv")[0]["brass-desk-lamp"].variants[0].weight_grams == 1901


def test_a_draft_is_kept_off_the_pages() -> None:
    products, _ = read_all(SAMPLES / "shopify.csv")
    assert [p.source_id for p in products.values() if not p.published] == ["winter-blanket"]


def test_a_handle_with_accents_gets_a_slug_without() -> None:
    assert read_all(SAMPLES / "shopify.csv")[0]["crème-brûlée-dish"].slug == "creme-brulee-dish"


def test_stock_below_zero_is_taken_as_none_with_a_note() -> None:
    (note,) = notes_of(SAMPLES / "shopify.csv")
    assert (note.line, note.field, note.reason) == (13, "Variant Inventory Qty", "-2 taken as 0")


def test_columns_of_the_newer_export_are_understood(tmp_path: Path) -> None:
    row = {
        "Title": "Tote",
        "URL handle": "tote",
        "Description": "<p>Carries</p>",
        "Published on online store": "TRUE",
        "Status": "Active",
        "SKU": "T-1",
        "Option1 name": "Colour",
        "Option1 value": "Rust",
        "Price": "35",
        "Compare-at price": "40.00",
        "Inventory quantity": "8",
        "Weight value (grams)": "400",
        "Product image URL": "https://images.example.com/tote.jpg",
        "Product category": "Luggage & Bags > Handbags > Totes",
    }
    products, bad = read_all(shopify_csv(tmp_path / "new.csv", [row]))
    assert bad == []
    tote = products["tote"]
    assert tote.category == Category("totes", "Totes")
    assert tote.description_html == "<p>Carries</p>"
    (variant,) = tote.variants
    assert (variant.sku, variant.price_minor, variant.compare_at_minor) == ("T-1", 3500, 4000)
    assert (variant.quantity, variant.weight_grams) == (8, 400)


def test_pictures_stand_in_the_order_of_their_positions(tmp_path: Path) -> None:
    rows = [
        mug(**{"Image Src": "https://images.example.com/b.jpg", "Image Position": "2"}),
        {"Handle": "mug", "Image Src": "https://images.example.com/a.jpg", "Image Position": "1"},
        {"Handle": "mug", "Image Src": "https://images.example.com/b.jpg", "Image Position": "3"},
    ]
    products, _ = read_all(shopify_csv(tmp_path / "f.csv", rows))
    assert [image.url[-5] for image in products["mug"].images] == ["a", "b"]


def test_rows_of_a_handle_belong_together_wherever_they_stand(tmp_path: Path) -> None:
    rows = [
        mug(**{"Option1 Name": "Size", "Option1 Value": "S"}),
        mug(Handle="bowl", Title="Bowl"),
        {"Handle": "mug", "Option1 Value": "L", "Variant Price": "15"},
    ]
    products, bad = read_all(shopify_csv(tmp_path / "f.csv", rows))
    assert bad == []
    assert [variant.title for variant in products["mug"].variants] == ["S", "L"]


def test_prices_are_read_in_the_currency_that_is_given(tmp_path: Path) -> None:
    path = shopify_csv(tmp_path / "f.csv", [mug(**{"Variant Price": "1500"})])
    assert read_all(path, "JPY")[0]["mug"].variants[0].price_minor == 1500
    assert read_all(path, "KWD")[0]["mug"].variants[0].price_minor == 1_500_000


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"Variant Price": "abc"}, "Variant Price", "'abc' is not an amount"),
        ({"Variant Price": "-5"}, "Variant Price", "'-5' is not an amount"),
        ({"Variant Price": "1,299.00"}, "Variant Price", "is not an amount"),
        ({"Variant Price": "9.999"}, "Variant Price", "more decimals than USD"),
        ({"Variant Price": ""}, "Variant Price", "is empty"),
        ({"Variant Compare At Price": "x"}, "Variant Compare At Price", "is not an amount"),
        ({"Variant Inventory Qty": "many"}, "Variant Inventory Qty", "is not a whole number"),
        ({"Variant Inventory Qty": "1.5"}, "Variant Inventory Qty", "is not a whole number"),
        ({"Variant Inventory Qty": "9" * 30}, "Variant Inventory Qty", "is not a whole number"),
        ({"Variant Grams": "heavy"}, "Variant Grams", "is not a whole number"),
        ({"Variant Grams": "-1"}, "Variant Grams", "less than nothing"),
        ({"Title": ""}, "Title", "is empty"),
        ({"Title": "x" * 501}, "Title", "longer than 500"),
        ({"Handle": "h" * 256}, "Handle", "longer than 255"),
        ({"Handle": ""}, "Handle", "belongs to no product"),
        ({"Published": "maybe"}, "Published", "neither true nor false"),
        ({"Status": "gone"}, "Status", "is not active"),
        ({"Image Src": "ftp://x/y.jpg"}, "Image Src", "not an http or https address"),
        ({"Image Src": "javascript:alert(1)"}, "Image Src", "not an http or https address"),
        ({"Image Src": "https://[bad"}, "Image Src", "not an http or https address"),
        ({"Variant Image": "/local.jpg"}, "Variant Image", "not an http or https address"),
        ({"Option1 Name": "", "Option1 Value": "Red"}, "Option1 Value", "no Option1 Name"),
        ({"Option1 Name": "Size", "Option1 Value": ""}, "Option1 Value", "is empty, though"),
        ({"Body (HTML)": "x" * 65_537}, "Body (HTML)", "longer than 65536"),
        ({"Tags": ",".join(map(str, range(251)))}, "Tags", "more than 250 tags"),
        ({"Vendor": "a\0b"}, "Vendor", "NUL"),
    ],
)
def test_a_bad_field_is_reported_with_file_line_and_reason(
    tmp_path: Path, changes: dict[str, str], field: str, reason: str
) -> None:
    path = shopify_csv(tmp_path / "bad.csv", [mug(Handle="good"), mug(**changes)])
    products, bad = read_all(path)
    assert list(products) == ["good"]
    assert (bad[0].file, bad[0].line, bad[0].field) == (str(path), 3, field)
    assert reason in bad[0].reason
    assert str(bad[0]) == f"{path}:3: {field}: {bad[0].reason}"


def test_one_bad_variant_leaves_out_its_whole_product_and_says_all_that_is_wrong(
    tmp_path: Path,
) -> None:
    rows = [
        mug(**{"Option1 Name": "Size", "Option1 Value": "S"}),
        {"Handle": "mug", "Option1 Value": "M", "Variant Price": "?"},
        {"Handle": "mug", "Option1 Value": "L", "Variant Price": "12", "Image Src": "nope"},
        mug(Handle="bowl", Title="Bowl"),
    ]
    path = shopify_csv(tmp_path / "f.csv", rows)
    products, bad = read_all(path)
    assert list(products) == ["bowl"]
    assert [(finding.line, finding.field) for finding in bad] == [
        (3, "Variant Price"),
        (4, "Image Src"),
    ]
    assert skipped_count(path) == 1


def test_two_variants_with_the_same_options_are_refused(tmp_path: Path) -> None:
    rows = [
        mug(**{"Option1 Name": "Size", "Option1 Value": "S"}),
        {"Handle": "mug", "Option1 Value": "s", "Variant Price": "12"},
    ]
    _, (finding,) = read_all(shopify_csv(tmp_path / "f.csv", rows))
    assert (finding.line, finding.reason) == (3, "the same options as on line 2")


def test_line_numbers_count_lines_inside_quotes(tmp_path: Path) -> None:
    rows = [mug(Handle="a", **{"Body (HTML)": "one\ntwo\nthree"}), mug(**{"Variant Price": "x"})]
    _, (finding,) = read_all(shopify_csv(tmp_path / "f.csv", rows))
    assert finding.line == 5


def test_bytes_that_are_not_utf8_are_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "latin1.csv"
    text = "Handle,Title,Variant Price\nmug,Mug,5\ncafe,Café,6\n"
    path.write_bytes(text.encode("latin-1"))
    products, (finding,) = read_all(path)
    assert list(products) == ["mug"]
    assert (finding.line, finding.field) == (3, "Title")
    assert finding.reason == "byte 0xe9 is not UTF-8"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "bom.csv"
    path.write_text("Handle,Title,Variant Price\r\nmug,Mug,5\r\n", encoding="utf-8-sig")
    assert list(read_all(path)[0]) == ["mug"]


def test_more_fields_than_columns_are_a_bad_row_and_fewer_are_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("Handle,Title,Variant Price,Vendor\na,A,5,V,extra\nb,B,5\n\n,,,\n")
    products, (finding,) = read_all(path)
    assert list(products) == ["b"]
    assert (finding.line, finding.reason) == (2, "has 5 fields where the first line names 4")
