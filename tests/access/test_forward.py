"""What business gets of a request, what the client gets of an answer, and of none."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from services.access.routes import Route
from tests.access.conftest import SECRET, Access, Answer, request, running
from tests.access.upstream import Seen, Upstream, always, answer
from tests.faults.waiting import until


def problem(response: Answer) -> dict[str, object]:
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = orjson.loads(response.body)
    assert document["status"] == response.status
    assert document["request_id"] == response.headers["x-request-id"]
    return document


class Held:
    """A script that never answers, until let go."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.arrived = asyncio.Event()

    async def __call__(self, seen: Seen) -> bytes:
        self.arrived.set()
        await self.event.wait()
        return answer(b"late")


# The request


async def test_business_gets_the_request_rebuilt(access: Access) -> None:
    response = await access.get(
        "/orders/a%2Fb?x=1&y=%20",
        "Accept: application/json",
        "Idempotency-Key: abc",
        method="POST",
        body=b'{"a":1}',
    )
    assert (response.status, response.body) == (200, b"ok")
    seen = access.upstream.requests[0]
    assert (seen.method, seen.target, seen.body) == (
        b"POST",
        b"/orders/a%2Fb?x=1&y=%20",
        b'{"a":1}',
    )
    assert seen.header(b"accept") == b"application/json"
    assert seen.header(b"idempotency-key") == b"abc"
    assert seen.values(b"content-length") == [b"7"]


async def test_business_gets_what_access_adds(access: Access) -> None:
    response = await access.get("/x")
    seen = access.upstream.requests[0]
    assert seen.values(b"x-internal-secret") == [SECRET.encode()]
    assert seen.values(b"x-request-id") == [response.headers["x-request-id"].encode()]
    assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert seen.values(b"x-forwarded-proto") == [b"http"]
    assert seen.values(b"x-forwarded-host") == [b"shop.example"]
    assert seen.values(b"host") == [b"127.0.0.1:%d" % access.upstream.port]
    assert 4000 < int(seen.header(b"x-deadline-ms") or 0) < 5000


INTERNAL = ["X-Internal-Secret", "X-Request-Id", "Traceparent", "X-Deadline-Ms", "X-Customer-Id"]
OF_PROXIES = [
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Anything"),
    *("Forwarded", "X-Real-IP", "Via", "True-Client-IP", "X-Original-URL", "X-User-Id"),
    *("X-HTTP-Method-Override", "X-Internal-Anything", "X-Tercet-Anything"),
]
HOP_BY_HOP = ["Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Trailer"]


@pytest.mark.parametrize("name", INTERNAL + OF_PROXIES + HOP_BY_HOP)
async def test_a_client_can_not_speak_for_access(access: Access, name: str) -> None:
    lie = "lie!"
    twin = name.replace("-", "_")
    await access.get("/x", f"{name}: {lie}", f"{name.upper()}: {lie}", f"{twin}: {lie}")
    seen = access.upstream.requests[0]
    assert lie.encode() not in [value for _, value in seen.headers]
    assert not [key for key in seen.names() if b"_" in key]


async def test_what_connection_names_stays_on_its_hop(access: Access) -> None:
    await access.get("/x", "Connection: X-One, x-two", "X-One: 1", "X-Two: 2", "X-Three: 3")
    seen = access.upstream.requests[0]
    assert {b"connection", b"x-one", b"x-two"}.isdisjoint(seen.names())
    assert seen.header(b"x-three") == b"3"


async def test_connection_can_not_take_away_what_access_adds(access: Access) -> None:
    await access.get("/x", "Connection: x-internal-secret, x-deadline-ms, x-forwarded-for")
    names = access.upstream.requests[0].names()
    assert {b"x-internal-secret", b"x-deadline-ms", b"x-forwarded-for"} <= names


async def test_a_trace_goes_on(access: Access) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await access.get("/x", f"traceparent: {parent}", "tracestate: a=b")
    seen = access.upstream.requests[0]
    assert seen.values(b"traceparent") == [parent.encode()]
    assert seen.values(b"tracestate") == [b"a=b"]


async def test_a_trace_state_without_its_parent_stays_behind(access: Access) -> None:
    await access.get("/x", "traceparent: nonsense", "tracestate: a=b")
    assert b"tracestate" not in access.upstream.requests[0].names()


async def test_a_chunked_body_goes_on_with_a_length(access: Access) -> None:
    head = "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    body = "3\r\nabc\r\n2\r\nde\r\n0\r\nx-internal-secret: lie\r\n\r\n"
    await access.send((head + body).encode())
    seen = access.upstream.requests[0]
    assert (seen.body, seen.values(b"content-length")) == (b"abcde", [b"5"])
    assert seen.values(b"x-internal-secret") == [SECRET.encode()]


