"""S24: what is for one customer is never given to another, whatever the address looks like.

The business here is the worst one possible: it answers whoever it knows with their secret, and
calls every answer public. Only access stands between that and a leak.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import orjson
import pytest

from tests.access.answers import Reply, replies
from tests.access.one_loop import OneLoop, echo, one_loop
from tests.access.upstream import Seen, answer

ALICE: Final = b"alice" + b"a" * 38  # in the form of a token
BOB: Final = b"bob" + b"b" * 40
NOBODY: Final = b"nobody"
ALICES_ID: Final = b"0198c0de-0000-7000-8000-00000000a11c"
BOBS_ID: Final = b"0198c0de-0000-7000-8000-000000000b0b"
IDENTITIES: Final = b"/internal/identities/"
CREDENTIALS: Final = (b"authorization", b"cookie", b"x-customer-id")
# Pages, private addresses, and private ones that look like pages or files to somebody.
PATHS: Final = [
    *(b"/products", b"/products/x", b"/categories", b"/products/x?utm_source=y", b"/"),
    *(b"/orders/1", b"/orders/1/", b"/orders/1/me.css", b"/orders/1.css", b"/orders/1;me.css"),
    *(b"/orders/1%3Bme.css", b"/orders/1?me.css", b"/orders/1%2Fme.css", b"/orders/1%00.css"),
    *(b"/products/x/../../orders/1", b"/products/../orders/1", b"/products/..%2forders/1"),
    *(b"/products/%2e%2e/orders/1", b"/products%2f..%2forders%2f1", b"/products/x/../../me.css"),
    *(b"/products/x%2f..%2f..%2forders/1", b"/products/x/%2e%2e/%2E%2E/orders/1"),
    *(b"/products/..;/orders/1", b"/products/x/..%5c..%5corders/1", b"/products/..%252forders/1"),
    *(b"/orders/..%2fproducts/x", b"/orders/%2e%2e/products/x", b"/orders/../products/x"),
    *(
        b"//products/x",
        b"//orders/1",
        b"/./orders/1",
        b"/products//x",
        b"/PRODUCTS/x",
        b"/Orders/1",
    ),
    *(b"/%70roducts/x", b"/%6frders/1", b"/products/x%23/../orders/1", b"/account/x.css"),
    *(b"/payments/1", b"/payments/1/logo.png", b"/operator/upstreams", b"/operator/x.css"),
    *(b"/products/x/orders/1", b"/orders/products/x", b"/products/orders", b"/products%3f/../x"),
]
WAYS: Final = {
    "a token": (b"Authorization: Bearer " + ALICE, b"Authorization: Bearer " + BOB),
    "a guest's cookie": (b"Cookie: tercet_customer=" + ALICE, b"Cookie: tercet_customer=" + BOB),
    "a session's": (b"Cookie: tercet_session=" + ALICE, b"Cookie: tercet_session=" + BOB),
}


def of_whom(seen: Seen) -> bytes:
    said = b" ".join(value for name, value in seen.headers if name in CREDENTIALS)
    if ALICE in said or ALICES_ID in said:
        return b"alice"
    return b"bob" if BOB in said or BOBS_ID in said else NOBODY


async def reckless(seen: Seen) -> bytes:
    """Public, whatever it is; and with whose it is in it."""
    if seen.target.startswith(IDENTITIES):  # every token is known here, as one of two customers
        who = ALICES_ID if seen.target.endswith(digest(ALICE)) else BOBS_ID
        identity = {"customer_id": who.decode(), "role": "customer", "session_id": None}
        return answer(orjson.dumps(identity | {"guests": [], "expires_in_s": 60}))
    whose = of_whom(seen)
    return answer(
        b"secret of " + whose,
        cache_control="public, s-maxage=60, stale-while-revalidate=60",
        etag=f'"{whose.decode()}"',
        content_type="text/css",
        x_internal_position="1",
    )


def digest(token: bytes) -> bytes:
    return hashlib.sha256(token).hexdigest().encode()


@pytest.fixture(scope="module")
def running() -> Iterator[OneLoop]:
    with one_loop(customer_rates="other=100000/100000") as lab:
        yield lab


@pytest.fixture
def lab(running: OneLoop) -> Iterator[OneLoop]:
    running.upstream.script = reckless
    running.passed_on()
    yield running
    running.upstream.script = echo


def asked(lab: OneLoop, path: bytes, *lines: bytes, method: bytes = b"GET") -> Reply:
    first = method + b" " + path + b" HTTP/1.1"
    data = b"\r\n".join((first, b"Host: a", b"Connection: close", *lines, b"", b""))
    (reply,), left = replies(lab.talk([data]), [0] if method == b"HEAD" else [])
    assert left == b""
    return reply


@pytest.mark.parametrize("way", WAYS)
def test_nobody_ever_gets_what_is_anothers(lab: OneLoop, way: str) -> None:
    """Whoever comes first: it could be who is held."""
    mine = dict(zip((b"alice", b"bob"), WAYS[way], strict=True)) | {NOBODY: b"X-Nobody: yes"}
    for who in (b"alice", b"bob"):  # access does say who it is, where that is asked for
        assert asked(lab, b"/orders/1", mine[who]).body == b"secret of " + who
    for path in PATHS:
        for turn, first in enumerate(mine):
            joint = b"&" if b"?" in path else b"?"
            fresh = path + joint + b"turn=%d" % turn if turn else path
            for who in (first, *mine):
                reply = asked(lab, fresh, mine[who])
                said = reply.body.removeprefix(b"secret of ")
                assert reply.status in (200, 400, 404), (path, reply)
                if reply.status == 200:
                    assert said in (who, NOBODY), f"{path!r}: {who!r} got what is {said!r}'s"


def test_no_credential_reaches_business_with_a_page(lab: OneLoop) -> None:
    for path in (b"/products", b"/products/x", b"/categories", b"/products?limit=2"):
        for lines in WAYS.values():
            reply = asked(lab, path, lines[0])
            assert reply.body == b"secret of nobody"
    for seen in lab.passed_on():
        assert not seen.target.startswith(IDENTITIES)
        assert not {*CREDENTIALS} & seen.names()


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    "said",
    [
        {"cache_control": "private, s-maxage=60"},
        {"cache_control": "no-store"},
        {"cache_control": "public, no-store, s-maxage=60"},
        {"cache_control": "s-maxage=60"},
        {"cache_control": "public"},
        {"cache_control": "public, max-age=60"},
        {"cache_control": "public, s-maxage=60", "set_cookie": "a=b"},
        {"cache_control": "public, s-maxage=60", "vary": "cookie"},
        {"cache_control": "public, s-maxage=60", "vary": "*"},
        {"cache_control": 'public, s-maxage=60, no-cache="set-cookie"'},
        {"cache_control": "public, s-maxage=60, private"},
        {},
    ],
    ids=str,
)
def test_a_page_is_not_held_unless_it_is_said_to_be_for_all(
    lab: OneLoop, said: dict[str, str], method: bytes
) -> None:
    """Each asks business anew, and gets what was answered to them."""
    count = 0

    async def script(seen: Seen) -> bytes:
        nonlocal count
        count += 1
        whole = answer(b"answer %d" % count, status=200, **said)
        return whole if seen.method == b"GET" else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    lab.upstream.script = script
    path = b"/products/of-%d" % abs(hash((str(said), method)))
    bodies = [asked(lab, path, method=method).body for _ in range(3)]
    assert count == 3
    if method == b"GET":
        assert bodies == [b"answer %d" % number for number in (1, 2, 3)]


def test_a_held_page_sets_no_cookie(lab: OneLoop) -> None:
    lab.upstream.script = echo
    lab.hold_a_page()
    for lines in WAYS.values():
        reply = asked(lab, b"/products/held", lines[0])
        assert reply.status == 200
        assert reply.values(b"set-cookie") == []
        assert reply.values(b"vary") in ([], [b"Accept-Encoding"], [b"accept-encoding"])
