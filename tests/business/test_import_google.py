"""Google's product feed, as tab-separated text and as XML."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.business.imports.rows import FileProblem
from services.data.catalog_rows import Category
from tests.business.product_files import SAMPLES, cup, google_tsv, read_all


def rss(path: Path, items: str, head: str = "") -> Path:
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>{head}<rss version="2.0" '
        f'xmlns:g="http://base.google.com/ns/1.0"><channel>{items}</channel></rss>'
    )
    return path


def test_the_tsv_sample_is_read_without_a_complaint() -> None:
    products, bad = read_all(SAMPLES / "google.tsv")
    assert bad == []
    assert list(products) == ["KR-BP", "OI-RAIN", "FM-TEA-250"]


def test_items_of_a_group_are_variants_of_one_product_wherever_they_stand() -> None:
    backpack = read_all(SAMPLES / "google.tsv")[0]["KR-BP"]
    assert backpack.title == "Day Backpack"
    assert backpack.slug == "day-backpack-kr-bp"
    assert backpack.option_names == ["Color"]
    assert [variant.title for variant in backpack.variants] == ["Moss", "Ink"]
    assert [variant.variant_key for variant in backpack.variants] == ["KR-BP-MOSS", "KR-BP-INK"]
    assert [image.url.rpartition("/")[2] for image in backpack.images] == [
        "day-backpack-moss.jpg",
        "day-backpack-inside.jpg",
        "day-backpack-strap.jpg",
        "day-backpack-ink.jpg",
    ]
    assert backpack.category == Category("backpacks", "Backpacks")
    assert backpack.currency == "EUR"


def test_a_sale_price_is_the_price_and_the_regular_one_what_it_was_before() -> None:
    raincoat = read_all(SAMPLES / "google.tsv")[0]["OI-RAIN"]
    assert [(v.price_minor, v.compare_at_minor) for v in raincoat.variants] == [
        (12900, 15900),
        (15900, None),
    ]
    assert raincoat.option_names == ["Size"]


def test_availability_without_a_number_is_the_least_that_makes_it_true() -> None:
    products, _ = read_all(SAMPLES / "google.tsv")
    assert [v.quantity for v in products["OI-RAIN"].variants] == [1, 2]
    assert [v.quantity for v in products["KR-BP"].variants] == [14, 0]


def test_a_google_category_that_is_a_mere_number_is_none(tmp_path: Path) -> None:
    path = google_tsv(tmp_path / "f.tsv", [cup(google_product_category="1604")])
    assert read_all(path)[0]["cup"].category is None


def test_a_sale_counts_only_between_its_dates(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)

    def interval(start: datetime, end: datetime) -> str:
        return f"{start.isoformat()}/{end.isoformat()}"

    items = [
        cup(id="on", sale_price="5 USD", sale_price_effective_date=interval(now - day, now + day)),
        cup(id="over", sale_price="5 USD", sale_price_effective_date=interval(now - day, now)),
        cup(id="always", sale_price="5 USD"),
        cup(id="none", sale_price="9 USD"),
    ]
    products, bad = read_all(google_tsv(tmp_path / "f.tsv", items))
    assert bad == []
    prices = {key: product.price_from_minor for key, product in products.items()}
    assert prices == {"on": 500, "over": 750, "always": 500, "none": 750}


def test_columns_may_be_written_with_spaces_or_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "f.tsv"
    path.write_text(
        "g:id\tTitle\timage link\tprice\na\tA\thttps://images.example.com/a.jpg\t1 USD\n"
    )
    assert [image.url for image in read_all(path)[0]["a"].images] == [
        "https://images.example.com/a.jpg"
    ]


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"price": "7.50"}, "price", "not an amount and a currency"),
        ({"price": ""}, "price", "not an amount and a currency"),
        ({"price": "7.50 ABC"}, "price", "'ABC' is not an ISO 4217 currency"),
        ({"price": "7,50 EUR"}, "price", "is not an amount"),
        ({"sale_price": "5 EUR"}, "sale_price", "is in EUR, the price in USD"),
        ({"availability": "perhaps"}, "availability", "is none of in_stock"),
        ({"quantity": "few"}, "quantity", "is not a whole number"),
        ({"title": ""}, "title", "is empty"),
        ({"id": "", "item_group_id": ""}, "id", "belongs to no product"),
        ({"id": "", "item_group_id": "g"}, "id", "is empty"),
        ({"image_link": "file:///etc/passwd"}, "image_link", "not an http or https"),
        ({"additional_image_link": "x"}, "additional_image_link", "not an http or https"),
        ({"shipping_weight": "heavy"}, "shipping_weight", "is not a weight"),
        (
            {"sale_price": "5 USD", "sale_price_effective_date": "soon"},
            "sale_price_effective_date",
            "not two ISO 8601 times",
        ),
    ],
)
def test_a_bad_attribute_is_reported_with_file_line_and_reason(
    tmp_path: Path, changes: dict[str, str], field: str, reason: str
) -> None:
    path = google_tsv(tmp_path / "bad.tsv", [cup(id="good"), cup(**changes)])
    products, bad = read_all(path)
    assert list(products) == ["good"]
    assert (bad[0].file, bad[0].line, bad[0].field) == (str(path), 3, field)
    assert reason in bad[0].reason


def test_one_product_in_two_currencies_is_refused(tmp_path: Path) -> None:
    items = [cup(item_group_id="g"), cup(id="b", item_group_id="g", price="7 EUR")]
    _, (finding,) = read_all(google_tsv(tmp_path / "f.tsv", items))
    assert finding.reason == "one product in USD and EUR"


def test_an_id_twice_in_a_group_is_refused(tmp_path: Path) -> None:
    items = [cup(item_group_id="g"), cup(item_group_id="g", title="Cup again")]
    _, (finding,) = read_all(google_tsv(tmp_path / "f.tsv", items))
    assert (finding.line, finding.reason) == (3, "the same as on line 2")


def test_the_xml_sample_is_read_without_a_complaint() -> None:
    products, bad = read_all(SAMPLES / "google.xml")
    assert bad == []
    vase = products["WR-VASE"]
    assert vase.title == "Tall Vase"
    assert vase.vendor == "Wren & Co"
    assert vase.description_html == "<p>Thrown by hand, <em>no two alike</em>.</p>"
    assert len(vase.images) == 4
    assert [(v.price_minor, v.quantity, v.weight_grams) for v in vase.variants] == [
        (4800, 9, 1200),
        (3600, 0, None),
    ]
    scale = products["GM-SCALE"]
    assert scale.category == Category("kitchen-scales", "Kitchen Scales")
    assert scale.description_html == (
        "<p>Weighs up to 5 kg, in steps of a gram.</p><p>Runs on a button cell.</p>"
    )


def test_an_atom_feed_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "atom.xml"
    path.write_text(
        '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0">'
        "<title>Shop</title><id>tag:shop</id><entry><title>Plain</title><g:title>Cup</g:title>"
        '<link href="https://shop.example.com/cup"/><g:id>c1</g:id><g:price>5.00 USD</g:price>'
        "</entry></feed>"
    )
    products, bad = read_all(path)
    assert bad == []
    assert products["c1"].title == "Cup"


def test_a_bad_item_is_reported_with_the_line_it_begins_on(tmp_path: Path) -> None:
    items = (
        "\n<item>\n<g:id>a</g:id><title>A</title><g:price>1 USD</g:price></item>"
        "\n<item>\n<g:id>b</g:id><title>B</title><g:price>free</g:price></item>"
    )
    products, (finding,) = read_all(rss(tmp_path / "f.xml", items))
    assert list(products) == ["a"]
    assert (finding.line, finding.field) == (4, "price")


def test_an_item_that_is_endless_is_cut_and_refused(tmp_path: Path) -> None:
    item = f"<item><g:id>a</g:id><title>A</title><description>{'x ' * 600_000}</description></item>"
    _, bad = read_all(rss(tmp_path / "f.xml", item))
    assert "has more than 1048576 characters" in bad[0].reason


BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("head", [BOMB, OUTSIDE])
def test_entities_are_refused_before_they_can_grow(tmp_path: Path, head: str) -> None:
    path = rss(tmp_path / "bomb.xml", "<item><g:id>a</g:id></item>", head)
    with pytest.raises(FileProblem, match="refused, an entity or external reference"):
        read_all(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<rss><channel><item></channel></rss>", "not well-formed XML: mismatched tag: line 1"),
        ("<rss><channel></channel></rss>", "holds no items"),
        ("<html><body>no</body></html>", "neither RSS nor Atom: <html>"),
        ("<rss><channel><item><id>a</id>", "not well-formed XML"),
        ('<?xml version="1.0" encoding="x-none"?><rss/>', "not well-formed XML"),
    ],
)
def test_xml_that_is_no_feed_is_refused_as_a_whole(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "f.xml"
    path.write_text(text)
    with pytest.raises(FileProblem, match=reason):
        read_all(path)


def test_bytes_that_are_not_utf8_refuse_an_xml_file_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "f.xml"
    path.write_bytes(
        b"<rss><channel>\n<item><id>a</id><title>Caf\xe9</title></item></channel></rss>"
    )
    with pytest.raises(FileProblem, match="line 2"):
        read_all(path)
