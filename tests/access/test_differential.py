"""access beside uvicorn's own protocol: the same bytes in, the same answers out.

One application answers both: behind access, and directly behind uvicorn. What access adds or takes
away is listed here; everything else has to be equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.access.answers import Reply, replies
from tests.access.echo import Echo, Got
from tests.access.mutations import pieces
from tests.access.one_case import AFTER
from tests.access.one_loop import OneLoop, one_loop, serving

# Added by access: a name for the request and a word to browsers. Dropped: who serves behind it.
DIFFERENT: Final = frozenset((b"date", b"server", b"x-request-id", b"x-content-type-options"))
# Of a request's headers those that this test makes up; the others are access' to decide.
MADE_UP: Final = b"q-"

SEGMENT: Final = st.text("abzAZ09-._~!$&'()*+,;=:@", max_size=6)
ESCAPED: Final = st.sampled_from(["%41", "%2F", "%2f", "%C3%A9", "%25", "%20", "%2e%2e"])
PATHS: Final = st.lists(SEGMENT | ESCAPED, max_size=4).map(lambda parts: "/e/" + "/".join(parts))
QUERIES: Final = st.lists(SEGMENT | ESCAPED | st.sampled_from("?/"), min_size=1, max_size=4).map(
    lambda parts: "?" + "a" + "".join(parts)
)
NAMES: Final = st.text("abcXYZ0189!#$%&'*+-.^`|~", max_size=8).map(lambda name: "Q-" + name)
INNER: Final = st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f")
VALUES: Final = st.text(INNER | st.sampled_from(" \t"), max_size=12).map(
    lambda value: value.strip(" \t")
)
SPACES: Final = st.sampled_from(["", " ", "\t", "  "])


@st.composite
def framed(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Header lines about a body, and the body as it goes over the wire."""
    body = draw(st.binary(max_size=40))
    kind = draw(st.sampled_from(["none", "length", "chunks"]))
    if kind == "none":
        return [], b""
    lines = ["Expect: 100-continue"] if body and draw(st.integers(0, 9)) == 0 else []
    if kind == "length":
        zeros = draw(st.sampled_from(["", "0", "000"]))
        return [*lines, f"Content-Length: {zeros}{len(body)}"], body
    wire = b""
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b";a;b"]))
        wire += b"%x%b\r\n%b\r\n" % (size, extension, body[:size])
        body = body[size:]
    # Under a name that is not compared: uvicorn gives trailers to the application as headers.
    trailers = draw(st.sampled_from([b"", b"Trailing: x\r\n", b"Trailing: x\r\nT-Y:\r\n"]))
    coding = draw(st.sampled_from(["chunked", "Chunked", "CHUNKED"]))
    return [*lines, f"Transfer-Encoding: {coding}"], wire + b"0\r\n" + trailers + b"\r\n"


@dataclass(frozen=True)
class Sent:
    data: bytes
    is_head: bool


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    method = draw(st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]))
    version = draw(st.sampled_from(["1.1"] * 9 + ["1.0"]))
    target = draw(PATHS) + draw(st.just("") | QUERIES)
    fields = draw(st.lists(st.tuples(NAMES, SPACES, VALUES), max_size=4))
    lines = [f"{name}:{space}{value}" for name, space, value in fields]
    about_body, body = draw(framed())
    if version == "1.1" or "Transfer-Encoding" not in " ".join(about_body):
        lines += about_body
    else:
        body = b""
    lines += draw(st.sampled_from([[]] * 8 + [["Connection: close"], ["Connection: keep-alive"]]))
    if version == "1.0" and "Connection: keep-alive" in lines:
        lines.remove("Connection: keep-alive")  # uvicorn keeps no connection of HTTP/1.0
    lines = draw(st.permutations(["Host: shop.example", *lines]))
    head = "\r\n".join([f"{method} {target} HTTP/{version}", *lines, "", ""])
    return Sent(head.encode("latin-1") + body, method == "HEAD")


@dataclass
class Beside:
    """access and uvicorn, each before the same application."""

    lab: OneLoop
    behind_access: Echo
    behind_uvicorn: Echo
    uvicorn_port: int


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    behind_access, behind_uvicorn = Echo(), Echo()
    with ExitStack() as stack:
        lab = stack.enter_context(one_loop(behind_access.config()))
        port = stack.enter_context(serving(lab.runner, behind_uvicorn.config()))
        yield Beside(lab, behind_access, behind_uvicorn, port)


def said(reply: Reply) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return reply.status, sorted(f for f in reply.headers if f[0] not in DIFFERENT), reply.body


def taken(got: Got) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]:
    made_up = [field for field in got.headers if field[0].startswith(MADE_UP)]
    return got.method, got.target, got.body, made_up


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sent=st.lists(requests(), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_valid_requests_are_answered_as_by_uvicorn_itself(
    beside: Beside, sent: list[Sent], seed: int
) -> None:
    data = b"".join(one.data for one in sent) + AFTER
    heads = [place for place, one in enumerate(sent) if one.is_head]
    sides = []
    for port, echo in (
        (beside.lab.port, beside.behind_access),
        (beside.uvicorn_port, beside.behind_uvicorn),
    ):
        received = beside.lab.do(beside.lab.talked(pieces(data, seed), port))
        found, left = replies(received, heads)
        got, _ = echo.forget()
        assert left == b""
        sides.append(([said(reply) for reply in found], [taken(one) for one in got]))
    assert all(status == 200 for status, _, _ in sides[0][0])
    assert sides[0] == sides[1]
