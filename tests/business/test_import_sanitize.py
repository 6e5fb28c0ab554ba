"""What descriptions from outside are allowed to be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.business.imports.sanitize import (
    SEARCH_TEXT_MAX,
    TAGS,
    html_of_text,
    plain_text,
    safe_html,
    search_text,
)
from services.business.imports.slugs import SLUG_MAX, category_slug, product_slug, slugify

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


@pytest.mark.parametrize(
    ("unsafe", "safe"),
    [
        ("<p>Good <b>stuff</b></p>", "<p>Good <b>stuff</b></p>"),
        ("<script>alert(1)</script>after", "after"),
        ("<style>p{color:red}</style><p>text</p>", "<p>text</p>"),
        ('<p onclick="x()" style="color:red" class="y" id="z">text</p>', "<p>text</p>"),
        ('<img src=x onerror="alert(1)">text', "text"),
        ('<iframe src="https://evil.example">x</iframe>text', "text"),
        ('<a href="javascript:alert(1)">x</a>', '<a rel="nofollow noopener noreferrer">x</a>'),
        ('<a href="data:text/html,x">x</a>', '<a rel="nofollow noopener noreferrer">x</a>'),
        ('<a href="//evil.example">x</a>', '<a rel="nofollow noopener noreferrer">x</a>'),
        ('<a href="/account">x</a>', '<a rel="nofollow noopener noreferrer">x</a>'),
        (
            '<a href="https://example.com/care" target="_blank" rel="opener">x</a>',
            '<a href="https://example.com/care" rel="nofollow noopener noreferrer">x</a>',
        ),
        ("<ul><li>one<li>two", "<ul><li>one</li><li>two</li></ul>"),
        ("<!-- secret --><p>x</p>", "<p>x</p>"),
        ("1 < 2 & 3 > 2", "1 &lt; 2 &amp; 3 &gt; 2"),
        ("<form><input name=a><button>go</button></form>", "go"),
        ("<svg><script>x</script></svg><math><mi>y</mi></math>", ""),
    ],
)
def test_only_the_allow_list_is_left(unsafe: str, safe: str) -> None:
    cleaned = safe_html(unsafe)
    assert cleaned == safe or (safe == "" and "<" not in cleaned and "x" not in cleaned)


pieces = st.sampled_from(
    ["<script>", "</script>", "<p", ">", "<a href='", "javascript:", "'>", " onload=x", "<!--",
     "-->", "<svg>", "<style>", "</style>", "&lt;script&gt;", "<b>", "text", '"',
     "<img src=x onerror=y>"]
)  # fmt: skip


@given(st.lists(pieces, max_size=20).map("".join))
def test_no_tag_or_attribute_beyond_the_allow_list_ever_comes_out(unsafe: str) -> None:
    cleaned = safe_html(unsafe)
    for tag, attributes in re.findall(r"<\s*/?\s*([^\s>/]*)([^>]*)>", cleaned):
        assert tag in TAGS
        assert not re.search(r"\son\w+\s*=", attributes)
    assert 'href="javascript' not in cleaned


@given(st.text(max_size=200))
def test_what_is_safe_once_is_left_as_it_is(text: str) -> None:
    assert safe_html(safe_html(text)) == safe_html(text)


def test_plain_text_becomes_paragraphs_and_nothing_else() -> None:
    assert html_of_text("One\nline & more.\n\nTwo.") == "<p>One line &amp; more.</p><p>Two.</p>"
    assert html_of_text("5 < 6") == "<p>5 &lt; 6</p>"
    assert html_of_text("") == ""


def test_words_to_search_for_do_not_run_together() -> None:
    assert plain_text("<p>one</p><p>two &amp; <b>three</b></p>") == "one two & three"


def test_search_text_has_a_bound() -> None:
    assert len(search_text(["tag"], f"<p>{'word ' * 5000}</p>")) <= SEARCH_TEXT_MAX


@given(st.text(max_size=400), st.text(max_size=100))
def test_every_slug_fits_the_form_of_the_schema(name: str, distinct: str) -> None:
    for slug in (product_slug(name, distinct), product_slug(name), category_slug(name + "x")):
        assert slug is not None
        assert SLUG.match(slug)
        assert len(slug) <= SLUG_MAX


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Tidemark Linen Shirt", "tidemark-linen-shirt"),
        ("Größe Ünïcode", "grosse-unicode"),
        ("Crème & Brûlée", "creme-and-brulee"),
        ("Łódź Ørsted Þór", "lodz-orsted-thor"),
        ("Чайник", "chainik"),
        ("Καφές", "kafes"),
        ("Men’s “Best” — 50% off!", "mens-best-50-off"),
        ("日本語", ""),
    ],
)
def test_letters_of_other_alphabets_are_spelled_out(text: str, slug: str) -> None:
    assert slugify(text) == slug


def test_names_without_letters_to_show_still_get_different_slugs() -> None:
    slugs = {product_slug("日本語"), product_slug("中文"), product_slug("🙂")}
    assert len(slugs) == 3


def test_a_long_handle_is_cut_and_stays_distinct() -> None:
    one, two = product_slug("a" * 254 + "1"), product_slug("a" * 254 + "2")
    assert one != two
    assert len(one) == SLUG_MAX


def test_no_category_is_none() -> None:
    assert category_slug("  ") is None