@pytest.mark.parametrize(
    "path",
    ["/internal/identities/x", "/%69nternal/x", "//internal/x", "/a/../internal", "/metrics"],
)
async def test_what_is_internal_never_gets_to_business(access: Access, path: str) -> None:
    assert problem(await access.get(path))["type"] == "/problems/not-found"
    assert access.upstream.requests == []


# The answer


async def test_an_answer_keeps_what_is_for_the_client(access: Access) -> None:
    access.upstream.script = always(
        answer(
            b"x", etag='"1"', cache_control="public, s-maxage=5", set_cookie="a=b", vary="accept"
        )
    )
    response = await access.get("/products/a")
    assert response.headers["etag"] == '"1"'
    assert response.headers["cache-control"] == "public, s-maxage=5"
    assert response.headers["set-cookie"] == "a=b"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_an_answer_loses_what_is_internal(access: Access) -> None:
    access.upstream.script = always(
        answer(
            b"x",
            server="uvicorn",
            x_powered_by="python",
            cache_tag="product-1",
            x_internal_note="1",
            x_customer_id="1",
            x_deadline_ms="1",
            connection="keep-alive, x-hop",
            keep_alive="timeout=5",
            x_hop="1",
            date="Thu, 01 Jan 1970 00:00:00 GMT",
        )
    )
    response = await access.get("/products/a")
    allowed = {"date", "content-length", "x-request-id", "x-content-type-options"}
    assert set(response.headers) == allowed
    assert len(response.names) == len(allowed)
    assert "1970" not in response.headers["date"]


async def test_head_has_the_length_of_get_and_no_body(access: Access) -> None:
    access.upstream.script = always(b"HTTP/1.1 200 OK\r\ncontent-length: 321\r\n\r\n")
    client = await access.connect()
    for _ in range(2):
        response = await client.send(request("/products/a", method="HEAD"))
        assert response.headers["content-length"] == "321"
    await client.close()
    assert access.upstream.requests[0].method == b"HEAD"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_body_passes(access: Access, status: int) -> None:
    access.upstream.script = always(
        b"HTTP/1.1 %d X\r\netag: x\r\ncontent-length: 9\r\n\r\n" % status
    )
    client = await access.connect()
    for _ in range(2):
        response = await client.send(request("/products/a"))
        assert (response.status, response.headers["etag"]) == (status, "x")
    await client.close()


