"""services/keepalive.py against a server on a real socket, and what it is made of with it.

That is client.py, request.py, places.py, connections.py, connection.py, stream.py and address.py.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.connection import Connection
from services.deadline import Deadline
from services.keepalive import (
    AnswerLimits,
    AnswerTimedOut,
    BadAnswer,
    BodyMismatch,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    NotSent,
    Patience,
    Pool,
    PoolClosed,
    PoolTimedOut,
    Repeatable,
    Response,
    SendTimedOut,
    Unknown,
    UnsafeRequest,
)
from tests.access.upstream import Seen, Upstream, always, answer
from tests.faults.waiting import until

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def pool_to(upstream: Upstream, size: int = 4, **more: object) -> AsyncIterator[Pool]:
    pool = Pool("127.0.0.1", upstream.port, size=size, **more)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.aclose()


async def get(pool: Pool, target: bytes = b"/", seconds: float = 5.0) -> Response:
    return await pool.request(b"GET", target, deadline=Deadline.after(seconds))


async def post(pool: Pool, body: bytes = b"{}", seconds: float = 5.0) -> Response:
    return await pool.request(b"POST", b"/", body=body, deadline=Deadline.after(seconds))


class Gate:
    """A script that holds each request until it is let through."""

    def __init__(self) -> None:
        self.waiting: list[tuple[bytes, asyncio.Event]] = []

    async def __call__(self, seen: Seen) -> bytes:
        event = asyncio.Event()
        self.waiting.append((seen.target, event))
        await event.wait()
        return answer(seen.target)

    def open(self, index: int = 0) -> None:
        self.waiting.pop(index)[1].set()

    async def holds(self, count: int) -> None:
        await until(lambda: len(self.waiting) == count, within_s=5, what=f"{count} held")


async def test_requests_one_after_another_share_one_connection() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        for _ in range(5):
            assert (await get(pool)).body == b"ok"
        assert (upstream.connections, pool.opened_total, pool.reused_total) == (1, 1, 4)
        assert (pool.open, pool.idle, pool.in_flight, pool.waiting) == (1, 1, 0, 0)


async def test_the_connection_used_last_is_used_next() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream) as pool:
        calls = [asyncio.create_task(get(pool, b"/%d" % n)) for n in range(3)]
        await gate.holds(3)
        last = gate.waiting[-1][0]
        while gate.waiting:
            target = gate.waiting[0][0]
            gate.open()
            await calls[int(target[1:])]
        upstream.script = always(answer())
        await get(pool)
        assert upstream.requests[-1].connection == next(
            seen.connection for seen in upstream.requests if seen.target == last
        )


async def test_a_request_says_what_it_was_given_and_nothing_else() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await pool.request(
            b"POST", b"/a?b=c", [(b"x-one", b"1")], b"body", deadline=Deadline.after(5)
        )
        seen = upstream.requests[0]
        assert (seen.method, seen.target, seen.body) == (b"POST", b"/a?b=c", b"body")
        host = b"127.0.0.1:%d" % upstream.port
        assert seen.headers == [(b"host", host), (b"x-one", b"1"), (b"content-length", b"4")]


async def test_a_get_has_no_framing_and_an_empty_post_has_length_zero() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        await post(pool, b"")
        assert upstream.requests[0].names() == {b"host"}
        assert upstream.requests[1].header(b"content-length") == b"0"


@pytest.mark.parametrize("bad", [b"a\r\nx: y", b"a\nb", b"a\rb", b"a\0b", b"\x1b[2J", b"a\x7f"])
async def test_control_characters_never_reach_the_wire(bad: bytes) -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        for method, target, headers in (
            (b"GET", b"/", [(b"x-name", bad)]),
            (b"GET", b"/", [(b"x" + bad, b"value")]),
            (b"GET", b"/" + bad, []),
            (b"GET" + bad, b"/", []),
        ):
            with pytest.raises(UnsafeRequest):
                await pool.request(method, target, headers, deadline=Deadline.after(5))
        with pytest.raises(UnsafeRequest):
            await pool.request(b"GET", b"/", host=bad, deadline=Deadline.after(5))
        assert upstream.connections == 0


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"connection", b"te"])
async def test_framing_headers_are_refused_from_callers(name: bytes) -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        with pytest.raises(UnsafeRequest):
            await pool.request(b"POST", b"/", [(name, b"1")], b"x", deadline=Deadline.after(5))
        assert upstream.connections == 0


async def test_a_space_in_the_target_can_not_end_the_request_line() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        with pytest.raises(UnsafeRequest):
            await get(pool, b"/a HTTP/1.1")
        assert upstream.connections == 0


# Answers


async def test_a_chunked_answer_is_put_together_and_its_trailers_are_left_out() -> None:
    data = CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-secret: 1\r\n\r\n"
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        for _ in range(2):
            response = await get(pool)
            assert response.body == b"abcde"
            assert response.headers == [(b"transfer-encoding", b"chunked")]
        assert upstream.connections == 1


async def test_interim_answers_are_skipped() -> None:
    data = b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answer(b"it")
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        for _ in range(2):
            response = await get(pool)
            assert (response.status, response.body) == (200, b"it")
            assert response.header(b"link") is None
        assert upstream.connections == 1


async def test_endless_interim_answers_are_a_bad_answer() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n" * 100
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        with pytest.raises(BadAnswer):
            await get(pool)


async def test_an_upgrade_nobody_asked_for_is_a_bad_answer() -> None:
    data = b"HTTP/1.1 101 Switch\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        with pytest.raises(BadAnswer):
            await get(pool)


async def test_head_has_a_length_and_no_body_and_keeps_the_connection() -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        for _ in range(3):
            response = await pool.request(b"HEAD", b"/", deadline=Deadline.after(5))
            assert response.header(b"content-length") == b"1234"
            assert response.body == b""
        upstream.script = always(answer())
        assert (await get(pool)).body == b"ok"
        assert upstream.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_body_ends_with_its_head(status: int) -> None:
    data = b"HTTP/1.1 %d X\r\ncontent-length: 5\r\n\r\n" % status
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        for _ in range(2):
            assert (await get(pool)).body == b""
        assert upstream.connections == 1


async def test_an_answer_without_length_ends_with_the_connection() -> None:
    data = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end"
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        assert (await get(pool)).body == b"until the end"
        assert pool.open == 0


async def test_a_connection_that_says_close_is_not_used_again() -> None:
    async with Upstream(always(answer(connection="close"))) as upstream, pool_to(upstream) as pool:
        await get(pool)
        await get(pool)
        assert upstream.connections == 2


async def test_bytes_after_an_answer_end_the_connection() -> None:
    data = answer(b"first") + answer(b"smuggled")
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        for _ in range(2):
            assert (await get(pool)).body == b"first"
        assert upstream.connections == 2


async def test_an_answer_nobody_asked_for_is_not_taken_for_the_next() -> None:
    async def late(seen: Seen) -> bytes:
        asyncio.get_running_loop().call_later(
            0.01, next(iter(upstream.open))._transport.write, answer(b"stray")
        )
        return answer(b"right")

    async with Upstream(late) as upstream, pool_to(upstream) as pool:
        await get(pool)
        await until(lambda: pool.open == 0, within_s=5, what="the connection is given up")
        assert (await get(pool)).body == b"right"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nab",
        b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        CHUNKED + b"zz\r\n",
    ],
)
async def test_what_is_not_http_is_unknown_and_ends_the_connection(data: bytes) -> None:
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        with pytest.raises(BadAnswer) as caught:
            await post(pool)
        assert isinstance(caught.value, Unknown)
        assert (pool.open, pool.in_flight) == (0, 0)


async def test_an_answer_cut_in_its_body_is_unknown() -> None:
    async def cut(_: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nabc"

    async with Upstream(cut) as upstream, pool_to(upstream) as pool:
        with pytest.raises(ConnectionLost):
            await get(pool)


@pytest.mark.parametrize(
    "data",
    [
        answer(x=500 * "y"),
        b"HTTP/1.1 200 OK\r\nx: " + 500 * b"y",
        answer(b"b" * 101),
        CHUNKED + b"65\r\n" + b"b" * 101 + b"\r\n0\r\n\r\n",
        CHUNKED + b"0\r\n" + 50 * b"x-trailer: y\r\n" + b"\r\n",
    ],
)
async def test_answers_beyond_the_limits_are_bad(data: bytes) -> None:
    limits = AnswerLimits(head_bytes=300, body_bytes=100)
    async with Upstream(always(data)) as upstream, pool_to(upstream, limits=limits) as pool:
        with pytest.raises(BadAnswer):
            await get(pool)
        assert pool.open == 0


def _pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(ends):
        yield data[start:end]


@settings(max_examples=150, deadline=None)
@given(
    cuts=st.lists(st.integers(min_value=0, max_value=10_000), max_size=30),
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    chunked=st.booleans(),
    interim=st.booleans(),
)
async def test_any_split_of_an_answer_gives_the_same_answer(
    cuts: list[int], chunks: list[bytes], chunked: bool, interim: bool
) -> None:
    body = b"".join(chunks)
    data = b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b""
    if chunked:
        coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        data += CHUNKED.replace(b"\r\n\r\n", b"\r\nx-a: b\r\n\r\n") + coded + b"0\r\n\r\n"
    else:
        data += answer(body, x_a="b")
    async with Upstream(always(b"")) as upstream, pool_to(upstream) as pool:
        call = asyncio.create_task(get(pool))
        await until(lambda: len(upstream.requests) == 1, within_s=5, what="the request is there")
        connection: Connection = next(iter(pool.parts[0].busy))
        for piece in _pieces(data, cuts):
            connection.data_received(piece)
        response = await call
        assert (response.status, response.body) == (200, body)
        assert response.header(b"x-a") == b"b"
        assert pool.idle == 1


# Bodies that are streamed


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_an_iterated_body_goes_in_chunks() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        for _ in range(2):
            await pool.request(
                b"POST", b"/", body=_parts(b"ab", b"", b"cde"), deadline=Deadline.after(5)
            )
            seen = upstream.requests[-1]
            assert (seen.body, seen.header(b"transfer-encoding")) == (b"abcde", b"chunked")
        assert upstream.connections == 1


async def test_an_iterated_body_of_known_length_has_that_length() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await pool.request(
            b"PUT", b"/", body=_parts(b"ab", b"cde"), length=5, deadline=Deadline.after(5)
        )
        assert upstream.requests[0].header(b"content-length") == b"5"
        assert upstream.requests[0].body == b"abcde"


@pytest.mark.parametrize("length", [4, 6])
async def test_a_body_of_another_length_than_said_is_given_up(length: int) -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        with pytest.raises(BodyMismatch):
            await pool.request(
                b"PUT", b"/", body=_parts(b"ab", b"cde"), length=length, deadline=Deadline.after(5)
            )
        assert (pool.open, upstream.requests) == (0, [])


async def test_a_body_longer_than_said_is_unknown_once_the_server_has_it() -> None:
    async with Upstream(Gate()) as upstream, pool_to(upstream) as pool:

        async def body() -> AsyncIterator[bytes]:
            yield b"abcd"
            await until(lambda: len(upstream.requests) == 1, within_s=5, what="the server has it")
            yield b"e"

        with pytest.raises(Unknown):
            await pool.request(b"POST", b"/", body=body(), length=4, deadline=Deadline.after(10))
        assert upstream.requests[0].body == b"abcd"


async def test_what_a_body_raises_reaches_the_caller() -> None:
    class OfMine(Exception):
        pass

    async def body() -> AsyncIterator[bytes]:
        yield b"ab"
        raise OfMine

    async with Upstream() as upstream, pool_to(upstream) as pool:
        with pytest.raises(OfMine):
            await pool.request(b"POST", b"/", body=body(), deadline=Deadline.after(5))
        assert pool.open == 0


async def test_a_body_is_not_read_faster_than_the_server_takes_it() -> None:
    produced = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal produced
        while True:
            produced += 65_536
            yield bytes(65_536)

    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts by backlog, never reads
        pool = Pool("127.0.0.1", listener.getsockname()[1], size=1)
        with pytest.raises(SendTimedOut):
            await pool.request(
                b"POST",
                b"/",
                body=body(),
                deadline=Deadline.after(30),
                patience=Patience(write_s=0.2),
            )
        await pool.aclose()
    assert produced < 32 * 1_048_576  # what the kernel's buffers and ours hold, not more


async def test_a_streamed_answer_comes_in_pieces_and_frees_its_connection() -> None:
    size = 3_000_000
    async with Upstream(always(answer(bytes(size)))) as upstream, pool_to(upstream, 1) as pool:
        for _ in range(2):
            stream = await pool.stream(b"GET", b"/", deadline=Deadline.after(10))
            assert stream.status == 200
            assert sum([len(chunk) async for chunk in stream]) == size
        assert (upstream.connections, pool.idle) == (1, 1)


async def test_a_streamed_answer_that_nobody_reads_is_not_buffered() -> None:
    size = 50_000_000
    limits = AnswerLimits(body_bytes=size)
    async with (
        Upstream(always(answer(bytes(size)))) as upstream,
        pool_to(upstream, limits=limits) as pool,
    ):
        stream = await pool.stream(b"GET", b"/", deadline=Deadline.after(30))
        connection = next(iter(pool.parts[0].busy))
        await until(lambda: connection._paused, within_s=5, what="reading has stopped")
        assert stream._buffered_bytes < 1_000_000
        assert sum([len(chunk) async for chunk in stream]) == size


async def test_a_stream_closed_early_gives_its_connection_up() -> None:
    async with Upstream(always(answer(bytes(1_000_000)))) as upstream, pool_to(upstream) as pool:
        stream = await pool.stream(b"GET", b"/", deadline=Deadline.after(5))
        await stream.aclose()
        assert (pool.open, pool.in_flight) == (0, 0)


async def test_a_stream_that_is_cut_says_so_to_its_reader() -> None:
    data = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nabc"
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        stream = await pool.stream(b"GET", b"/", deadline=Deadline.after(5))
        with pytest.raises(ConnectionLost):
            async for _ in stream:
                pass


# A name of several addresses


def _name(monkeypatch: pytest.MonkeyPatch, *ports: int) -> str:
    """A name that the resolver has these servers for, always in this order."""
    name, of_system = "business.example", socket.getaddrinfo
    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")

    def resolve(host: str, *more: Any, **named: Any) -> list[Any]:
        if host != name:
            return list(of_system(host, *more, **named))
        return [(*kind, ("127.0.0.1", port)) for port in ports]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return name


async def test_connections_to_one_name_go_to_all_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    async with Upstream(gate) as one, Upstream(gate) as other:
        pool = Pool(_name(monkeypatch, one.port, other.port), 80, size=30)
        calls = [asyncio.create_task(get(pool)) for _ in range(30)]
        await gate.holds(30)
        assert one.connections and other.connections  # by chance not: one time in 2 ** 29
        while gate.waiting:
            gate.open()
        await asyncio.gather(*calls)
        assert one.requests[0].header(b"host") == b"business.example"
        await pool.aclose()


async def test_an_address_that_refuses_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream(always(answer(connection="close"))) as upstream:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = unused.getsockname()[1]
            pool = Pool(_name(monkeypatch, dead, upstream.port, dead), 80, size=1)
            assert {(await get(pool)).status for _ in range(20)} == {200}
            await pool.aclose()


async def test_a_connection_that_is_busy_all_the_time_is_replaced_when_it_is_old() -> None:
    async with Upstream() as upstream, pool_to(upstream, 1, max_age_s=0) as pool:
        calls = [asyncio.create_task(post(pool)) for _ in range(5)]
        assert [(await call).body for call in calls] == [b"ok"] * 5
        assert (upstream.connections, pool.opened_total) == (5, 5)
        assert (pool.open, pool.in_flight, pool.waiting) == (0, 0, 0)


async def test_a_connection_that_grew_old_while_idle_is_not_taken() -> None:
    async with Upstream() as upstream, pool_to(upstream, max_age_s=60) as pool:
        await get(pool)
        pool.parts[0].idle[0].retire_at = 0.0
        await get(pool)
        assert upstream.connections == 2


async def test_connections_of_one_burst_do_not_grow_old_at_once() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 20, max_age_s=1000) as pool:
        calls = [asyncio.create_task(get(pool)) for _ in range(20)]
        await gate.holds(20)
        ages_s = [connection.retire_at - time.monotonic() for connection in pool.parts[0].busy]
        assert all(790 < age_s < 1200 for age_s in ages_s)
        assert max(ages_s) - min(ages_s) > 20
        while gate.waiting:
            gate.open()
        await asyncio.gather(*calls)


# Failing, and what is safe to try again


async def test_nobody_listening_is_not_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool = Pool("127.0.0.1", unused.getsockname()[1], size=1)
        with pytest.raises(ConnectFailed) as caught:
            await post(pool)
        assert isinstance(caught.value, NotSent)
        assert pool.open == 0


async def test_a_connection_that_is_not_made_in_time_is_not_sent() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # the backlog is full: the next SYN is dropped
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        pool = Pool("127.0.0.1", port, size=1, patience=Patience(connect_s=0.1))
        with pytest.raises(ConnectTimedOut):
            await post(pool)
        assert pool.open == 0
        for filler in fillers:
            filler.close()


async def _serve_then_close_when_idle(pool: Pool, upstream: Upstream) -> None:
    """One answered request, then the server's end closes in the same turn as the next request."""
    await get(pool)
    for connection in list(upstream.open):
        connection.close()


