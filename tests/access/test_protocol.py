"""services/access/protocol.py over raw sockets: framing, limits, order, time."""

from __future__ import annotations

import asyncio
import itertools
import time

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.access.limits import Limits
from tests.access.conftest import Access, Answer, Client, request, running
from tests.access.upstream import Seen, Upstream, always, answer
from tests.faults.waiting import until

LIMITS = Limits()
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /x HTTP/1.1", b"Host: a", *lines, b"", body))


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
MALFORMED = {
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "empty host": b"GET /x HTTP/1.1\r\nHost:\r\n\r\n",
    "host with a path": b"GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with a user": b"GET /x HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "host with a space": b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with a comma": b"GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "host with no port after its colon": b"GET /x HTTP/1.1\r\nHost: a:\r\n\r\n",
    "length and coding": post(
        b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "coding and length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "two lengths": post(b"Content-Length: 4", b"Content-Length: 4", body=b"abcd" + SMUGGLED),
    "two other lengths": post(b"Content-Length: 4", b"Content-Length: 0", body=b"abcd" + SMUGGLED),
    "a list of lengths": post(b"Content-Length: 4, 4", body=b"abcd"),
    "a signed length": post(b"Content-Length: +4", body=b"abcd"),
    "a negative length": post(b"Content-Length: -4", body=b"abcd"),
    "a length in hex": post(b"Content-Length: 0x4", body=b"abcd"),
    "a length with underscores": post(b"Content-Length: 1_0", body=b"0123456789"),
    "an endless length": post(b"Content-Length: " + b"9" * 40, body=b"abcd"),
    "an unknown coding": post(b"Transfer-Encoding: gzip", body=b"abcd"),
    "a coding before chunked": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity", body=b""),
    "chunked twice": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "xchunked": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "coding in HTTP/1.0": b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded line": b"GET /x HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    "a space before the colon": b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n",
    "a space before the name": b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n",
    "no name": b"GET /x HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "no colon": b"GET /x HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "a bracket in a name": b"GET /x HTTP/1.1\r\nHost: a\r\nX(y: x\r\n\r\n",
    "lines that end with LF": b"GET /x HTTP/1.1\nHost: a\n\n",
    "one line that ends with LF": b"GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "a lone CR": b"GET /x HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    "a NUL": b"GET /x HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "a control character": b"GET /x HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
    "a chunk size in hex notation": post(
        b"Transfer-Encoding: chunked", body=b"0x4\r\nabcd\r\n0\r\n\r\n"
    ),
    "a signed chunk size": post(b"Transfer-Encoding: chunked", body=b"+4\r\nabcd\r\n0\r\n\r\n"),
    "an endless chunk size": post(
        b"Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\nabcd\r\n0\r\n\r\n"
    ),
    "a chunk longer than its size": post(
        b"Transfer-Encoding: chunked", body=b"2\r\nabcd\r\n0\r\n\r\n"
    ),
    "a chunk line that ends with LF": post(
        b"Transfer-Encoding: chunked", body=b"4\nabcd\r\n0\r\n\r\n"
    ),
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/1.2": b"GET /x HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a space in the target": b"GET /x y HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n",
    "no slash": b"GET x HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes beyond ASCII in the target": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an encoded NUL in the path": b"GET /x%00y HTTP/1.1\r\nHost: a\r\n\r\n",
    "an encoded line end in the path": b"GET /x%0d%0ay HTTP/1.1\r\nHost: a\r\n\r\n",
    "another scheme": b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a user in the target": b"GET http://u:p@a/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a star for another method": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "an unknown method": b"SMUGGLE /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in small letters": b"get /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS on a plain port": bytes.fromhex("1603010200010001fc0303") + bytes(64),
    "a body with an upgrade": post(
        b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 4", body=b"abcd" + SMUGGLED
    ),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_malformed_is_400_and_closed_and_never_passed_on(
    access: Access, data: bytes
) -> None:
    client = await access.connect()
    response = await client.send(data + GET)
    assert response.status == 400
    assert response.headers["connection"] == "close"
    assert orjson.loads(response.body)["request_id"] == response.headers["x-request-id"]
    assert await client.ended() == b""
    await client.close()
    assert access.upstream.requests == []


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT", b"PROPFIND", b"PURGE"])
async def test_other_methods_are_405_and_say_what_is_allowed(access: Access, method: bytes) -> None:
    target = b"a:443" if method == b"CONNECT" else b"/x"
    response = await access.send(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.status == 405
    assert "GET" in response.headers["allow"]
    assert access.upstream.requests == []


# Limits


async def test_a_long_target_is_414(access: Access) -> None:
    room = LIMITS.url_bytes
    assert (await access.get("/" + "a" * (room - 1))).status == 200
    assert (await access.get("/" + "a" * room)).status == 414


async def test_many_fields_are_431(access: Access) -> None:
    lines = [f"x-{n}: y" for n in range(LIMITS.fields - 1)]
    assert (await access.get("/x", *lines)).status == 200
    assert (await access.get("/x", *lines, "one-more: y")).status == 431


async def test_a_long_header_section_is_431(access: Access) -> None:
    line = "x-long: " + "y" * (LIMITS.head_bytes - 40)
    assert (await access.get("/x", line)).status == 200
    assert (await access.get("/x", line + "y" * 40)).status == 431


async def _flood(client: Client) -> tuple[int, int]:
    """Go on sending until there is an answer: its status, and the bytes sent until then."""
    answered = asyncio.create_task(client.answer())
    sent_bytes = 0
    while not answered.done() and sent_bytes < 64 * 1_048_576:
        client.writer.write(b"y" * 16_384)
        sent_bytes += 16_384
        await asyncio.wait([answered], timeout=0.002)  # what is sent has to arrive in between
    client.writer.transport.abort()
    return (await answered).status, sent_bytes


async def test_a_header_that_never_ends_is_refused_while_it_comes(access: Access) -> None:
    client = await access.connect()
    client.writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX: ")
    status, sent_bytes = await _flood(client)
    assert status == 431
    assert sent_bytes < 2 * 1_048_576


async def test_a_long_body_is_413(access: Access) -> None:
    limit = 65_536
    assert (await access.get("/x", method="POST", body=bytes(limit))).status == 200
    response = await access.get("/x", method="POST", body=bytes(limit + 1))
    assert (response.status, response.headers["connection"]) == (413, "close")


async def test_a_body_said_to_be_long_is_413_before_it_comes(access: Access) -> None:
    response = await access.send(post(b"Content-Length: 100000000"))
    assert response.status == 413


async def test_a_client_that_goes_on_sending_still_reads_its_413(access: Access) -> None:
    client = await access.connect()
    client.writer.write(post(b"Content-Length: 500000") + bytes(500_000))
    await client.writer.drain()
    assert (await client.answer()).status == 413
    await client.close()


async def test_a_chunked_body_is_bounded_too(access: Access) -> None:
    client = await access.connect()
    client.writer.write(post(b"Transfer-Encoding: chunked"))
    for _ in range(20):
        client.writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
    assert (await client.answer()).status == 413
    await client.close()
    assert access.upstream.requests == []


async def test_a_chunk_extension_that_never_ends_is_400(access: Access) -> None:
    client = await access.connect()
    client.writer.write(post(b"Transfer-Encoding: chunked") + b"4;")
    status, sent_bytes = await _flood(client)
    assert status == 400
    assert sent_bytes < 2 * 1_048_576


async def test_trailers_are_bounded_and_dropped(access: Access) -> None:
    body = b"1\r\nx\r\n0\r\n" + b"authorization: lie\r\n" * 50 + b"\r\n"
    assert (await access.send(post(b"Transfer-Encoding: chunked", body=body))).status == 200
    assert b"authorization" not in access.upstream.requests[0].names()
    body = b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 10_000 + b"\r\n"
    assert (await access.send(post(b"Transfer-Encoding: chunked", body=body))).status == 431


# Connections


async def test_connections_are_kept_on_both_sides(access: Access) -> None:
    before = access.upstream.connections
    client = await access.connect()
    for _ in range(10):
        assert (await client.send(request("/products/a"))).status == 200
    await client.close()
    assert access.upstream.connections - before <= 1
    assert len({seen.connection for seen in access.upstream.requests}) == 1


async def test_pipelined_requests_are_answered_in_order(access: Access) -> None:
    gates = {b"/0": asyncio.Event()}

    async def script(seen: Seen) -> bytes:
        if seen.target in gates:
            await gates[seen.target].wait()
        return answer(seen.target)

    access.upstream.script = script
    client = await access.connect()
    client.writer.write(b"".join(request(f"/{n}") for n in range(8)))
    await until(lambda: len(access.upstream.requests) == 1, within_s=5, what="the first is there")
    gates[b"/0"].set()
    assert [(await client.answer()).body for _ in range(8)] == [b"/%d" % n for n in range(8)]
    await client.close()


async def test_a_malformed_request_is_refused_after_the_answers_before_it(access: Access) -> None:
    gate = asyncio.Event()

    async def script(seen: Seen) -> bytes:
        await gate.wait()
        return answer(seen.target)

    access.upstream.script = script
    client = await access.connect()
    client.writer.write(request("/0") + request("/1") + b"nonsense\r\n\r\n" + request("/2"))
    await until(lambda: len(access.upstream.requests) == 1, within_s=5, what="the first is there")
    gate.set()
    assert [(await client.answer()).body for _ in range(2)] == [b"/0", b"/1"]
    assert (await client.answer()).status == 400
    assert await client.ended() == b""
    await client.close()
    assert [seen.target for seen in access.upstream.requests] == [b"/0", b"/1"]


async def test_connection_close_is_kept_and_nothing_after_it_is_served(access: Access) -> None:
    client = await access.connect()
    response = await client.send(request("/0", "Connection: close") + request("/1"))
    assert (response.status, response.headers["connection"]) == (200, "close")
    assert await client.ended() == b""
    await client.close()
    assert [seen.target for seen in access.upstream.requests] == [b"/0"]


async def test_http_1_0_is_answered_and_closed(access: Access) -> None:
    client = await access.connect()
    response = await client.send(b"GET /x HTTP/1.0\r\n\r\n")
    assert (response.status, response.body) == (200, b"ok")
    assert await client.ended() == b""
    await client.close()


@pytest.mark.parametrize("target", ["/x", "/carts/current", "/ready", "/nowhere/at/all"])
async def test_http_1_0_that_asks_to_be_kept_is_told_so_and_kept(
    access: Access, target: str
) -> None:
    """As `ab -k` asks: forwarded, answered here, or refused."""
    client = await access.connect()
    for _ in range(3):
        response = await client.send(
            f"GET {target} HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n".encode()
        )
        assert response.headers["connection"] == "keep-alive"
    last = await client.send(f"GET {target} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
    assert last.headers["connection"] == "close"
    assert await client.ended() == b""
    await client.close()


async def test_an_upgrade_is_left_aside(access: Access) -> None:
    client = await access.connect()
    response = await client.send(request("/x", "Connection: upgrade", "Upgrade: h2c") + SMUGGLED)
    assert (response.status, response.headers["connection"]) == (200, "close")
    assert await client.ended() == b""
    await client.close()
    assert [seen.target for seen in access.upstream.requests] == [b"/x"]
    assert b"upgrade" not in access.upstream.requests[0].names()


async def test_an_absolute_target_names_the_host(access: Access) -> None:
    response = await access.send(b"GET http://other:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.status == 200
    seen = access.upstream.requests[0]
    assert (seen.target, seen.values(b"x-forwarded-host")) == (b"/x?y", [b"other:81"])


async def test_options_star_is_answered_here(access: Access) -> None:
    response = await access.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.status == 204
    assert "POST" in response.headers["allow"]
    assert access.upstream.requests == []


async def test_expect_100_is_asked_for_and_not_passed_on(access: Access) -> None:
    client = await access.connect()
    client.writer.write(post(b"Content-Length: 2", b"Expect: 100-continue"))
    assert (await client.answer()).status == 100
    client.writer.write(b"ab")
    assert (await client.answer()).status == 200
    await client.close()
    assert access.upstream.requests[0].body == b"ab"
    assert b"expect" not in access.upstream.requests[0].names()


async def test_expect_100_for_a_body_too_long_is_413_at_once(access: Access) -> None:
    response = await access.send(post(b"Content-Length: 9999999", b"Expect: 100-continue"))
    assert response.status == 413


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=12))
async def test_any_split_of_requests_gives_the_same_answers(
    access: Access, cuts: list[int]
) -> None:
    access.upstream.requests.clear()
    data = (
        request("/a", "x: y")
        + post(b"Transfer-Encoding: chunked", body=b"3;e\r\nabc\r\n2\r\nde\r\n0\r\nt: u\r\n\r\n")
        + request("/b?c", method="POST", body=b"0123456789")
        + b"GET /bad HTTP/1.1\r\nno colon\r\n\r\n"
    )
    client = await access.connect()
    ends = sorted({cut % len(data) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(ends):
        client.writer.write(data[start:end])
        await asyncio.sleep(0)
    statuses = [(await client.answer()).status for _ in range(4)]
    assert statuses == [200, 200, 200, 400]
    assert await client.ended() == b""
    await client.close()
    got = [(seen.target, seen.body) for seen in access.upstream.requests]
    assert got == [(b"/a", b""), (b"/x", b"abcde"), (b"/b?c", b"0123456789")]


# Time


async def test_a_connection_that_says_nothing_is_closed() -> None:
    limits = Limits(head_s=0.1)
    async with Upstream() as upstream, running(upstream, limits=limits) as access:
        client = await access.connect()
        assert await client.ended() == b""
        await client.close()


@pytest.mark.parametrize("drip", [b"x", b""])
async def test_a_head_has_an_absolute_time(drip: bytes) -> None:
    limits = Limits(head_s=0.3)
    async with Upstream() as upstream, running(upstream, limits=limits) as access:
        client = await access.connect()
        client.writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX: ")
        answered = asyncio.create_task(client.answer())
        async with asyncio.timeout(5):
            while not answered.done():
                client.writer.write(drip)  # progress of a byte does not buy more time
                await asyncio.sleep(0.02)
        await _says_too_late(client, await answered)
        assert upstream.requests == []


async def _says_too_late(client: Client, response: Answer) -> None:
    assert (response.status, response.headers["connection"]) == (408, "close")
    assert orjson.loads(response.body)["type"] == "/problems/request-timeout"
    assert await client.ended() == b""
    await client.close()


async def test_the_time_of_a_head_begins_with_its_first_byte() -> None:
    limits = Limits(head_s=1.0)
    async with Upstream() as upstream, running(upstream, limits=limits) as access:
        client = await access.connect()
        await asyncio.sleep(0.3)  # time that passes, not a condition: it must not count
        began_at = time.monotonic()
        client.writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n")
        await _says_too_late(client, await client.answer())
        assert time.monotonic() - began_at > 0.9


async def test_a_request_that_is_late_is_told_so_after_the_answer_before_it() -> None:
    limits = Limits(head_s=0.1)
    gate = asyncio.Event()

    async def script(_: Seen) -> bytes:
        await gate.wait()
        return answer(b"in time")

    async with Upstream(script) as upstream, running(upstream, limits=limits) as access:
        client = await access.connect()
        client.writer.write(request("/0") + b"GET /1 HTTP/1.1\r\n")
        connections = access.server.server_state.connections
        await until(
            lambda: any(getattr(one, "_refusal", None) for one in connections),
            within_s=5,
            what="the second is late",
        )
        gate.set()
        assert (await client.answer()).body == b"in time"
        await _says_too_late(client, await client.answer())
        assert [seen.target for seen in upstream.requests] == [b"/0"]


async def test_empty_lines_do_not_hold_a_connection() -> None:
    limits = Limits(head_s=0.2)
    async with Upstream() as upstream, running(upstream, limits=limits) as access:
        client = await access.connect()
        await client.send(request("/x"))
        client.writer.write(b"\r\n")
        assert await client.ended() == b""
        await client.close()


async def test_a_body_has_an_absolute_time() -> None:
    limits = Limits(body_s=0.2)
    async with Upstream() as upstream, running(upstream, limits=limits) as access:
        client = await access.connect()
        client.writer.write(post(b"Content-Length: 1000") + b"ab")
        await _says_too_late(client, await client.answer())
        assert upstream.requests == []


async def test_a_body_that_comes_slowly_takes_no_time_from_business() -> None:
    async with Upstream() as upstream, running(upstream, access_timeout_ms=500) as access:
        client = await access.connect()
        client.writer.write(post(b"Content-Length: 4") + b"ab")
        await asyncio.sleep(0.6)  # longer than business may take: it must not count
        assert (await client.send(b"cd")).status == 200
        await client.close()
        told_ms = int(upstream.requests[0].header(b"x-deadline-ms") or 0)
        assert (upstream.requests[0].body, told_ms > 300) == (b"abcd", True)


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with Upstream() as upstream, running(upstream, keep_alive_s=1) as access:
        client = await access.connect()
        await client.send(request("/x"))
        assert await client.ended() == b""
        await client.close()


async def test_slow_heads_do_not_trouble_a_slow_answer() -> None:
    limits = Limits(head_s=0.1)
    async with Upstream() as upstream, running(upstream, limits=limits) as access:
        gate = asyncio.Event()

        async def script(_: Seen) -> bytes:
            await gate.wait()
            return answer()

        upstream.script = script
        client = await access.connect()
        client.writer.write(request("/x"))
        await until(lambda: len(upstream.requests) == 1, within_s=5, what="it is there")
        upstream.script = always(answer())
        await asyncio.sleep(0.2)  # longer than a head may take: it must not count
        gate.set()
        assert (await client.answer()).status == 200
        await client.close()
