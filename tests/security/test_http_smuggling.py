"""S1: a request hidden in another reaches nobody, and no answer reaches another client.

Every way of writing Transfer-Encoding and Content-Length so that two servers read them apart, in
the usual shapes of attack. Behind access there is one connection to business: what an attacker
left on it would meet the next client, who asks after each attempt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import pytest

from tests.access import strict
from tests.access.agreement import converse, disagreement
from tests.access.echo import Echo
from tests.access.one_case import AFTER
from tests.access.one_loop import OneLoop, one_loop
from tests.faults.figures import record

TRIES: Final = 600  # in `make test`, of 77,000
HIDDEN: Final = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
HIDDEN_TARGET: Final = b"/smuggled"
CODING_NAMES: Final = [
    *(b"Transfer-Encoding", b"transfer-encoding", b"TRANSFER-ENCODING", b"Transfer-Encoding "),
    *(b"Transfer-Encoding\t", b" Transfer-Encoding", b"\tTransfer-Encoding"),
    *(b"\x0bTransfer-Encoding", b"Transfer_Encoding", b"Transfer Encoding"),
    *(b"Transfer-Encoding\0", b"\0Transfer-Encoding", b"X: y\nTransfer-Encoding"),
    *(b"X: y\rTransfer-Encoding", b"X: y\r\n Transfer-Encoding", b"X: y\r\r\nTransfer-Encoding"),
    *(b"Transfer-Encod\xc4\xb1ng", b"Transfer-Encoding\xa0", b'"Transfer-Encoding"'),
    *(b"Transfer-\nEncoding", b"Transfer-\r\n Encoding", b"\xef\xbb\xbfTransfer-Encoding"),
]
SEPARATORS: Final = [
    *(b": ", b":", b":\t", b":  ", b":\x0b", b":\x0c", b":\0", b":\xa0", b":\r", b":\n", b":\n "),
    *(b":\r\n ", b":\r\n\t", b" : ", b"", b"=", b"::"),
]
CODINGS: Final = [
    *(b"chunked", b"Chunked", b"CHUNKED", b"chunked ", b"chunked\t", b"chunked\x0b"),
    *(b"chunked\0", b"chunked\r", b"chunked,", b",chunked", b"chunked, identity"),
    *(b"identity, chunked", b"chunked, chunked", b"gzip, chunked", b"chunked, gzip", b"xchunked"),
    *(b"chunkedx", b"chunk", b'"chunked"', b"'chunked'", b"chunked;x=y", b"chunked;"),
    *(b"x chunked", b"chun\0ked", b"chunked\r\nTransfer-Encoding: x"),
    *(b"x\r\nTransfer-Encoding: chunked", b"identity", b"", b"chunked\r\n x", b"chunked\nX: y"),
    *(b"chunked\xa0", b"chun\xe2\x84\xaaed", b"cow", b"0"),
]
LENGTH_NAMES: Final = [
    *(b"Content-Length", b"content-length", b"Content-Length ", b"Content-Length\t"),
    *(b"Content_Length", b" Content-Length", b"\x0bContent-Length", b"Content-Length\0"),
    *(b"X: y\nContent-Length", b"X: y\rContent-Length", b"X: y\r\n Content-Length"),
    *(b"Content Length", b"Content-Length\xa0"),
]
LENGTHS: Final = [
    *(b"%d", b"+%d", b"-%d", b"0%d", b"%d ", b" %d", b"%d\t", b"%d\x0b", b"%d\0", b"%d,%d"),
    *(b"%d, 0", b"0, %d", b"0x%x", b"%d.0", b"%de0", b'"%d"', b"%d;x", b"%d_0"),
    *(b"%d\r\nContent-Length: 0", b"0\r\nContent-Length: %d", b"%d\r\nContent-Length: %d"),
    *(b"%d\r\n x", b"%d\nX: y", b"%d\rX: y"),
]
EXPECTS: Final = [
    *(b"Expect: 100-continue", b"Expect: x 100-continue", b"Expect:\r\n 100-continue"),
    *(b"Expect: 100", b"Expect: 100-continue\r\nExpect: x", b"Expect : 100-continue"),
    *(b"eXPECT: 100-CONTINUE", b"Expect: 100-continue, x", b"Expect:"),
    *(b"Connection: expect\r\nExpect: 100-continue",),
]


@dataclass(frozen=True)
class Attempt:
    name: str
    data: bytes


def head(method: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((method + b" /here HTTP/" + version, b"Host: a", *lines, b"", b""))


def numbered(pattern: bytes, number: int) -> bytes:
    return pattern.replace(b"%d", b"%d" % number).replace(b"%x", b"%x" % number)


def by_coding(line: bytes) -> Iterator[bytes]:
    """The shapes in which a coding is believed by one of two readers."""
    short, all_of_it = b"0\r\n\r\n", b"0\r\n\r\n" + HIDDEN
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    yield head(b"POST", line) + all_of_it
    yield head(b"POST", b"Content-Length: %d" % len(all_of_it), line) + all_of_it
    yield head(b"POST", line, b"Content-Length: %d" % len(short)) + all_of_it
    yield head(b"POST", b"Content-Length: 4", line) + chunk
    yield head(b"GET", line) + all_of_it
    yield head(b"POST", line, version=b"1.0") + all_of_it


def by_length(line: bytes) -> Iterator[bytes]:
    """The same for a length: believed, all is a body; not believed, a request follows."""
    yield head(b"POST", line) + HIDDEN
    yield head(b"GET", line) + HIDDEN
    yield head(b"POST", b"Content-Length: 0", line) + HIDDEN
    yield head(b"POST", line, b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN


def by_expectation(line: bytes) -> Iterator[bytes]:
    yield head(b"POST", line, b"Content-Length: %d" % len(HIDDEN)) + HIDDEN
    yield head(b"GET", line, b"Content-Length: %d" % len(HIDDEN)) + HIDDEN
    yield head(b"POST", line, b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN
    yield head(b"HEAD", line, b"Content-Length: %d" % len(HIDDEN)) + HIDDEN


def chunk_lines() -> Iterator[bytes]:
    """A size line whose end two readers see in two places, before data that look like another."""
    for ending in (
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r",
        b"\x0b",
        b";\n",
        b";a\n",
        b";a\r",
        b';a="\n',
        b";a\0\r\n",
    ):
        inner = b"0\r\n\r\n" + HIDDEN
        start = head(b"POST", b"Transfer-Encoding: chunked")
        yield start + b"%x%b%b\r\n0\r\n\r\n" % (len(inner), ending, inner)
        yield start + b"2%bxx\r\n%x\r\n%b\r\n0\r\n\r\n" % (ending, len(inner), inner)
        yield start + b"2\r\nxx%b%x\r\n%b\r\n0\r\n\r\n" % (ending, len(inner), inner)
        yield start + b"0%b\r\n" % ending + HIDDEN
        yield start + b"0\r\nX: y%b\r\n" % ending + HIDDEN


def attempts() -> list[Attempt]:
    """Each once; the name says how it is made."""
    made: dict[bytes, str] = {}
    for name, separator, coding in product(CODING_NAMES, SEPARATORS, CODINGS):
        line = name + separator + coding
        for shape, data in enumerate(by_coding(line)):
            made.setdefault(data, f"coding {line!r} {shape}")
    for name, length in product(LENGTH_NAMES, LENGTHS):
        line = name + b": " + numbered(length, len(HIDDEN))
        for shape, data in enumerate(by_length(line)):
            made.setdefault(data, f"length {line!r} {shape}")
    for line in EXPECTS:
        for shape, data in enumerate(by_expectation(line)):
            made.setdefault(data, f"expectation {line!r} {shape}")
    for data in chunk_lines():
        made.setdefault(data, f"chunk {data[60:90]!r}")
    return [Attempt(name, data) for data, name in made.items()]


@pytest.fixture(scope="module")
def business() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def lab(business: Echo) -> Iterator[OneLoop]:
    with one_loop(business.config(), page_pool_size=1, payment_pool_size=1) as lab:
        yield lab


def wrong(lab: OneLoop, business: Echo, attempt: Attempt) -> str | None:
    """What this attempt achieved; None: nothing."""
    data = attempt.data + AFTER
    said = converse(lab, business, data, [data])
    requests, _ = strict.read(data)
    allowed = [request.target for request in requests]
    if HIDDEN_TARGET in [got.target for got in said.got] and HIDDEN_TARGET not in allowed:
        return "smuggled"
    if not said.over:
        return "no end"
    if any(reply.status >= 500 for reply in said.replies):
        return "5xx"
    next_client = b"GET /victim HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = converse(lab, business, next_client, [next_client])
    if [reply.body for reply in answer.replies] != [b"GET /victim "]:
        return f"the next client got {answer.replies}"
    return disagreement(data, said)


def found(lab: OneLoop, business: Echo, tried: list[Attempt]) -> list[str]:
    told = [(attempt.name, wrong(lab, business, attempt)) for attempt in tried]
    return [f"{name}: {what}" for name, what in told if what is not None]


def test_a_hidden_request_reaches_nobody(lab: OneLoop, business: Echo) -> None:
    chance = random.Random(1)
    everything = attempts()
    codings = [one for one in everything if one.name.startswith("coding")]
    others = [one for one in everything if not one.name.startswith("coding")]
    chosen = chance.sample(codings, TRIES // 2) + chance.sample(others, TRIES // 2)
    assert found(lab, business, chosen) == []


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_no_way_of_hiding_a_request_works(lab: OneLoop, business: Echo) -> None:
    everything = attempts()
    succeeded = found(lab, business, everything)
    record(50, "smuggling", not succeeded, attempts=len(everything), succeeded=len(succeeded))
    assert succeeded == []