async def test_a_get_is_repeated_once_when_its_idle_connection_was_closed() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await _serve_then_close_when_idle(pool, upstream)
        assert pool.idle == 1  # nothing has told the pool yet
        assert (await get(pool)).body == b"ok"
        assert upstream.connections == 2


async def test_a_get_whose_server_dies_before_every_answer_is_repeated_once_only() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = always(None)
        with pytest.raises(ConnectionLost):
            await get(pool)
        assert len(upstream.requests) == 3
        assert pool.retried_total == 1


async def test_a_post_is_never_sent_into_a_connection_that_was_closed() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await _serve_then_close_when_idle(pool, upstream)
        await asyncio.sleep(0)  # the server's end closes; this end has not looked
        assert (await post(pool)).body == b"ok"
        assert pool.retried_total == 0
        assert [seen.method for seen in upstream.requests] == [b"GET", b"POST"]


async def test_a_post_is_never_repeated_once_bytes_were_sent() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = always(None)
        with pytest.raises(ConnectionLost) as caught:
            await post(pool)
        assert isinstance(caught.value, Unknown)
        assert [seen.method for seen in upstream.requests] == [b"GET", b"POST"]


async def test_a_get_that_was_partly_answered_is_not_repeated() -> None:
    async def half(_: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-le"

    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = half
        with pytest.raises(ConnectionLost):
            await get(pool)
        assert len(upstream.requests) == 2


async def test_a_repeated_request_that_can_not_connect_stays_unknown() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)

        async def vanish(_: Seen) -> None:
            upstream._server.close()

        upstream.script = vanish
        with pytest.raises(ConnectionLost):
            await pool.request(b"PUT", b"/", body=b"x", deadline=Deadline.after(5))


