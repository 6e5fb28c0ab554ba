"""S5: every answer says what it is, and browsers are told not to guess."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.access.answers import Reply, replies
from tests.access.cases import Case
from tests.access.corpus import REFUSED
from tests.access.one_loop import OneLoop, echo, one_loop
from tests.access.upstream import Seen
from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, client_of, new_guest, new_key
from tests.security.wire import Answer, exchange, request

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
# JSON is UTF-8 and has no charset (RFC 8259 11); text has to name its own.
TEXT: Final = re.compile(r"text/[a-z]+; ?charset=utf-8", re.IGNORECASE)


@pytest.fixture(scope="module")
def running() -> Iterator[OneLoop]:
    with one_loop(access_timeout_ms=300) as lab:
        yield lab


@pytest.fixture
def lab(running: OneLoop) -> Iterator[OneLoop]:
    yield running
    running.upstream.script = echo


def is_a_problem(reply: Reply) -> bool:
    return (
        reply.values(b"content-type") == [PROBLEM.encode()]
        and reply.values(b"x-content-type-options") == [b"nosniff"]
        and reply.values(b"cache-control") == [b"no-store"]
        and b'"status":%d' % reply.status in reply.body
    )


def test_every_refusal_of_access_is_a_problem(lab: OneLoop) -> None:
    """400, 405, 413, 414 and 431, in every way the corpus has."""
    statuses = set()
    for case in REFUSED:
        (reply,) = refused(lab, case)
        statuses.add(reply.status)
        assert is_a_problem(reply), case.name
    assert statuses >= {400, 405, 413, 414, 431}


def refused(lab: OneLoop, case: Case) -> list[Reply]:
    found, left = replies(lab.talk([case.data]))
    assert left == b""
    return found


@pytest.mark.parametrize(
    ("what", "status"),
    [(b"not HTTP at all\r\n\r\n", 502), (None, 502), (b"", 504)],
    ids=["not HTTP", "no answer", "too late"],
)
def test_what_business_does_wrong_is_a_problem(
    lab: OneLoop, what: bytes | None, status: int
) -> None:
    async def script(_: Seen) -> bytes | None:
        return what

    lab.upstream.script = script
    data = b"POST /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    (reply,), _ = replies(lab.talk([data]))
    assert reply.status == status
    assert is_a_problem(reply)


def test_what_access_says_itself_has_its_type(lab: OneLoop) -> None:
    asked = b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    (live,), _ = replies(lab.talk([asked]))
    assert live.values(b"content-type") == [JSON.encode()]
    assert live.values(b"x-content-type-options") == [b"nosniff"]
    (options,), _ = replies(lab.talk([asked.replace(b"GET /live", b"OPTIONS *")]))
    assert (options.status, options.values(b"content-type")) == (204, [])


def has_its_type(answer: Answer) -> bool:
    """Whether the type fits the status, and there is just one."""
    types = [value for name, value in answer.headers if name == "content-type"]
    if answer.status in (204, 304) or not answer.body:
        return types == []
    if answer.status >= 400:
        return types == [PROBLEM]
    return types == [JSON] or (len(types) == 1 and TEXT.fullmatch(types[0]) is not None)


@pytest.fixture
def guest(stack: RunningStack, goods: Goods) -> Guest:
    """One for each test: who asks that often in a second is limited."""
    return new_guest(stack, goods)


@pytest.mark.parametrize("accept", ["*/*", "text/html", "image/png", "application/xml;q=0.1", "x"])
def test_every_route_says_what_its_answers_are(
    stack: RunningStack, goods: Goods, guest: Guest, accept: str
) -> None:
    """Whatever was asked for, with a token and without, good and bad."""
    with client_of(stack) as client:
        paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        target = re.sub(r"{\w+_id}", guest.order_id, path.replace("{slug}", goods.slug))
        for method in operations:
            for lines in ((), (f"authorization: {guest.authorization}",)):
                keyed = (*lines, f"accept: {accept}", f"idempotency-key: {new_key()}")
                body = b"{}" if method == "post" else b""
                json = ("content-type: application/json",) if body else ()
                data = request(method.upper(), target, *keyed, *json, body=body)
                answer = exchange(stack.url, data)
                assert has_its_type(answer), (method, target, answer)
                assert answer.header("x-content-type-options") == "nosniff"


@pytest.mark.parametrize(
    "given",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/jsonx", "text/json", "application/json, text/plain", ""],
)  # fmt: skip
def test_a_body_of_another_type_is_415(stack: RunningStack, guest: Guest, given: str) -> None:
    """A form of another site can send these without asking (CORS), and gets nowhere."""
    lines = (
        f"authorization: {guest.authorization}",
        f"idempotency-key: {new_key()}",
        *((f"content-type: {given}",) if given else ()),
    )
    answer = exchange(stack.url, request("POST", "/orders", *lines, body=b'{"lines":[]}'))
    assert answer.status == 415
    assert has_its_type(answer)
