"""Pictures drawn from names."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.business.imports.goods import KINDS
from services.business.imports.slugs import slugify
from services.business.pictures import NAME_MAX, draw, is_name
from services.business.silhouettes import OF_WORD

names = st.from_regex(r"[a-z0-9]{1,12}(-[a-z0-9]{1,12}){0,8}", fullmatch=True)
ALLOWED = {"svg", "rect", "circle", "ellipse", "path", "text", "g"}


@given(names)
def test_any_name_gives_a_small_well_formed_picture_that_needs_nothing_else(name: str) -> None:
    picture = draw(name)
    assert len(picture) < 2048
    root = ET.fromstring(picture)  # noqa: S314 - our own output
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= ALLOWED
    without_namespace = picture.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")
    assert not re.search(rb"http|href|url\(|script|style=|\son", without_namespace)
    assert b"{" not in picture


@given(names)
def test_a_name_always_gives_the_same_bytes(name: str) -> None:
    assert draw(name) == draw(name)


def test_the_name_of_a_product_says_what_is_drawn_and_written() -> None:
    picture = draw("aldin-linen-shirt-1dtq3hu-rust").decode()
    assert ">Aldin Linen Shirt</text>" in picture
    assert "#b4532a" in picture  # rust
    assert OF_WORD["shirt"].split("d=")[1].split('"')[1] in picture


def test_another_colour_or_view_is_another_picture() -> None:
    views = [draw(f"brae-brass-ring-1dtq3hu-{view}") for view in ("1", "2", "teal", "rust")]
    assert len(set(views)) == 4


def test_every_kind_of_goods_has_a_silhouette() -> None:
    for kind in KINDS:
        for noun in kind.nouns:
            last_word = slugify(noun.name).rpartition("-")[2]
            assert last_word in OF_WORD, noun.name


@pytest.mark.parametrize(
    "name", ["", "A", "a--b", "-a", "a-", "a/b", "../x", "a.svg", "a\n", "<svg>", "é", "a" * 241]
)
def test_what_is_no_name_is_told_apart(name: str) -> None:
    assert not is_name(name)
    assert is_name("a" * NAME_MAX)


def test_markup_in_a_name_would_be_escaped() -> None:
    assert b"<script" not in draw("<script>alert(1)</script>-code-1")
