"""Content codings: what a client takes, and encodings made once and off the loop."""

from __future__ import annotations

import asyncio
import gzip
import random

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from services.access import encodings
from services.access.encodings import (
    BR,
    CHOICES_KEPT,
    GZIP,
    HEADER_MAX_BYTES,
    IDENTITY,
    WAITING_MAX,
    ZSTD,
    Encoder,
    choice_of,
    choices,
    encoded,
    order_of,
    orders,
)
from tests.access.held import BODY, CAT, Shop, answer, confirmed, shop
from tests.faults.waiting import until

PLAIN = (IDENTITY,)


@pytest.mark.parametrize(
    ("header", "order"),
    [
        (b"", PLAIN),
        (b"identity", PLAIN),
        (b"gzip", (GZIP, IDENTITY)),
        (b"x-gzip", (GZIP, IDENTITY)),
        (b"GZip", (GZIP, IDENTITY)),
        (b"gzip, deflate, br, zstd", (BR, ZSTD, GZIP, IDENTITY)),
        (b"gzip, deflate", (GZIP, IDENTITY)),
        (b"deflate", PLAIN),
        (b"br;q=0.1, gzip;q=0.9", (GZIP, BR, IDENTITY)),
        (b"br ; q=0.1 ,gzip; Q=0.9", (GZIP, BR, IDENTITY)),
        (b"gzip;q=1.000", (GZIP, IDENTITY)),
        (b"gzip;q=0", PLAIN),
        (b"gzip;q=0.000, br", (BR, IDENTITY)),
        (b"*", (BR, ZSTD, GZIP, IDENTITY)),
        (b"*;q=0.5, gzip", (GZIP, BR, ZSTD, IDENTITY)),
        (b"br;q=0, *", (ZSTD, GZIP, IDENTITY)),
        (b"identity;q=1, gzip;q=0.5", PLAIN),
        (b"identity;q=0.5, gzip;q=0.5", (GZIP, IDENTITY)),
        (b"identity;q=0.5, gzip;q=0.4, br", (BR, IDENTITY)),
        (b"identity;q=0, gzip", (GZIP,)),
        (b"gzip, *;q=0", (GZIP,)),
        (b"identity, *;q=0", PLAIN),
        (b"identity;q=0", PLAIN),
        (b"*;q=0", PLAIN),
        (b"gzip;q=2", PLAIN),
        (b"gzip;q=x", PLAIN),
        (b"gzip;q=", PLAIN),
        (b"gzip;level=9", PLAIN),
        (b"gzip;q=0.1234", PLAIN),
        (b"gzip br", PLAIN),
        (b", ,gzip,,", (GZIP, IDENTITY)),
        (b"br;q=0, br", PLAIN),
        (b"\xff, gzip", (GZIP, IDENTITY)),
    ],
)
def test_accept_encoding_is_read_as_the_standard_says(
    header: bytes, order: tuple[int, ...]
) -> None:
    assert order_of(header) == order
    assert orders[choice_of(header)] == order


@given(st.binary(max_size=60))
def test_any_header_gives_an_order_without_repetition(header: bytes) -> None:
    order = order_of(header)
    assert order
    assert len(set(order)) == len(order)
    assert IDENTITY not in order[:-1]


def test_what_is_remembered_of_headers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "choices", dict(choices))
    for number in range(2 * CHOICES_KEPT):
        assert orders[choice_of(b"br, x%d" % number)] == (BR, IDENTITY)
    assert len(encodings.choices) <= CHOICES_KEPT
    assert len(orders) <= 65
    assert orders[choice_of(b"br," + b" " * HEADER_MAX_BYTES)] == PLAIN


def decoded(coding: str, body: bytes) -> bytes:
    if coding == "br":
        return bytes(brotli.decompress(body))
    return gzip.decompress(body) if coding == "gzip" else zstandard.decompress(body)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip"])
async def test_plain_is_sent_until_the_encoding_is_made(coding: str) -> None:
    async with shop() as front:
        accept = coding.encode()
        front.business.always(answer())
        first = await front.page(accept=accept)
        assert ("content-encoding" not in first.headers, first.body) == (True, BODY)
        assert first.headers["etag"] == '"1"'
        front.at_once(accept=accept)
        page = front.pages._held[CAT]
        await until(lambda: len(page.encoded) == 1, within_s=5, what="it is encoded")
        got = front.at_once(accept=accept)  # not only in the next second
        assert got is not None
        assert got.headers["content-encoding"] == coding
        assert got.headers["etag"] == 'W/"1"'
        assert got.headers["content-length"] == str(len(got.body))
        assert decoded(coding, got.body) == BODY
        head = front.at_once(accept=accept, method=b"HEAD")
        same = front.at_once(accept=accept, match=b'"1"')
        assert head is not None and same is not None
        assert head.headers["content-length"] == str(len(got.body))
        assert (same.status, same.headers["etag"]) == (304, 'W/"1"')
        assert front.at_once(match=got.headers["etag"].encode()) is not None
        plain = front.at_once()
        assert plain is not None
        assert plain.body == BODY