# Time


async def test_an_answer_that_is_late_is_unknown_and_takes_its_connection_along() -> None:
    async with Upstream(Gate()) as upstream, pool_to(upstream) as pool:
        with pytest.raises(AnswerTimedOut) as caught:
            await post(pool, seconds=0.05)
        assert isinstance(caught.value, Unknown)
        assert (pool.open, pool.in_flight) == (0, 0)


async def test_a_short_deadline_holds_on_a_connection_that_served_a_long_one() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool, seconds=60)
        upstream.script = Gate()
        with pytest.raises(AnswerTimedOut):
            async with asyncio.timeout(5):
                await get(pool, seconds=0.05)


async def test_a_long_deadline_holds_on_a_connection_that_served_a_short_one() -> None:
    gate = Gate()
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool, seconds=0.05)
        upstream.script = gate
        call = asyncio.create_task(get(pool, seconds=5))
        await gate.holds(1)
        connection = next(iter(pool.parts[0].busy))
        await until(lambda: connection._timer_at > Deadline.after(1).at, within_s=5, what="armed")
        gate.open()
        assert (await call).status == 200


async def test_the_first_byte_has_a_time_of_its_own() -> None:
    async with Upstream(Gate()) as upstream, pool_to(upstream) as pool:
        with pytest.raises(AnswerTimedOut):
            async with asyncio.timeout(5):
                await pool.request(
                    b"GET",
                    b"/",
                    deadline=Deadline(math.inf),
                    patience=Patience(first_byte_s=0.05),
                )


