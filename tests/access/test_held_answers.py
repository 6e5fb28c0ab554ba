"""Held pages over real sockets: what the protocol answers from memory, and what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.access.conftest import Access, Client, request, running
from tests.access.upstream import Seen, Upstream, answer
from tests.faults.waiting import until

RULES = orjson.dumps(
    {
        "pages": [
            {"path": "/products", "query": ["category"]},
            {"path": "/products/{slug}", "query": []},
        ]
    }
)
PUBLIC = "public, max-age=0, s-maxage=60, stale-if-error=600"
BODY = b'{"name": "a shirt", "text": "' + b"soft and red; " * 60 + b'"}'
SHIRT = request("/products/shirt")


class Shop:
    """Business as a script: it counts what it is asked, and can be held up or made to fail."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.headers: dict[str, str] = {"cache_control": PUBLIC, "etag": '"1"'}
        self.asked: list[Seen] = []
        self.status = 200

    async def __call__(self, seen: Seen) -> bytes:
        self.asked.append(seen)
        await self.open.wait()
        return answer(BODY, self.status, **self.headers)


@pytest.fixture(scope="module")
async def one_shop() -> AsyncIterator[tuple[Access, Shop]]:
    shop = Shop()
    async with Upstream(shop, pages=RULES) as upstream, running(upstream) as access:

        async def held() -> bool:
            return "cache-status" in (await access.get("/products/first")).headers

        await until(held, within_s=5, what="access knows what is a page")
        yield access, shop


@pytest.fixture
async def front(one_shop: tuple[Access, Shop]) -> tuple[Access, Shop]:
    access, shop = one_shop
    shop.__init__()  # type: ignore[misc]  # as new, for the same upstream
    return access, shop


async def test_a_page_is_asked_for_once_and_then_answered_from_memory(
    front: tuple[Access, Shop],
) -> None:
    access, shop = front
    client = await access.connect()
    first = await client.send(request("/products/once"))
    again = [await client.send(request("/products/once")) for _ in range(5)]
    await client.close()
    assert {each.body for each in (first, *again)} == {BODY}
    assert first.headers["cache-status"].startswith("Tercet; fwd=miss")
    assert all(each.headers["cache-status"].startswith("Tercet; hit") for each in again)
    assert len(shop.asked) == 1


async def test_a_thousand_clients_of_a_new_page_are_one_request(front: tuple[Access, Shop]) -> None:
    access, shop = front
    shop.open.clear()
    clients = [await access.connect() for _ in range(100)]
    for client in clients:
        client.writer.write(request("/products/herd") * 10)
    await until(lambda: bool(shop.asked), within_s=5, what="business is asked")
    shop.open.set()
    for client in clients:
        for _ in range(10):
            assert (await client.answer()).body == BODY
        await client.close()
    assert len(shop.asked) == 1


async def test_no_word_of_a_client_goes_along_with_a_page(front: tuple[Access, Shop]) -> None:
    access, shop = front
    await access.get(
        "/products/silent?utm_source=mail&session=1",
        "Cookie: tercet_customer=abc",
        "Authorization: Bearer abc",
        "X-Customer-Id: me",
        "User-Agent: a browser",
        "X-Request-Id: mine",
    )
    seen = shop.asked[0]
    assert seen.target == b"/products/silent"
    assert seen.names() <= {
        *(b"host", b"accept", b"x-internal-secret", b"x-request-id", b"traceparent"),
        *(b"x-deadline-ms", b"x-internal-min-position"),
    }
    assert seen.header(b"x-request-id") == b"mine"


async def test_cookies_and_parameters_nobody_knows_do_not_miss(front: tuple[Access, Shop]) -> None:
    access, shop = front
    await access.get("/products/utm")
    for number in range(5):
        response = await access.get(
            f"/products/utm?utm_campaign={number}&x={number}", f"Cookie: a={number}"
        )
        assert "Tercet; hit" in response.headers["cache-status"]
    assert (await access.get("/products/%75tm")).headers["cache-status"].startswith("Tercet; hit")
    assert len(shop.asked) == 1


async def test_what_sets_a_cookie_is_not_held(front: tuple[Access, Shop]) -> None:
    access, shop = front
    shop.headers["set_cookie"] = "a=b"
    for _ in range(3):
        response = await access.get("/products/cookie")
        assert "cache-status" not in response.headers
    assert len(shop.asked) == 3


async def test_a_held_page_for_head_and_for_who_has_it(front: tuple[Access, Shop]) -> None:
    access, shop = front
    await access.get("/products/shirt")
    client = await access.connect()
    head = await client.send(request("/products/shirt", method="HEAD"))
    assert (head.status, head.headers["content-length"]) == (200, str(len(BODY)))
    unchanged = await client.send(request("/products/shirt", 'If-None-Match: "0", "1"'))
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert (await client.send(SHIRT)).body == BODY
    await client.close()
    assert len(shop.asked) == 1


