"""How a generator sees that an answer is whole."""

from __future__ import annotations

import pytest

from loadtests.answers import Answers, request_bytes

ANSWER = b"HTTP/1.1 200 OK\r\nAge: 9\r\nContent-Length: 5\r\n\r\nhello"


def complete(answers: Answers, data: bytes, number: int = 1) -> bool:
    return answers.complete(number, bytearray(data + b"of the answer before"), len(data))


def test_an_answer_is_whole_however_it_is_cut() -> None:
    for cut in range(1, len(ANSWER)):
        answers = Answers()
        assert not complete(answers, ANSWER[:cut])
        assert complete(answers, ANSWER[cut:])
        assert answers.size == len(ANSWER)


def test_connections_do_not_mix() -> None:
    answers = Answers()
    assert not complete(answers, ANSWER[:20], 1)
    assert complete(answers, ANSWER, 2)
    answers.forget(1)  # closed; the number is that of another connection now
    assert complete(answers, ANSWER, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed before"),
        (ANSWER.replace(b"200", b"503"), "not 200: HTTP/1.1 503"),
        (ANSWER.replace(b"Content-Length: 5", b"X: y"), "without Content-Length"),
        (ANSWER + b"H", "more than one answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000, "without an end"),
    ],
)
def test_anything_else_is_no_answer(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        complete(Answers(), data)


def test_a_request_closes_its_connection_only_when_it_is_told_to() -> None:
    assert request_bytes("h:1", "/a") == b"GET /a HTTP/1.1\r\nHost: h:1\r\n\r\n"
    assert b"\r\nConnection: close\r\n\r\n" in request_bytes("h:1", "/a", close=True)


def test_a_request_has_the_lines_it_was_given() -> None:
    request = request_bytes("h", "/a", close=True, lines=["x-a: 1", "x-b: 2"])
    assert request == (
        b"GET /a HTTP/1.1\r\nHost: h\r\nx-a: 1\r\nx-b: 2\r\nConnection: close\r\n\r\n"
    )