async def test_silence_in_the_middle_of_an_answer_has_a_time_of_its_own() -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"
    async with Upstream(always(data)) as upstream, pool_to(upstream) as pool:
        with pytest.raises(AnswerTimedOut):
            async with asyncio.timeout(5):
                await pool.request(
                    b"GET", b"/", deadline=Deadline(math.inf), patience=Patience(between_s=0.05)
                )


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        with pytest.raises(PoolTimedOut):
            await post(pool, seconds=0)
        assert upstream.connections == 0


async def test_idle_connections_are_closed_before_the_server_does() -> None:
    async with Upstream() as upstream, pool_to(upstream, idle_s=0.05) as pool:
        await get(pool)
        assert pool.idle == 1
        await until(lambda: not upstream.open, within_s=5, what="closed while idle")
        assert (pool.open, pool.idle) == (0, 0)
        await get(pool)
        assert upstream.connections == 2


async def test_a_request_says_how_much_time_is_left_when_it_is_sent() -> None:
    async with Upstream() as upstream, pool_to(upstream, hop_ms=100) as pool:
        await get(pool, seconds=5)
        told = int(upstream.requests[0].header(b"x-deadline-ms") or 0)
        assert 4000 < told <= 4900


async def test_what_can_not_be_back_in_time_is_not_sent() -> None:
    async with Upstream() as upstream, pool_to(upstream, hop_ms=100) as pool:
        with pytest.raises(PoolTimedOut):
            await post(pool, seconds=0.09)
        assert upstream.requests == []
        assert pool.in_flight == 0
        assert (await get(pool)).status == 200


