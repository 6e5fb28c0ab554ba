"""What is read without the parser is what the parser reads; all else is left to it."""

from __future__ import annotations

import random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.access.framing import check_host
from services.access.limits import Limits
from services.access.plain import PlainRequest, plain_request
from services.access.reader import Reader
from tests.access.cases import get
from tests.access.corpus import CORPUS
from tests.access.mutations import GOOD, MUTATIONS, stream

LIMITS: Final = Limits()
STREAMS: Final = 4000
BROWSER: Final = get(
    b"Connection: keep-alive",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    b"Accept-Language: en-US,en;q=0.5",
    b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Cookie: tercet_customer=abc; theme=dark",
    b'If-None-Match: "red-shirt-1"',
)


class Asked:
    """A connection that notes what its reader says."""

    def __init__(self) -> None:
        self.reader = Reader(LIMITS)
        self.reader.owner = self
        self.requests: list[dict[str, object]] = []

    def body_begins(self) -> None:
        raise AssertionError("a plain request has no body")

    def request_read(self) -> None:
        self.requests.append(said(self.reader) | {"keep_alive": self.reader.keeps_alive()})


def said(request: Reader | PlainRequest) -> dict[str, object]:
    names = ("method", "target", "headers", "body", "host", "accept_encoding", "if_none_match")
    return {name: getattr(request, name) for name in names}


@pytest.fixture(autouse=True, scope="module")
def _known_host() -> None:
    check_host(b"a")


def agrees(data: bytes) -> bool:
    """Whether it is read without the parser; then the parser reads just the same."""
    request = plain_request(data, LIMITS)
    if request is None:
        return False
    asked = Asked()
    asked.reader.parser.feed_data(data)
    assert asked.requests == [said(request) | {"keep_alive": request.keep_alive}], data
    assert not asked.reader.reading
    return True


@pytest.mark.parametrize(
    "data",
    [get(), BROWSER, get(b"Connection: close"), get().replace(b"GET", b"HEAD"), get(b"A: b \t c")],
)
def test_what_clients_usually_send_is_read_without_the_parser(data: bytes) -> None:
    assert agrees(data)
    assert agrees(data)  # its lines are known now


@pytest.mark.parametrize("case", CORPUS, ids=str)
def test_a_case_of_the_corpus_is_read_alike_or_left_to_the_parser(case: object) -> None:
    assert agrees(case.data) in (True, False)  # type: ignore[attr-defined]


def test_streams_with_mistakes_are_read_alike_or_left_to_the_parser() -> None:
    chance, read = random.Random(9112), 0
    for seed in range(STREAMS):
        agrees(stream(seed))
        data = chance.choice([BROWSER, get(b"X-Y: z"), *[case.data for case in GOOD]])
        read += agrees(chance.choice(MUTATIONS)(data, chance))
    assert read > STREAMS // 40  # else this has proved nothing


@settings(deadline=None, max_examples=300)
@given(
    name=st.binary(min_size=1, max_size=4) | st.sampled_from([b"Te", b"Expect", b"Connection"]),
    between=st.sampled_from([b": ", b":", b" : ", b":\t", b":  "]),
    value=st.binary(max_size=6),
    target=st.binary(max_size=6),
)
def test_any_field_and_target_is_read_alike_or_left_to_the_parser(
    name: bytes, between: bytes, value: bytes, target: bytes
) -> None:
    agrees(b"GET /" + target + b" HTTP/1.1\r\nHost: a\r\n" + name + between + value + b"\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        *(get() + get(), get()[:-1], get()[:-2], b"\r\n" + get(), get(b"Host: a")),
        *(get(b"Content-Length: 0"), get(b"Transfer-Encoding: chunked"), get(b"Expect: x")),
        *(get(b"Upgrade: h2c", b"Connection: upgrade"), get(b"Proxy-Connection: close")),
        *(get(b" folded"), get(b"A : b"), get(b"A: b "), get(b"A:"), get(b"A: \xe9"), get(b"A:b")),
        *(get(b"A: b\nB: c"), get(b"A: b\rB: c"), get(b"A: b\0"), get(b"A: b", b"a: c")),
        *(get().replace(b"a\r", b"unheard-of\r"), get().replace(b"Host: a\r\n", b"")),
        *(get().replace(b"/here", other) for other in (b"/a%20b", b"/a#b", b"*", b"http://a/")),
        *(get().replace(b"1.1", b"1.0"), get().replace(b"GET", b"POST"), get(b"Connection: x")),
        get(*[b"A%d: b" % number for number in range(LIMITS.fields)]),
        get(b"A: " + b"b" * LIMITS.piece_bytes),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_parser(data: bytes) -> None:
    assert plain_request(data, LIMITS) is None
