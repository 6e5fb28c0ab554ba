"""One spelling for each page, whatever a client adds to its address."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.access.targets import (
    KNOWN_KEPT,
    TARGET_MAX_BYTES,
    PageRule,
    Targets,
    read_rules,
)

TARGETS = Targets(
    [
        PageRule("/products", ["category", "limit", "q"]),
        PageRule("/products/{slug}"),
        PageRule("/a/{b}/c", ["x"]),
    ]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
PAIR = st.tuples(st.sampled_from(["category", "limit", "q", "utm", "Q", "x"]), TEXT)


def spelled(pairs: list[tuple[str, str]], *, all_encoded: bool = False) -> bytes:
    safe = "" if all_encoded else "/:@!$'()*,~"
    return b"&".join(
        f"{name}={quote_from_bytes(value.encode(), safe)}".encode() for name, value in pairs
    )


@pytest.mark.parametrize(
    ("target", "canonical"),
    [
        (b"/products", b"/products"),
        (b"/products?", b"/products"),
        (b"/products?utm_source=x&fbclid=y", b"/products"),
        (b"/products?q=a&category=b", b"/products?category=b&q=a"),
        (b"/products?q=b&q=a", b"/products?q=b&q=a"),
        (b"/products?q=a+b", b"/products?q=a+b"),
        (b"/products?q=a%20b", b"/products?q=a+b"),
        (b"/products?q=a%2bb", b"/products?q=a%2Bb"),
        (b"/products?%71=a", b"/products?q=a"),
        (b"/products?q", b"/products?q="),
        (b"/products?q=", b"/products?q="),
        (b"/products?q=a=b", b"/products?q=a%3Db"),
        (b"/products?&&q=a&", b"/products?q=a"),
        (b"/products?q=%c3%A4", b"/products?q=%C3%A4"),
        (b"/products?q=\xc3\xa4", b"/products?q=%C3%A4"),
        (b"/products?Q=a", b"/products"),
        (b"/products?%zz=1", b"/products"),
        (b"/products?%ff=1", b"/products"),
        (b"/products?utm=%zz", b"/products"),
        (b"/products?q=a;limit=1", b"/products?q=a%3Blimit%3D1"),
        (b"/products/cat", b"/products/cat"),
        (b"/products/%63at", b"/products/cat"),
        (b"/products/c%C3%A4t", b"/products/c%C3%A4t"),
        (b"/products/c%c3%a4t", b"/products/c%C3%A4t"),
        (b"/products/a%3Ab", b"/products/a:b"),
        (b"/products/a+b", b"/products/a+b"),
        (b"/products/a%2Bb", b"/products/a+b"),
        (b"/products/a%20b", b"/products/a%20b"),
        (b"/products/a%25b", b"/products/a%25b"),
        (b"/products/a%3Fb", b"/products/a%3Fb"),
        (b"/products/cat?category=x", b"/products/cat"),
        (b"/a/1/c?x=2&y=3", b"/a/1/c?x=2"),
        (b"/products/{slug}", b"/products/%7Bslug%7D"),
    ],
)
def test_each_page_has_one_spelling(target: bytes, canonical: bytes) -> None:
    assert TARGETS.canonical(target) == canonical
    assert TARGETS.canonical(canonical) == canonical


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"/",
        b"products",
        b"//products",
        b"/products/",
        b"/products//cat",
        b"/products/cat/stock",
        b"/products/cat/",
        b"/products/.",
        b"/products/..",
        b"/products/%2e%2e",
        b"/products/a%2fb",
        b"/products%2Fcat",
        b"/a%2F1/c",
        b"/products/a%2Fstock",
        b"/products/a%",
        b"/products/a%2",
        b"/products/a%zz",
        b"/products/a%ff",
        b"/products/a%00",
        b"/products/a%0d%0a",
        b"/products/a%7f",
        b"/products/cat#x",
        b"/Products/cat",
        b"/orders",
        b"/a/1/d",
        b"/products?q=%zz",
        b"/products?q=%ff",
        b"/products?q=%00",
        b"/products?q=" + b"a" * TARGET_MAX_BYTES,
        b"/products/cat?utm=" + b"a" * TARGET_MAX_BYTES,
        b"http://a/products",
    ],
)
def test_what_is_no_page_or_not_clear_is_passed_on(target: bytes) -> None:
    assert TARGETS.canonical(target) is None


@given(st.lists(PAIR, max_size=6))
def test_a_canonical_target_is_its_own(pairs: list[tuple[str, str]]) -> None:
    canonical = TARGETS.canonical(b"/products?" + spelled(pairs))
    assert canonical is not None
    assert TARGETS.canonical(canonical) == canonical


@given(st.lists(PAIR, max_size=6), st.randoms())
def test_the_order_of_names_and_what_is_encoded_do_not_matter(
    pairs: list[tuple[str, str]], random: object
) -> None:
    names = list(dict(pairs))
    random.shuffle(names)  # type: ignore[attr-defined]
    shuffled = [pair for name in names for pair in pairs if pair[0] == name]
    assert TARGETS.canonical(b"/products?" + spelled(pairs)) == TARGETS.canonical(
        b"/products?" + spelled(shuffled, all_encoded=True)
    )


@given(st.lists(PAIR, max_size=5), st.lists(PAIR, max_size=5))
def test_different_pages_keep_different_spellings(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    def matters(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        known = [pair for pair in pairs if pair[0] in ("category", "limit", "q")]
        return sorted(known, key=lambda pair: pair[0])

    same = TARGETS.canonical(b"/products?" + spelled(one)) == TARGETS.canonical(
        b"/products?" + spelled(other)
    )
    assert same == (matters(one) == matters(other))


@given(TEXT.filter(lambda slug: slug not in ("", ".", "..") and "/" not in slug))
def test_any_segment_can_be_a_slug(slug: str) -> None:
    encoded = b"/products/" + quote_from_bytes(slug.encode(), "").encode()
    everything = b"/products/" + b"".join(b"%%%02x" % byte for byte in slug.encode())
    canonical = TARGETS.canonical(encoded)
    assert canonical is not None
    assert TARGETS.canonical(everything) == canonical == TARGETS.canonical(canonical)


@given(st.binary(max_size=80))
def test_any_bytes_have_one_spelling_or_none(target: bytes) -> None:
    canonical = TARGETS.canonical(b"/products?" + target)
    if canonical is not None:
        assert TARGETS.canonical(canonical) == canonical
        assert all(0x21 <= byte <= 0x7E for byte in canonical)


def test_without_rules_nothing_is_a_page() -> None:
    assert Targets().canonical(b"/products") is None


def test_the_spellings_that_are_remembered_are_bounded() -> None:
    targets = Targets([PageRule("/products")])
    for number in range(2 * KNOWN_KEPT + 1):
        assert targets.canonical(b"/products?x=%d" % number) == b"/products"
        assert len(targets._spellings) <= KNOWN_KEPT


def test_rules_are_read_as_business_says_them() -> None:
    rules = read_rules(
        b'{"pages":[{"path":"/products","query":["q"]},{"path":"/products/{slug}","query":[]}]}'
    )
    assert rules == [PageRule("/products", ["q"]), PageRule("/products/{slug}", [])]
    for document in (b"", b"[]", b'{"pages":[{"query":[]}]}', b'{"pages":[{"path":1}]}'):
        with pytest.raises(msgspec.DecodeError):
            read_rules(document)