# Waiting for a place


async def test_no_more_than_size_connections_are_opened() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 2) as pool:
        calls = [asyncio.create_task(get(pool)) for _ in range(5)]
        await gate.holds(2)
        assert (pool.open, pool.in_flight, pool.waiting) == (2, 2, 3)
        upstream.script = always(answer())
        gate.open()
        gate.open()
        assert [(await call).status for call in calls] == [200] * 5
        assert upstream.connections == 2


async def test_who_waits_longest_goes_next() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        calls = [asyncio.create_task(get(pool, b"/%d" % n)) for n in range(6)]
        for _ in calls:
            await gate.holds(1)
            gate.open()
        await asyncio.gather(*calls)
        assert [seen.target for seen in upstream.requests] == [b"/%d" % n for n in range(6)]


async def test_who_waits_too_long_is_told_that_nothing_was_sent() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        first = asyncio.create_task(get(pool))
        await gate.holds(1)
        with pytest.raises(PoolTimedOut) as caught:
            await post(pool, seconds=0.05)
        assert isinstance(caught.value, NotSent)
        assert pool.waiting == 0
        gate.open()
        await first
        assert len(upstream.requests) == 1


async def test_a_failed_connection_passes_its_place_to_the_next_waiter() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool = Pool("127.0.0.1", unused.getsockname()[1], size=1)
        calls = [get(pool) for _ in range(4)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectFailed] * 4
        assert (pool.open, pool.waiting) == (0, 0)