async def test_an_encoding_is_made_once_and_kept_when_the_page_is_confirmed() -> None:
    async with shop() as front:
        await front.filled(answer(age=11))
        page = front.pages._held[CAT]
        for _ in range(100):
            front.at_once(accept=b"br")
        await until(lambda: BR in page.encoded, within_s=5, what="it is encoded")
        made = page.encoded[BR]
        (await front.business.nth(1)).answer(confirmed())
        await until(lambda: page.stale_until > page.fresh_until > 0, within_s=5, what="it is there")
        await until(lambda: front.pages.revalidated_total == 1, within_s=5, what="it is confirmed")
        assert front.at_once(accept=b"br") is not None
        assert page.encoded[BR] is made
        assert front.pages._ready._encoder._waiting == 0


async def test_an_encoding_of_an_older_body_is_never_sent_for_a_newer_one() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"old " * 500, position=100))
        front.at_once(accept=b"br")
        front.pages.purge(["cat"], 200)
        await front.filled(answer(body=b"new " * 500, etag='"2"', position=200))
        await until(lambda: is_encoded(front, b"br"), within_s=5, what="it is encoded")
        got = front.at_once(accept=b"br")
        assert got is not None
        assert decoded("br", got.body) == b"new " * 500


async def test_small_bodies_and_such_that_do_not_shrink_stay_plain() -> None:
    noise = random.Random(1).randbytes(2000)
    async with shop() as front:
        await front.filled(answer(body=b"x" * 199))
        await front.filled(answer(body=noise), b"/categories")
        for accept in (b"br", b"zstd", b"gzip"):
            front.at_once(b"/categories", accept=accept)
            front.at_once(accept=accept)
        page = front.pages._held[b"/categories"]
        await until(lambda: len(page.encoded) == 3, within_s=5, what="all were tried")
        assert set(page.encoded.values()) == {None}
        assert front.pages._held[CAT].encoded == {}
        for target in (CAT, b"/categories"):
            got = front.at_once(target, accept=b"br, zstd, gzip")
            assert got is not None
            assert "content-encoding" not in got.headers


async def test_who_refuses_plain_waits_for_the_encoding() -> None:
    async with shop() as front:
        await front.filled(answer())
        assert front.at_once(accept=b"gzip, identity;q=0") is None
        got = await front.page(accept=b"gzip, identity;q=0")
        assert got.headers["content-encoding"] == "gzip"
        assert front.at_once(accept=b"gzip, identity;q=0") is not None
        await front.filled(answer(), b"/categories")
        led = await front.page(b"/categories", accept=b"br, identity;q=0")
        assert led.headers["content-encoding"] == "br"
        assert front.pages.fetches_total == 2


async def test_who_refuses_plain_gets_it_where_there_is_nothing_else() -> None:
    async with shop() as front:
        await front.filled(answer(body=b"short"))
        got = front.at_once(accept=b"br, identity;q=0")
        assert got is not None
        assert got.body == b"short"


async def test_a_second_coding_is_sent_while_the_first_is_being_made() -> None:
    async with shop() as front:
        await front.filled(answer())
        await until(lambda: is_encoded(front, b"gzip"), within_s=5, what="it is encoded")
        got = front.at_once(accept=b"br, gzip")
        assert got is not None
        assert got.headers["content-encoding"] == "gzip"


async def test_the_queue_before_the_thread_is_bounded() -> None:
    encoder = Encoder()
    body = random.Random(2).randbytes(20_000)
    jobs = [encoder.start(BR, body) for _ in range(WAITING_MAX + 10)]
    begun = [job for job in jobs if job is not None]
    assert len(begun) == WAITING_MAX
    await asyncio.gather(*begun)
    job = encoder.start(GZIP, b"a" * 1000)
    assert job is not None
    assert await job == encoded(GZIP, b"a" * 1000)
    encoder.close()


@given(st.binary(max_size=3000), st.sampled_from([BR, ZSTD, GZIP]))
def test_every_encoding_can_be_undone(body: bytes, coding: int) -> None:
    body *= 3
    result = encoded(coding, body)
    if result is not None:
        assert len(result) < len(body)
        assert decoded(encodings.NAMES[coding].decode(), result) == body


def is_encoded(front: Shop, accept: bytes) -> bool:
    got = front.at_once(accept=accept)
    return got is not None and "content-encoding" in got.headers
