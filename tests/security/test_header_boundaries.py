"""S2 and S3: no value starts a line of its own, and nobody outside speaks for access.

access stands before a recording upstream: what is asserted is what business would get.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.access.answers import Reply, replies
from tests.access.cases import get, lines
from tests.access.conftest import SECRET
from tests.access.one_loop import OneLoop, echo, one_loop
from tests.access.upstream import Seen, answer

CLOSE: Final = b"Connection: close"
# RFC 9110 5.5: of the control characters only tab is allowed in a value, CR LF ends the line.
CONTROLS: Final = [bytes((code,)) for code in (*range(32), 127) if code != 9]
ENDINGS: Final = [b"\n", b"\r", b"\0", b"\r\r\n", b"\n\r\n", b"\r\n ", b"\r\n\t"]
# Where a client's words go further: to business, into an answer, or into a log.
PLACES: Final = [
    *(b"Cookie", b"Authorization", b"X-Request-Id", b"Traceparent", b"Tracestate", b"Accept"),
    *(b"User-Agent", b"Referer", b"Origin", b"Idempotency-Key", b"If-None-Match", b"Range"),
    *(b"Content-Type", b"Accept-Encoding", b"Accept-Language", b"X-Word", b"Host"),
]
INJECTED: Final = b"X-Injected: yes"

# Names by which access, business or some proxy or framework says who a client is, and what of.
RESERVED: Final = (
    *(b"x-internal-secret", b"x-request-id", b"x-deadline-ms", b"x-customer-id", b"traceparent"),
    *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"x-user-id"),
    *(b"true-client-ip", b"cf-connecting-ip", b"fastly-client-ip", b"x-host", b"x-original-host"),
    *(b"x-original-url", b"x-rewrite-url", b"tracestate", b"x-http-method-override"),
    *(b"x-http-method", b"x-method-override"),
    *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"),
    *(b"x-forwarded-server", b"x-forwarded-prefix", b"x-forwarded-ssl", b"x-forwarded-user"),
    *(b"x-internal-position", b"x-internal-min-position", b"x-internal-anything"),
    *(b"x-tercet-anything", b"proxy-authorization", b"proxy-connection"),
)
# What access says itself; every other name of these is not said at all.
SAID_BY_ACCESS: Final = frozenset(
    (
        *(b"x-internal-secret", b"x-request-id", b"x-deadline-ms", b"traceparent"),
        *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"),
    )
)
LIE: Final = b"10.9.8.7-lie"


@pytest.fixture(scope="module")
def running() -> Iterator[OneLoop]:
    with one_loop() as lab:
        yield lab


@pytest.fixture
def lab(running: OneLoop) -> Iterator[OneLoop]:
    running.passed_on()
    yield running
    running.upstream.script = echo


def asked(lab: OneLoop, data: bytes) -> tuple[Reply, list[Seen]]:
    """The first answer, and what business got."""
    found, left = replies(lab.talk([data]))
    assert left == b""
    return found[0], lab.passed_on()


# What a client sends


@pytest.mark.parametrize("name", PLACES, ids=bytes.decode)
def test_no_control_character_gets_through_in_a_value(lab: OneLoop, name: bytes) -> None:
    host = () if name == b"Host" else (b"Host: a",)
    for ending in (*CONTROLS, *ENDINGS):
        values = [b"a" + ending + INJECTED]
        if ending in ENDINGS:
            values += [b"a" + ending, ending + INJECTED]
        for value in values:
            data = lines(b"GET /here HTTP/1.1", *host, name + b": " + value, CLOSE)
            if ending.endswith(b"\n") and b"\r\n" + INJECTED in data:
                continue  # a line of its own, and not hidden from anybody
            reply, passed = asked(lab, data)
            assert (reply.status, passed) == (400, []), data
            assert b"x-injected" not in [header for header, _ in reply.headers]


@pytest.mark.parametrize("escape", ["%0d%0a", "%0D", "%0a", "%00", "%7f", "%1B", "%09"])
def test_an_escaped_control_character_is_refused_in_a_path_and_stays_escaped_in_a_query(
    lab: OneLoop, escape: str
) -> None:
    reply, passed = asked(lab, get(CLOSE).replace(b"/here", f"/x{escape}X-Injected:".encode()))
    assert (reply.status, passed) == (400, [])
    target = f"/x?a={escape}X-Injected:%20yes".encode()
    reply, passed = asked(lab, get(CLOSE).replace(b"/here", target))
    assert reply.status == 200
    assert [seen.target for seen in passed] == [target]
    assert not {b"x-injected"} & passed[0].names()
    assert b"x-injected" not in [header for header, _ in reply.headers]


@pytest.mark.parametrize(
    "word",
    [b"%0d%0aX-Injected: yes", "\u560d\u560aX-Injected: yes".encode(), b"\x85X-Injected: yes",
     "\u2028X-Injected: yes".encode(), b"a\\r\\nX-Injected: yes"],
)  # fmt: skip
def test_what_looks_like_a_line_end_elsewhere_is_none_here(lab: OneLoop, word: bytes) -> None:
    for name in (b"X-Word", b"Cookie", b"X-Request-Id"):
        reply, passed = asked(lab, get(name + b": " + word, CLOSE))
        assert reply.status == 200
        assert b"x-injected" not in passed[0].names()
        assert b"x-injected" not in [header for header, _ in reply.headers]
        assert b"Injected" not in b"".join(reply.values(b"x-request-id"))


# What business answers


@pytest.mark.parametrize(
    "line",
    [b"X-A: a\rX-Injected: yes", b"X-A: a\nX-Injected: yes", b"X-A: a\0", b"X-A: a\x01b",
     b"X-A: a\r\n X-Injected: yes", b"X A: b", b"X-A : b", b"X-Injected"],
)  # fmt: skip
def test_an_answer_that_would_be_read_in_two_ways_is_not_passed_on(
    lab: OneLoop, line: bytes
) -> None:
    async def script(_: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + line + b"\r\n\r\nok"

    lab.upstream.script = script
    reply, _ = asked(lab, get(CLOSE))
    assert reply.status == 502
    assert b"x-injected" not in [header for header, _ in reply.headers]
    assert b"Injected" not in reply.body


def test_what_business_says_to_access_alone_stays_there(lab: OneLoop) -> None:
    between: dict[str, Any] = {
        "x_internal_position": "7",
        "x_internal_secret": "s",
        "x_customer_id": "c",
        "cache_tag": "t",
        "server": "uvicorn",
        "x_powered_by": "python",
        "x_mine": "m",
        "keep_alive": "timeout=5",
        "proxy_authenticate": "Basic",
        "connection": "x-mine",
    }

    async def script(_: Seen) -> bytes:
        return answer(b"ok", **between, x_word="said")

    lab.upstream.script = script
    reply, _ = asked(lab, get(CLOSE))
    assert reply.status == 200
    told = {header.decode().replace("-", "_") for header, _ in reply.headers}
    assert told & {*between, "x_word"} == {"connection", "x_word"}
    assert reply.values(b"connection") == [b"close"]


# Who speaks for access


def twins(name: bytes) -> list[bytes]:
    """The name as others may read it the same: letters, and underscores for hyphens."""
    parts = name.split(b"-")
    joints = itertools.product(b"-_", repeat=len(parts) - 1)
    spelled = [
        b"".join(part + bytes((joint,)) for part, joint in zip(parts, (*way, 0), strict=True))[:-1]
        for way in joints
    ]
    return [*spelled, name.upper(), name.title(), spelled[-1].upper()]


@pytest.mark.parametrize("name", RESERVED, ids=bytes.decode)
def test_nobody_outside_sets_what_access_or_a_proxy_says(lab: OneLoop, name: bytes) -> None:
    for twin in twins(name):
        for given in ((twin + b": " + LIE,), (twin + b": " + LIE, twin + b": " + LIE)):
            reply, passed = asked(lab, get(*given, CLOSE))
            assert reply.status == 200
            (seen,) = passed
            values = [value for known, value in seen.headers if same(known, name)]
            expected = 1 if name in SAID_BY_ACCESS else 0
            if name == b"x-request-id" and twin.lower() == name and len(given) == 1:
                continue  # a client may name its request: one value, in its form
            assert len(values) == expected, twin
            assert LIE not in b"".join(values), twin
            assert not any(b"_" in known for known in seen.names())


def same(one: bytes, other: bytes) -> bool:
    return one.lower().replace(b"_", b"-") == other.lower()


def test_what_access_says_of_a_client_is_true(lab: OneLoop) -> None:
    lies = [name + b": " + LIE for name in RESERVED]
    _, (seen,) = asked(lab, get(*lies, CLOSE))
    assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert seen.values(b"x-forwarded-proto") == [b"http"]
    assert seen.values(b"x-forwarded-host") == [b"a"]
    assert seen.values(b"x-internal-secret") == [SECRET.encode()]
    assert 0 < int(seen.values(b"x-deadline-ms")[0]) <= 5000
    assert b"x-customer-id" not in seen.names()


def test_connection_can_not_take_away_what_access_says(lab: OneLoop) -> None:
    named = b", ".join([*SAID_BY_ACCESS, b"host", b"content-length"])
    data = lines(
        b"POST /here HTTP/1.1", b"Host: a", b"Content-Length: 2", b"Connection: close, " + named,
        body=b"ab",
    )  # fmt: skip
    _, (seen,) = asked(lab, data)
    assert seen.names() >= SAID_BY_ACCESS
    assert (seen.body, seen.values(b"content-length")) == (b"ab", [b"2"])


def test_only_the_host_of_an_absolute_target_counts(lab: OneLoop) -> None:
    _, (seen,) = asked(lab, lines(b"GET http://b/here HTTP/1.1", b"Host: a", CLOSE))
    assert seen.values(b"x-forwarded-host") == [b"b"]
    assert seen.values(b"host") == [f"127.0.0.1:{lab.upstream.port}".encode()]