async def test_a_lost_connection_passes_its_place_to_the_next_waiter() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        first = asyncio.create_task(post(pool))
        await gate.holds(1)
        second = asyncio.create_task(get(pool))
        await until(lambda: pool.waiting == 1, within_s=5, what="the second waits")
        upstream.script = always(answer())
        for connection in list(upstream.open):
            connection.close()
        with pytest.raises(ConnectionLost):
            await first
        assert (await second).status == 200


async def test_cancelling_a_request_ends_its_connection_only() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        first = asyncio.create_task(get(pool))
        await gate.holds(1)
        second = asyncio.create_task(get(pool))
        await until(lambda: pool.waiting == 1, within_s=5, what="the second waits")
        upstream.script = always(answer())
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).status == 200
        assert (pool.open, pool.in_flight, pool.waiting) == (1, 0, 0)


async def test_cancelling_a_waiter_leaves_the_others_in_order() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        calls = [asyncio.create_task(get(pool, b"/%d" % n)) for n in range(4)]
        await gate.holds(1)
        calls[1].cancel()
        await until(lambda: pool.waiting == 2, within_s=5, what="two wait")
        for call in (calls[0], calls[2], calls[3]):
            await gate.holds(1)
            gate.open()
            await call
        assert [seen.target for seen in upstream.requests] == [b"/0", b"/2", b"/3"]


async def test_a_waiter_cancelled_as_it_gets_a_connection_passes_it_on() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        first = asyncio.create_task(get(pool))
        await gate.holds(1)
        second = asyncio.create_task(get(pool))
        third = asyncio.create_task(get(pool))
        await until(lambda: pool.waiting == 2, within_s=5, what="two wait")
        upstream.script = always(answer())
        connection = next(iter(pool.parts[0].busy))
        connection.data_received(answer())  # hands the connection to the second...
        second.cancel()  # ...which is cancelled in the same turn
        assert (await first).status == 200
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.open()  # the answer to the first on the wire, which is now the third's
        assert (await third).status == 200
        assert (pool.in_flight, pool.waiting) == (0, 0)


async def test_a_storm_of_cancellations_leaves_the_pool_whole() -> None:
    async with Upstream() as upstream, pool_to(upstream, 3) as pool:

        async def cancelled_at(turns: int) -> None:
            call = asyncio.create_task(get(pool))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

        for round_number in range(20):
            await asyncio.gather(*(cancelled_at((n + round_number) % 13) for n in range(12)))
        await until(lambda: pool.in_flight == 0, within_s=5, what="nothing in flight")
        assert pool.open == pool.idle <= 3
        assert pool.waiting == 0
        assert [r.status for r in await asyncio.gather(*(get(pool) for _ in range(9)))] == [200] * 9