async def test_held_and_forwarded_requests_are_answered_in_their_order(
    front: tuple[Access, Shop],
) -> None:
    access, shop = front
    await access.get("/products/hat")  # which no other test has asked for
    shop.open.clear()
    client = await access.connect()
    hat = request("/products/hat")
    client.writer.write(hat + request("/orders/1") + hat + request("/products/hat?x=1"))
    assert "hit" in (await client.answer()).headers["cache-status"]
    await until(lambda: len(shop.asked) == 2, within_s=5, what="the order is asked for")
    shop.open.set()
    answers = [await client.answer() for _ in range(3)]
    assert ["cache-status" in each.headers for each in answers] == [False, True, True]
    await client.close()


@pytest.mark.parametrize("asked_with", ["", 'If-None-Match: "1"\r\n'])
async def test_a_held_page_keeps_a_connection_of_http_1_0(
    front: tuple[Access, Shop], asked_with: str
) -> None:
    access, _ = front
    client = await access.connect()
    asked = f"GET /products/old HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n{asked_with}\r\n"
    for _ in range(3):  # fetched, then held
        response = await client.send(asked.encode())
        assert response.status == (304 if asked_with else 200)
        assert response.headers["connection"] == "keep-alive"
        assert response.body == (b"" if asked_with else BODY)
    await client.close()


async def test_a_held_page_is_the_last_answer_where_the_client_says_so(
    front: tuple[Access, Shop],
) -> None:
    access, _ = front
    await access.get("/products/shirt")
    client = await access.connect()
    response = await client.send(request("/products/shirt", "Connection: close") + SHIRT)
    assert (response.body, response.headers["connection"]) == (BODY, "close")
    assert await client.ended() == b""
    await client.close()


async def test_what_is_malformed_gets_no_held_page(front: tuple[Access, Shop]) -> None:
    access, _ = front
    await access.get("/products/shirt")
    for bad in (
        b"GET /products/shirt HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /products/shirt HTTP/1.1\r\n\r\n",
        b"GET /products/shirt HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /products/shirt HTTP/1.1\r\nHost: a b\r\n\r\n",
    ):
        assert (await access.send(bad)).status == 400


async def test_a_get_with_a_body_is_not_answered_from_memory(front: tuple[Access, Shop]) -> None:
    access, shop = front
    await access.get("/products/shirt")
    await access.get("/products/shirt", method="GET", body=b"abc")
    assert shop.asked[-1].body == b"abc"


async def test_held_pages_go_on_while_business_fails(front: tuple[Access, Shop]) -> None:
    access, shop = front
    shop.headers["cache_control"] = "public, s-maxage=0, stale-if-error=600"
    assert (await access.get("/products/sturdy")).status == 200
    shop.status = 500
    for _ in range(3):
        response = await access.get("/products/sturdy")
        assert (response.status, response.body) == (200, BODY)
    assert (await access.get("/products/never-seen")).status == 500


async def test_a_client_that_leaves_a_page_it_waits_for_takes_nobody_along(
    front: tuple[Access, Shop],
) -> None:
    access, shop = front
    shop.open.clear()
    leaving, staying = await access.connect(), await access.connect()
    leaving.writer.write(request("/products/left"))
    await until(lambda: bool(shop.asked), within_s=5, what="business is asked")
    staying.writer.write(request("/products/left"))
    leaving.writer.transport.abort()
    assert (await access.get("/live")).status == 200  # access has seen the end by now
    shop.open.set()
    assert (await staying.answer()).body == BODY
    await staying.close()
    assert len(shop.asked) == 1


async def test_a_flood_of_pipelined_requests_is_read_as_fast_as_its_answers_are_taken(
    front: tuple[Access, Shop],
) -> None:
    access, _ = front
    await access.get("/products/shirt")
    client: Client = await access.connect()
    flood = request("/products/shirt") * 20_000  # 1.2 MB of requests, 20 MB of answers
    client.writer.write(flood)
    connections = access.server.server_state.connections

    def kept_bytes() -> int:
        return max(each.transport.get_write_buffer_size() for each in connections)

    await until(lambda: kept_bytes() > 65_536, within_s=5, what="answers pile up")
    largest = 0
    for _ in range(50):
        await asyncio.sleep(0.002)
        largest = max(largest, kept_bytes())
    assert largest < 1_048_576
    for _ in range(20_000):
        assert (await client.answer()).status == 200
    await client.close()
