"""S27: JSON that two readers take for different things is read once, or refused.

access reads no body: business gets its bytes. Business has one reader for all of it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.access.cases import chunked, post
from tests.access.one_loop import OneLoop, one_loop
from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, new_guest, new_key
from tests.security.wire import Answer, exchange, request

VARIANT: Final = "VARIANT"
ONE: Final = '{"variant_id":"VARIANT","quantity":1}'
BOM: Final = b"\xef\xbb\xbf"
ORDER: Final = f'{{"lines":[{ONE}]}}'
# What readers of JSON disagree about; 400 is JSON that is none, 422 a value that is not allowed.
ODD: Final[dict[str, tuple[bytes, int]]] = {
    "NaN": (ORDER.replace("1", "NaN").encode(), 400),
    "infinity": (ORDER.replace("1", "Infinity").encode(), 400),
    "minus infinity": (ORDER.replace("1", "-Infinity").encode(), 400),
    "a number beyond 64 bits": (ORDER.replace("1", "18446744073709551617").encode(), 422),
    "a number of 5,000 digits": (ORDER.replace("1", "1" * 5000).encode(), 400),
    "a number with a zero before": (ORDER.replace("1", "01").encode(), 400),
    "a number with a plus": (ORDER.replace("1", "+1").encode(), 400),
    "a number in hex": (ORDER.replace("1", "0x1").encode(), 400),
    "a number with a point": (ORDER.replace("1", "1.0").encode(), 422),
    "a number with a lone point": (ORDER.replace("1", "1.").encode(), 400),
    "a number with an exponent": (ORDER.replace("1", "1e0").encode(), 422),
    "a number beyond doubles": (ORDER.replace("1", "1e999").encode(), 400),
    "minus zero": (ORDER.replace("1", "-0").encode(), 422),
    "a number as text": (ORDER.replace("1", '"1"').encode(), 422),
    "true for one": (ORDER.replace("1", "true").encode(), 422),
    "a lone surrogate": (ORDER.replace(VARIANT, "\\ud800").encode(), 400),
    "surrogates the wrong way": (ORDER.replace(VARIANT, "\\udc00\\ud800").encode(), 400),
    "a surrogate in UTF-8": (ORDER.encode().replace(b"VARIANT", b"\xed\xa0\x80"), 400),
    "bytes that are no UTF-8": (ORDER.encode().replace(b"VARIANT", b"\xff\xfe"), 400),
    "a long form in UTF-8": (ORDER.encode().replace(b"VARIANT", b"\xc0\xaf"), 400),
    "a byte order mark": (BOM + ORDER.encode(), 400),
    "UTF-16": (ORDER.encode("utf-16"), 400),
    "UTF-32": (ORDER.encode("utf-32"), 400),
    "a comment": (b"/* x */" + ORDER.encode(), 400),
    "a comment to the end": (ORDER.encode() + b"// x", 400),
    "a comma too many": (ORDER.replace("]", ",]").encode(), 400),
    "single quotes": (ORDER.replace('"', "'").encode(), 400),
    "names without quotes": (ORDER.replace('"quantity"', "quantity").encode(), 400),
    "two documents": (ORDER.encode() * 2, 400),
    "a document and a word": (ORDER.encode() + b" x", 400),
    "a NUL behind it": (ORDER.encode() + b"\0", 400),
    "a control character in a name": (ORDER.replace("quantity", "quan\ttity").encode(), 400),
    "other spaces": (ORDER.replace(":", ":\u00a0").encode(), 400),
    "nothing": (b"", 400),
    "spaces": (b" \r\n\t", 400),
    "null": (b"null", 422),
    "a list": (f"[{ONE}]".encode(), 422),
}  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[OneLoop]:
    with one_loop() as lab:
        yield lab


@pytest.mark.parametrize("body", [body for body, _ in ODD.values()], ids=ODD)
def test_business_gets_the_bytes_that_the_client_sent(lab: OneLoop, body: bytes) -> None:
    lab.passed_on()
    lab.talk([post(b"Connection: close", b"Content-Length: %d" % len(body), body=body)])
    if body:
        lab.talk([chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), b"Connection: close")])
    assert {seen.body for seen in lab.passed_on()} == {body}


@pytest.fixture
def guest(stack: RunningStack, goods: Goods) -> Guest:
    """One for each test: who orders that often in a second is limited."""
    return new_guest(stack, goods)


def ordered(stack: RunningStack, guest: Guest, body: bytes, *lines: str) -> Answer:
    given = (
        f"authorization: {guest.authorization}",
        f"idempotency-key: {new_key()}",
        "content-type: application/json",
        *lines,
    )
    return exchange(stack.url, request("POST", "/orders", *given, body=body))


@pytest.mark.parametrize("name", ODD)
def test_odd_json_is_refused(stack: RunningStack, goods: Goods, guest: Guest, name: str) -> None:
    body, status = ODD[name]
    answer = ordered(stack, guest, body.replace(b"VARIANT", goods.variant_id.encode()))
    assert answer.status == status, answer.body


@pytest.mark.parametrize(
    "order",
    [
        '{"lines":[{"variant_id":"VARIANT","quantity":9,"quantity":2}]}',
        '{"lines":[],"lines":[{"variant_id":"VARIANT","quantity":2}]}',
        '{"lines":[{"variant_id":"VARIANT","quantity":9}],"lines":[{"variant_id":"VARIANT","quantity":2}]}',
        '{"lines":[{"variant_id":"x","variant_id":"VARIANT","quantity":2}]}',
        '{"lines":[{"variant_id":"VARIANT","quan\\u0074ity":9,"quantity":2}]}',
    ],
    ids=["a value", "a list that was empty", "a list", "an id", "an escaped name"],
)
def test_of_a_name_given_twice_the_last_one_counts_everywhere(
    stack: RunningStack, goods: Goods, guest: Guest, order: str
) -> None:
    """As RFC 8259 4 says most readers do; what was ordered is what every reader would see."""
    body = order.replace(VARIANT, goods.variant_id).encode()
    answer = ordered(stack, guest, body)
    if answer.status in (400, 422):
        return  # refused is as good
    assert answer.status == 201, answer.body
    (line,) = answer.document["lines"]
    expected = json.loads(body)["lines"][-1]
    assert (line["variant_id"], line["quantity"]) == (goods.variant_id, expected["quantity"])


def test_a_compressed_body_is_not_unpacked(stack: RunningStack, goods: Goods, guest: Guest) -> None:
    body = gzip.compress(ORDER.replace(VARIANT, goods.variant_id).encode())
    for coding in ("gzip", "x-gzip", "deflate", "br", "gzip, gzip"):
        answer = ordered(stack, guest, body, f"content-encoding: {coding}")
        assert answer.status in (400, 415)
