"""S4: every route has its methods and no other, asked of access as well as through it.

That each documented route answers 405 with just its methods is in test_boundary.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.access.answers import Reply, replies
from tests.access.one_loop import OneLoop, one_loop
from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, client_of
from tests.security.wire import Answer, exchange, request

SERVED: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Methods that a parser knows, and some that none does.
OTHERS: Final = [
    *("TRACE", "CONNECT", "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK"),
    *("SEARCH", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE"),
    *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "MKCALENDAR", "LINK", "UNLINK"),
    *("SOURCE", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "RECORD", "FLUSH"),
]
UNKNOWN: Final = ["BREW", "DEBUG", "TRACK", "get", "Post", "GETT", "PO", "QUERY_", "X" * 300, "0"]
PATHS: Final = ["/", "/products", "/products/x", "/orders", "/orders/1/payments", "/live", "/ready"]
CLOSED: Final = ["/internal/x", "/internal/pages", "/metrics", "/INTERNAL/x", "//internal/x"]
# Of its own in every answer.
# A token says how far the server stood that answered, and when.
UNLIKE: Final = {"date", "age", "x-request-id", "cache-status", "consistency-token"}


@pytest.fixture(scope="module")
def lab() -> Iterator[OneLoop]:
    with one_loop() as lab:
        yield lab


def asked(lab: OneLoop, method: str, target: str) -> Reply:
    lines = (f"{method} {target} HTTP/1.1", "Host: a", "X-Marker: echoed", "Connection: close")
    data = "\r\n".join((*lines, "", "")).encode()
    (reply,), left = replies(lab.talk([data]), [0] if method == "HEAD" else [])
    assert left == b""
    return reply


def allowed(reply: Reply) -> set[str]:
    return {name.strip() for name in b",".join(reply.values(b"allow")).decode().split(",")}


@pytest.mark.parametrize("method", [*OTHERS, *UNKNOWN])
def test_a_method_that_is_not_served_gets_nowhere(lab: OneLoop, method: str) -> None:
    lab.passed_on()
    for path in (*PATHS, *CLOSED, "*", "http://a/products"):
        reply = asked(lab, method, "a:443" if method == "CONNECT" else path)
        assert reply.status in ((405,) if method in ("TRACE", "CONNECT") else (400, 405))
        assert reply.closes
        assert b"echoed" not in reply.body
        if reply.status == 405:
            assert allowed(reply) == SERVED
    assert lab.passed_on() == []


def test_the_addresses_of_access_itself_are_for_reading(lab: OneLoop) -> None:
    for path in ("/live", "/ready"):
        for method in SERVED - {"GET", "HEAD"}:
            reply = asked(lab, method, path)
            assert (reply.status, allowed(reply)) == (405, {"GET", "HEAD"})
        assert asked(lab, "HEAD", path).body == b""


def test_the_server_itself_says_what_it_serves(lab: OneLoop) -> None:
    lab.passed_on()
    reply = asked(lab, "OPTIONS", "*")
    assert (reply.status, reply.body, allowed(reply)) == (204, b"", SERVED)
    assert lab.passed_on() == []


@pytest.mark.parametrize("method", sorted(SERVED))
def test_what_is_closed_is_closed_for_every_method(lab: OneLoop, method: str) -> None:
    lab.passed_on()
    for path in (*CLOSED, "/metrics/", "/%69nternal/x", "/x/../internal/x", "/./metrics"):
        assert asked(lab, method, path).status == 404
    assert lab.passed_on() == []


def got(stack: RunningStack, method: str, target: str, guest: Guest) -> Answer:
    line = f"authorization: {guest.authorization}"
    return exchange(stack.url, request(method, target, line))


def test_head_is_get_without_its_body(stack: RunningStack, goods: Goods, alice: Guest) -> None:
    """On every route that has one, and for what is not there."""
    with client_of(stack) as client:
        paths = client.get("/openapi.json").json()["paths"]
    targets = [path for path, operations in paths.items() if "get" in operations]
    assert len(targets) >= 5
    for path in [*targets, "/products/none", "/nowhere", "/live"]:
        target = re.sub(r"{\w+_id}", alice.order_id, path.replace("{slug}", goods.slug))
        head, get = (got(stack, method, target, alice) for method in ("HEAD", "GET"))
        assert (head.status, head.body) == (get.status, b""), target
        same = [
            {name: value for name, value in answer.headers if name not in UNLIKE}
            for answer in (head, get)
        ]
        assert same[0] == same[1], target
