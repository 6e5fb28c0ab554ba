"""An answer that is read without the parser is what the parser reads; all else is left to it."""

from __future__ import annotations

import random
from typing import Final

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.plain import LINES_KEPT, Lines, NotPlainError, plain_answer

BODY: Final = b'{"a":1}'
MUTATED: Final = 4000
BYTES: Final = (b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"0", b"7", b"\xff", b"chunked")


def answer(*lines: bytes, first: bytes = b"HTTP/1.1 200 OK", body: bytes = BODY) -> bytes:
    return b"\r\n".join([first, *lines, b"", body])


USUAL: Final = answer(
    b"Server: nginx",
    b"Date: Sat, 28 Nov 2026 12:00:00 GMT",
    b"Content-Type: application/json",
    b"Content-Length: 7",
    b"Connection: keep-alive",
    b'ETag: "x"',
)


class Parsed:
    """What httptools makes of an answer."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.whole = 0
        self.keeps = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)
        self.status = self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1
        self.keeps = self._parser.should_keep_alive()


def agrees(data: bytes) -> bool:
    """Whether it is read without the parser; then the parser reads just the same."""
    read = plain_answer(data)
    if read is None:
        return False
    parsed = Parsed(data)
    assert (read.status, read.headers, read.body) == (parsed.status, parsed.headers, parsed.body)
    assert (parsed.whole, parsed.keeps) == (1, True), data
    return True


@pytest.mark.parametrize(
    "data",
    [USUAL, answer(b"content-length: 0", body=b""), USUAL.replace(b"200 OK", b"404 Not Found")],
)
def test_the_usual_answer_is_read_without_the_parser(data: bytes) -> None:
    assert agrees(data)
    assert agrees(data)  # its lines are known now


def test_an_answer_with_mistakes_is_read_alike_or_left_to_the_parser() -> None:
    chance, read = random.Random(9112), 0
    for _ in range(MUTATED):
        start = chance.randrange(len(USUAL))
        end = start + chance.choice((0, 0, 1, 2, 5))
        read += agrees(USUAL[:start] + chance.choice(BYTES) + USUAL[end:])
    assert read > MUTATED // 20  # else this has proved nothing


@settings(deadline=None, max_examples=300)
@given(
    first=st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/1.1", b"HTTP/1.1  "]),
    status=st.integers(99, 700),
    reason=st.sampled_from([b" OK", b" ", b"", b" \xe9", b" a b"]),
    name=st.binary(min_size=1, max_size=3) | st.sampled_from([b"Upgrade", b"Connection"]),
    value=st.binary(max_size=5),
)
def test_any_status_and_field_is_read_alike_or_left_to_the_parser(
    first: bytes, status: int, reason: bytes, name: bytes, value: bytes
) -> None:
    line = first + b"%d" % status + reason
    agrees(answer(b"Content-Length: 7", name + b": " + value, first=line))


@pytest.mark.parametrize(
    "data",
    [
        *(USUAL[:-1], USUAL + b"x", USUAL + USUAL, answer(), answer(b"Content-Length: 7 ")),
        *(answer(b"Content-Length: 7", b"Content-Length: 7"), answer(b"Content-Length: +7")),
        answer(b"Content-Length: 7", b"Transfer-Encoding: chunked"),
        answer(b"Content-Length: 7", b"Connection: close"),
        answer(b"Content-Length: 7", b"Connection: x-secret"),
        *(answer(b"Content-Length: 7", b"A : b"), answer(b"Content-Length: 7", b" folded")),
        answer(b"Content-Length: 7", first=b"HTTP/1.0 200 OK"),
        answer(b"Content-Length: 7", first=b"HTTP/1.1 100 Continue"),
        answer(b"Content-Length: 0", first=b"HTTP/1.1 204 No Content", body=b""),
        answer(b"Content-Length: 0", first=b"HTTP/1.1 304 Not Modified", body=b""),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_parser(data: bytes) -> None:
    assert plain_answer(data) is None


def test_no_more_lines_are_kept_than_there_is_room_for() -> None:
    lines = Lines(odd=(), connection=())
    for number in range(LINES_KEPT * 2):
        assert lines[b"A: %d" % number] == (b"a", b"%d" % number)
        assert len(lines) <= LINES_KEPT
    assert len(lines) > 1


def test_neither_secrets_nor_long_lines_are_kept() -> None:
    lines = Lines(odd=(), connection=())
    secrets = (
        b"Cookie: a=b",
        b"authorization: Bearer x",
        b"X-Internal-Secret: y",
        b"Set-Cookie: c=d",
    )
    for line in (*secrets, b"A: " + b"b" * 300):
        assert lines[line]
    assert not lines


def test_what_is_not_a_field_is_not_plain() -> None:
    with pytest.raises(NotPlainError):
        Lines(odd=(b"host",), connection=())[b"Host: a"]
