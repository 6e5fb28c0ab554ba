"""Streams of requests with mistakes in them, made from the corpus; a seed makes each again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tests.access.cases import Case
from tests.access.corpus import CORPUS, NOT_YET
from tests.access.corpus_served import SERVED

LONGEST_BYTES: Final = 600
SOURCES: Final = [
    case
    for case in CORPUS
    if len(case.data) <= LONGEST_BYTES and case.name not in NOT_YET | {"RTSP/1.0"}
]
GOOD: Final = [case for case in SERVED if case.kept and case in SOURCES]
# What readers of HTTP disagree about.
BYTES: Final = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\r\n", b"\0", b"\t", b" ", b"\x0b", b"\x0c"),
    *(b":", b";", b",", b"=", b'"', b"\\", b"%", b"/", b"//", b"?", b"#", b"@", b"*", b"_", b"-"),
    *(b"+", b"0", b"1", b"a", b"f", b"g", b"x", b"0x", b"\x7f", b"\x80", b"\xa0", b"\xff", b"\x1f"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"chunked", b"0\r\n\r\n", b"1\r\na\r\n", b";a=b", b"99999999999"),
]
LINES: Final = [
    *(b"Content-Length: 0", b"Content-Length: 4", b"Content-Length: 30", b"Content-Length:"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: x"),
    *(
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\tchunked",
        b" Transfer-Encoding: chunked",
    ),
    *(b"Transfer_Encoding: chunked", b"Content_Length: 4", b"Content-Length : 4", b"Host: b"),
    *(b"Host: a/b", b"Connection: close", b"Connection: keep-alive, content-length", b"X: y"),
    *(b"Connection: transfer-encoding", b"Expect: 100-continue", b"Upgrade: h2c", b" folded"),
    *(b"Connection: upgrade", b"TE: trailers", b"Trailer: x", b"X-Forwarded-For: 1.1.1.1"),
    *(
        b"GET /smuggled HTTP/1.1",
        b"X: y\rZ: z",
        b"X: y\nZ: z",
        b"\0",
        b":",
        b"X-Internal-Secret: z",
    ),
]
Mutation = Callable[[bytes, random.Random], bytes]


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 1, 2, 4, 8, 20)))


def _remove(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:end] + data[start:end] + data[end:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(BYTES) + data[place:]


def _replace(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + chance.choice(BYTES) + data[end:]


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    place = chance.randrange(len(data))
    return data[:place] + bytes((data[place] ^ 1 << chance.randrange(8),)) + data[place + 1 :]


def _letter(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[start:end].swapcase() + data[end:]


def _end_line_otherwise(data: bytes, chance: random.Random) -> bytes:
    parts = data.split(b"\r\n")
    place = chance.randrange(len(parts))
    ending = chance.choice((b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b" \r\n", b"\t\r\n", b"\0\r\n"))
    return b"\r\n".join(parts[:place]) + ending + b"\r\n".join(parts[place:])


def _add_line(data: bytes, chance: random.Random) -> bytes:
    parts = data.split(b"\r\n")
    parts.insert(chance.randrange(len(parts) + 1), chance.choice(LINES))
    return b"\r\n".join(parts)


def _move_line(data: bytes, chance: random.Random) -> bytes:
    parts = data.split(b"\r\n")
    line = parts.pop(chance.randrange(len(parts)))
    if chance.random() < 0.5:
        parts.insert(chance.randrange(len(parts) + 1), line)
    parts.insert(chance.randrange(len(parts) + 1), line)
    return b"\r\n".join(parts)


def _change_number(data: bytes, chance: random.Random) -> bytes:
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return data
    place = chance.choice(places)
    number = chance.choice((b"0", b"1", b"2", b"5", b"9", b"00", b"10", b"-1", b"+1", b"f", b""))
    return data[:place] + number + data[place + 1 :]


def _splice(data: bytes, chance: random.Random) -> bytes:
    other = chance.choice(SOURCES).data
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


MUTATIONS: Final[list[Mutation]] = [
    *(_remove, _repeat, _insert, _insert, _replace, _replace, _flip, _letter),
    *(_end_line_otherwise, _add_line, _add_line, _move_line, _change_number, _splice),
]


def stream(seed: int) -> bytes:
    """One to three requests, mostly good ones, with up to four mistakes."""
    chance = random.Random(seed)
    cases: list[Case] = [
        chance.choice(GOOD if chance.random() < 0.7 else SOURCES)
        for _ in range(chance.choice((1, 1, 2, 3)))
    ]
    data = b"".join(case.data for case in cases)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        data = chance.choice(MUTATIONS)(data, chance)
    return data


def pieces(data: bytes, seed: int) -> list[bytes]:
    """The stream whole, or cut in a few places."""
    chance = random.Random(seed)
    if chance.random() < 0.7 or len(data) < 2:
        return [data]
    ends = sorted(chance.sample(range(1, len(data)), min(len(data) - 1, chance.randrange(1, 6))))
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