async def test_a_closed_pool_ends_those_who_wait_and_takes_nobody() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        first = asyncio.create_task(get(pool))
        await gate.holds(1)
        second = asyncio.create_task(get(pool))
        await until(lambda: pool.waiting == 1, within_s=5, what="the second waits")
        await pool.aclose()
        with pytest.raises(ConnectionLost):
            await first
        with pytest.raises(PoolClosed):
            await second
        with pytest.raises(PoolClosed):
            await get(pool)
        assert pool.open == 0


# Exchanges that are begun: without a task, answered by a call


class Called:
    """A caller that keeps what it was told; then() runs inside the call."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.told: list[Response | ExchangeError] = []
        self.gone = False
        self._then = then

    def set_result(self, result: Response) -> None:
        self._tell(result)

    def set_exception(self, error: ExchangeError) -> None:
        self._tell(error)

    def done(self) -> bool:
        return self.gone

    def _tell(self, what: Response | ExchangeError) -> None:
        self.told.append(what)
        if self._then is not None:
            self._then()

    async def answered(self) -> Response | ExchangeError:
        await until(lambda: bool(self.told), within_s=5, what="the caller is called")
        assert len(self.told) == 1
        return self.told[0]


def begin(
    pool: Pool, caller: Called, method: bytes = b"GET", body: bytes = b"", seconds: float = 5
) -> bool:
    return pool.begin(
        method, b"/begun", [(b"x-one", b"1")], body, deadline=Deadline.after(seconds), caller=caller
    )


async def test_what_is_begun_is_written_at_once_and_answered_by_a_call() -> None:
    async with Upstream() as upstream, pool_to(upstream, hop_ms=100) as pool:
        await get(pool)
        caller = Called()
        assert begin(pool, caller, b"POST", b"body")
        assert (pool.in_flight, pool.idle) == (1, 0)
        response = await caller.answered()
        assert isinstance(response, Response)
        assert (response.status, response.body) == (200, b"ok")
        seen = upstream.requests[-1]
        assert (seen.method, seen.target, seen.body) == (b"POST", b"/begun", b"body")
        assert seen.names() == {b"host", b"content-length", b"x-one", b"x-deadline-ms"}
        assert 4000 < int(seen.header(b"x-deadline-ms") or 0) <= 4900
        assert (pool.opened_total, pool.reused_total, pool.in_flight) == (1, 1, 0)


async def test_a_large_body_is_begun_too() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        caller = Called()
        assert begin(pool, caller, b"PUT", bytes(1_000_000))
        assert isinstance(await caller.answered(), Response)
        assert upstream.requests[-1].body == bytes(1_000_000)


async def test_nothing_is_begun_without_an_idle_connection_time_or_an_open_pool() -> None:
    caller = Called()
    async with Upstream() as upstream, pool_to(upstream, hop_ms=100) as pool:
        assert not begin(pool, caller)
        await get(pool)
        assert not begin(pool, caller, seconds=0.09)
        pool.parts[0].idle[0].retire_at = 0.0
        assert not begin(pool, caller)
        assert (pool.open, pool.idle, pool.in_flight) == (0, 0, 0)
        await get(pool)
        await pool.aclose()
        assert not begin(pool, caller)
        assert len(upstream.requests) == 2
    assert caller.told == []


async def test_what_is_begun_does_not_overtake_who_waits() -> None:
    gate = Gate()
    async with Upstream(gate) as upstream, pool_to(upstream, 1) as pool:
        first = asyncio.create_task(get(pool))
        await gate.holds(1)
        second = asyncio.create_task(get(pool, b"/second"))
        await until(lambda: pool.waiting == 1, within_s=5, what="the second waits")
        first.add_done_callback(lambda _: overtaking.append(begin(pool, Called())))
        overtaking: list[bool] = []
        gate.open()
        await gate.holds(1)
        assert overtaking == [False]
        gate.open()
        await asyncio.gather(first, second)


@pytest.mark.parametrize("bad", [b"a\r\nx: y", b"a\nb", b"a\0b"])
async def test_control_characters_are_not_begun(bad: bytes) -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        for target, name, value in (
            (b"/", b"x", bad),
            (b"/", b"x" + bad, b"v"),
            (b"/" + bad, b"x", b"v"),
        ):
            with pytest.raises(UnsafeRequest):
                pool.begin(
                    b"GET", target, [(name, value)], deadline=Deadline.after(5), caller=Called()
                )
        assert (pool.idle, len(upstream.requests)) == (1, 1)


async def test_a_caller_may_begin_its_next_exchange_inside_the_call() -> None:
    async with Upstream() as upstream, pool_to(upstream, 1) as pool:
        await get(pool)
        idle: list[int] = []

        def again() -> None:
            idle.append(pool.idle)
            if len(idle) < 50:
                assert begin(pool, caller)

        caller = Called(again)
        assert begin(pool, caller)
        await until(lambda: len(idle) == 50, within_s=5, what="the last answer")
        assert idle == [1] * 50  # free before each call
        assert all(isinstance(told, Response) for told in caller.told)
        assert (upstream.connections, pool.idle, pool.in_flight) == (1, 1, 0)


@pytest.mark.parametrize(("script", "connections"), [(always(answer()), 1), (always(None), 2)])
async def test_a_caller_that_fails_leaves_the_pool_whole(script: Any, connections: int) -> None:
    def fail() -> None:
        raise RuntimeError("a bug of the caller")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    try:
        async with Upstream() as upstream, pool_to(upstream, 1) as pool:
            await get(pool)
            upstream.script = script
            assert begin(pool, Called(fail))
            await until(lambda: bool(reported), within_s=5, what="the bug is reported")
            upstream.script = always(answer())
            assert pool.in_flight == 0
            assert (await get(pool)).status == 200
            assert upstream.connections == connections
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert str(reported[0]["exception"]) == "a bug of the caller"


@pytest.mark.parametrize(
    ("method", "body", "kind"),
    [(b"GET", b"", Repeatable), (b"PUT", b"x", Repeatable), (b"POST", b"x", ConnectionLost)],
)
async def test_only_what_is_idempotent_is_said_to_be_safe_to_repeat(
    method: bytes, body: bytes, kind: type[ExchangeError]
) -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = always(None)
        caller = Called(lambda: open_then.append(pool.open))
        open_then: list[int] = []
        assert begin(pool, caller, method, body)
        assert type(await caller.answered()) is kind
        assert open_then == [0]  # the connection's place was free before the call
        assert pool.retried_total == 0


async def test_a_begun_get_that_was_partly_answered_is_not_said_to_be_safe() -> None:
    async def half(_: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-le"

    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = half
        caller = Called()
        assert begin(pool, caller)
        assert type(await caller.answered()) is ConnectionLost


async def test_a_post_is_not_begun_on_a_connection_that_was_closed() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await _serve_then_close_when_idle(pool, upstream)
        await asyncio.sleep(0)  # the server's end closes; this end has not looked
        assert not begin(pool, Called(), b"POST", b"{}")
        assert pool.open == 0


async def test_an_abandoned_exchange_takes_its_connection_along_and_calls_nobody() -> None:
    gate = Gate()
    async with Upstream() as upstream, pool_to(upstream, 2) as pool:
        await get(pool)
        upstream.script = gate
        left, other = Called(), asyncio.create_task(get(pool))
        await gate.holds(1)
        gate.open()
        await other
        assert begin(pool, left)
        await gate.holds(1)
        other = asyncio.create_task(get(pool, b"/other"))
        await gate.holds(2)
        pool.abandon(left)
        assert (pool.open, pool.in_flight) == (1, 1)
        gate.open(1)
        assert (await other).body == b"/other"
        pool.abandon(left)  # once more changes nothing
        assert (left.told, pool.open, pool.idle) == ([], 1, 1)


async def test_a_caller_that_is_done_is_not_called() -> None:
    gate = Gate()
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = gate
        caller = Called()
        assert begin(pool, caller)
        await gate.holds(1)
        caller.gone = True
        gate.open()
        await until(lambda: pool.idle == 1, within_s=5, what="the answer is there")
        assert caller.told == []


async def test_a_begun_exchange_has_its_deadline() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = Gate()
        caller = Called()
        assert begin(pool, caller, seconds=0.05)
        assert isinstance(await caller.answered(), AnswerTimedOut)
        assert pool.open == 0


async def test_closing_the_pool_tells_the_callers() -> None:
    async with Upstream() as upstream, pool_to(upstream) as pool:
        await get(pool)
        upstream.script = Gate()
        caller = Called()
        assert begin(pool, caller)
        await pool.aclose()
        assert isinstance(caller.told[0], ConnectionLost)