async def test_a_chunked_answer_becomes_one_of_known_length(access: Access) -> None:
    access.upstream.script = always(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    response = await access.get("/x")
    assert (response.body, response.headers["content-length"]) == (b"abc", "3")
    assert "transfer-encoding" not in response.headers


# No answer


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_business_down_is_503_and_nothing_was_done(method: str) -> None:
    async with Upstream() as upstream, running(upstream) as access:
        await upstream.stop()
        response = await access.get("/x", method=method)
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert problem(response)["detail"] == "Nothing was done; try again."


async def test_business_back_is_found_at_once() -> None:
    async with Upstream() as upstream, running(upstream) as access:
        await access.get("/x")
        await upstream.stop()
        assert (await access.get("/x")).status == 503
        await upstream.listen(upstream.port)
        assert (await access.get("/x")).status == 200


ASK_AGAIN = "It may have happened; ask with the same Idempotency-Key."
LOOK_FIRST = "It may have happened; look before you send it again."
KEY = ["Idempotency-Key: abc"]
UNKNOWN_OUTCOMES: list[tuple[str, list[str], str]] = [
    ("/orders", KEY, ASK_AGAIN),
    ("/orders/1/payments", KEY, ASK_AGAIN),
    ("/orders/1/payments", [], LOOK_FIRST),
    ("/operator/stock", [], LOOK_FIRST),
    ("/operator/stock", KEY, LOOK_FIRST),  # business takes no key there: it would be done twice
]


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", None])
async def test_a_broken_answer_is_502(access: Access, data: bytes | None) -> None:
    access.upstream.script = always(data)
    response = await access.get("/x")
    assert (response.status, "detail" in problem(response)) == (502, False)
    for path, lines, detail in UNKNOWN_OUTCOMES:
        document = problem(await access.get(path, *lines, method="POST"))
        assert document["detail"] == detail


async def test_a_status_that_there_is_not_is_502(access: Access) -> None:
    access.upstream.script = always(b"HTTP/1.1 799 Odd\r\ncontent-length: 0\r\n\r\n")
    assert problem(await access.get("/carts/1"))["type"] == "/problems/bad-gateway"


async def test_a_line_of_requests_that_can_not_be_passed_on_is_refused_one_by_one() -> None:
    held = Held()
    async with Upstream(held) as upstream, running(upstream, other_pool_size=4) as access:
        edge = access.server.config.http.edge  # type: ignore[union-attr]
        gate = edge.admission.gates[Route.OTHER]
        slow = [await access.connect() for _ in range(gate.limit)]
        for client in slow:
            client.writer.write(request("/carts"))
        await until(lambda: gate.in_flight == len(slow), within_s=5, what="no more are let in")
        bad = [await access.connect() for _ in range(150)]  # as calls, deeper than Python goes
        for client in bad:
            client.writer.write(request("/carts", f"{'x' * 300}: y"))
        await until(lambda: gate.waiting == len(bad), within_s=5, what="they wait")
        held.event.set()
        assert {(await client.answer()).status for client in slow} == {200}
        assert {(await client.answer()).status for client in bad} <= {400, 503}
        await until(lambda: gate.in_flight == 0, within_s=5, what="all are over")
        for client in [*slow, *bad]:
            await client.close()


async def test_a_late_answer_is_504() -> None:
    async with Upstream(Held()) as upstream, running(upstream, access_timeout_ms=80) as access:
        response = await access.get("/x")
        assert (response.status, "detail" in problem(response)) == (504, False)
        for path, lines, detail in UNKNOWN_OUTCOMES:
            document = problem(await access.get(path, *lines, method="POST"))
            assert document["detail"] == detail


async def test_no_free_connection_in_time_is_503_and_nothing_was_sent() -> None:
    settings: dict[str, Any] = {"page_pool_size": 1, "access_timeout_ms": 300}
    async with Upstream(Held()) as upstream, running(upstream, **settings) as access:
        clients = [await access.connect() for _ in range(2)]
        for client in clients:
            client.writer.write(request("/products/a"))
        answers = [await client.answer() for client in clients]
        assert sorted(response.status for response in answers) == [503, 504]
        assert len(upstream.requests) == 1
        for client in clients:
            await client.close()


async def test_slow_payments_hold_up_nothing_else() -> None:
    held = Held()

    async def script(seen: Seen) -> bytes:
        return await held(seen) if b"payments" in seen.target else answer()

    settings: dict[str, Any] = {"page_pool_size": 1, "payment_pool_size": 2}
    async with Upstream(script) as upstream, running(upstream, **settings) as access:
        payments = [
            asyncio.create_task(access.get(f"/orders/{n}/payments", method="POST"))
            for n in range(4)
        ]
        await until(lambda: len(upstream.requests) == 2, within_s=5, what="both payments wait")
        for path, method in (("/products/a", "GET"), ("/orders", "POST"), ("/orders/1", "GET")):
            assert (await access.get(path, method=method)).status == 200
        held.event.set()
        assert {(await payment).status for payment in payments} == {200}


async def test_business_is_told_less_time_than_access_has_itself() -> None:
    slow = Held()
    settings: dict[str, Any] = {"payment_pool_size": 1, "access_timeout_ms": 10_000}
    async with Upstream(slow) as upstream, running(upstream, **settings) as access:
        first = asyncio.create_task(access.get("/orders/a/payments", method="POST"))
        await slow.arrived.wait()
        second = asyncio.create_task(access.get("/orders/b/payments", method="POST"))
        third = asyncio.create_task(access.get("/orders/c/payments", method="POST"))
        await asyncio.sleep(0.3)  # time that passes, not a condition: it has to be counted
        slow.event.set()
        await asyncio.gather(first, second, third)
        told = [int(seen.header(b"x-deadline-ms") or 0) for seen in upstream.requests]
        assert 9500 < told[0] < 10_000
        assert max(told[1:]) < 9700


# A client that leaves


async def test_a_client_that_leaves_cancels_its_page() -> None:
    held = Held()
    # A deadline far beyond the wait below: only the cancellation can end the connection.
    async with Upstream(held) as upstream, running(upstream, access_timeout_ms=60_000) as access:
        client = await access.connect()
        client.writer.write(request("/products/a"))
        await held.arrived.wait()
        connections = len(upstream.open)
        await client.close()
        await until(
            lambda: len(upstream.open) < connections, within_s=5, what="given up at business"
        )


@pytest.mark.parametrize("path", ["/orders/1/payments", "/orders"])
async def test_a_client_that_leaves_does_not_stop_its_payment(access: Access, path: str) -> None:
    held = Held()
    access.upstream.script = held
    client = await access.connect()
    client.writer.write(request(path, method="POST"))
    await held.arrived.wait()
    number = access.upstream.requests[0].connection
    client.writer.transport.abort()
    assert (await access.get("/live")).status == 200  # access has seen the end by now
    held.event.set()
    access.upstream.script = always(answer())
    # The connection went on to its answer: it is in use again.
    await access.get(path, method="POST")
    assert access.upstream.requests[-1].connection == number
