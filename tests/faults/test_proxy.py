"""Every fault of the proxy, measured against a real server that sends back what it gets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.link import reset
from tests.faults.proxy import Accept, Direction, FaultProxy
from tests.faults.toxics import Toxics
from tests.faults.waiting import until

WITHIN_S = 10.0  # far above anything here, so that only what never happens fails
SILENCE_S = 0.2  # how long nothing must come where nothing may come
LATE_S = 1.0  # what a busy machine may add to a delay


@dataclass
class Echo:
    """A server that sends back what it gets, and can be told not to read."""

    port: int = 0
    connections: int = 0
    received_bytes: int = 0
    reset_connections: int = 0
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await self.reading.wait()
                data = await reader.read(65_536)
                self.received_bytes += len(data)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            self.reset_connections += 1
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    served = Echo()
    served.reading.set()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, limit=65_536)
    served.port = server.sockets[0].getsockname()[1]
    yield served
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", echo.port, seed=1) as started:
        yield started


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, size_bytes: int) -> bytes:
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.readexactly(size_bytes)

    async def receive_rest(self) -> bytes:
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.read(-1)

    async def echo_s(self, data: bytes) -> float:
        """Send, get it back, check it, and return the seconds it took."""
        started_at = time.monotonic()
        sending = asyncio.create_task(self.send(data))
        assert await self.receive(len(data)) == data
        await sending
        return time.monotonic() - started_at

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SILENCE_S):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def test_a_healthy_proxy_changes_nothing_and_counts_everything(
    proxy: FaultProxy, echo: Echo
) -> None:
    data = random.Random(1).randbytes(3_000_000)
    async with connected(proxy) as client:
        await client.echo_s(data)
        client.writer.write_eof()
        assert await client.receive_rest() == b""
    counts = proxy.counts()
    assert counts.bytes_to_server == counts.bytes_to_client == len(data) == echo.received_bytes
    assert (counts.connections_total, counts.dropped_to_server, counts.dropped_to_client) == (
        1,
        0,
        0,
    )
    await until(
        lambda: proxy.counts().connections_open == 0, within_s=WITHIN_S, what="it is closed"
    )


@pytest.mark.parametrize("direction", list(Direction))
async def test_latency_delays_one_direction(proxy: FaultProxy, direction: Direction) -> None:
    async with connected(proxy) as client:
        assert await client.echo_s(b"warm") < LATE_S
        proxy.set(direction, latency_ms=120)
        assert 0.12 <= await client.echo_s(b"late") < 0.12 + LATE_S


async def test_latency_of_both_directions_adds_up(proxy: FaultProxy) -> None:
    proxy.set(latency_ms=80)
    async with connected(proxy) as client:
        assert 0.16 <= await client.echo_s(b"late") < 0.16 + LATE_S


async def test_latency_is_changed_while_a_connection_is_open(proxy: FaultProxy) -> None:
    proxy.set(latency_ms=150)
    async with connected(proxy) as client:
        assert await client.echo_s(b"late") >= 0.3
        proxy.set()
        best = min([await client.echo_s(b"soon") for _ in range(5)])
        assert best < 0.15


async def test_latency_delays_but_does_not_throttle(proxy: FaultProxy) -> None:
    """Pieces are late side by side: ten times 100 ms one after the other would be a second."""
    proxy.set(Direction.TO_SERVER, latency_ms=100)
    async with connected(proxy) as client:
        taken_s = await client.echo_s(b"x" * 655_360)
        assert 0.1 <= taken_s < 0.9


async def test_jitter_spreads_round_trips_and_keeps_the_order(proxy: FaultProxy) -> None:
    proxy.set(Direction.TO_SERVER, latency_ms=30, jitter_ms=25)
    async with connected(proxy) as client:
        round_trips_s = [await client.echo_s(b"%04d" % number) for number in range(30)]
        assert min(round_trips_s) >= 0.005
        assert max(round_trips_s) - min(round_trips_s) > 0.015
        pieces = [b"%06d" % number for number in range(200)]
        sending = asyncio.create_task(send_one_by_one(client, pieces))
        assert await client.receive(1200) == b"".join(pieces)
        await sending


async def send_one_by_one(client: Client, pieces: list[bytes]) -> None:
    for piece in pieces:
        await client.send(piece)
        await asyncio.sleep(0)


async def test_the_same_seed_gives_the_same_jitter() -> None:
    def delays(seed: int) -> list[float]:
        dice = random.Random(seed)
        return [Toxics(latency_ms=50, jitter_ms=20).delay_s(dice) for _ in range(100)]

    assert delays(4) == delays(4) != delays(5)
    assert 0.03 <= min(delays(4)) < 0.035
    assert 0.065 < max(delays(4)) <= 0.07


async def test_bandwidth_limits_one_direction(proxy: FaultProxy) -> None:
    proxy.set(Direction.TO_CLIENT, rate_bytes_s=400_000)
    async with connected(proxy) as client:
        assert 0.5 <= await client.echo_s(b"x" * 200_000) < 0.5 + LATE_S


async def test_a_limit_that_is_lifted_ends_the_wait(proxy: FaultProxy) -> None:
    proxy.set(Direction.TO_CLIENT, rate_bytes_s=1000)
    async with connected(proxy) as client:
        await client.send(b"x" * 100_000)
        await client.receive(20)
        proxy.set()
        lifted_at = time.monotonic()
        await client.receive(99_980)
        assert time.monotonic() - lifted_at < 2.0  # 100 s at the old rate


@pytest.mark.parametrize("after_bytes", [1, 1000, 70_000])
async def test_a_cut_lets_exactly_so_many_bytes_pass(proxy: FaultProxy, after_bytes: int) -> None:
    proxy.set(Direction.TO_CLIENT, cut_after_bytes=after_bytes)
    async with connected(proxy) as client:
        data = random.Random(2).randbytes(100_000)
        await client.send(data)
        assert await client.receive_rest() == data[:after_bytes]
    assert proxy.counts().bytes_to_client == after_bytes


async def test_a_cut_towards_the_server_ends_both_sides(proxy: FaultProxy, echo: Echo) -> None:
    proxy.set(Direction.TO_SERVER, cut_after_bytes=10)
    async with connected(proxy) as client:
        await client.send(b"x" * 50)
        await client.receive_rest()
        await until(lambda: echo.received_bytes == 10, within_s=WITHIN_S, what="ten bytes came")
    assert echo.reset_connections == 0


class Counting(asyncio.Protocol):
    """A client that sends and counts: a stream's reader would hide what came before a reset."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received_bytes = 0
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self.data)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


@pytest.mark.parametrize("after_bytes", [0, 500, 3_000_000])
async def test_a_reset_comes_after_exactly_so_many_bytes(
    proxy: FaultProxy, after_bytes: int
) -> None:
    proxy.set(Direction.TO_CLIENT, reset_after_bytes=after_bytes)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: Counting(b"x" * (after_bytes + 1000)), proxy.host, proxy.port
    )
    async with asyncio.timeout(WITHIN_S):
        assert isinstance(await client.ended, ConnectionResetError)
    assert client.received_bytes == after_bytes == proxy.counts().bytes_to_client


async def test_open_connections_can_be_reset_at_once(proxy: FaultProxy, echo: Echo) -> None:
    async with connected(proxy) as first, connected(proxy) as second:
        for client in (first, second):
            await client.echo_s(b"open")
        proxy.reset_all()
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                await client.receive(1)
    await until(lambda: echo.reset_connections == 2, within_s=WITHIN_S, what="the server knows")


async def test_a_reset_by_the_client_reaches_the_server(proxy: FaultProxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.echo_s(b"open")
        reset(client.writer)
    await until(lambda: echo.reset_connections == 1, within_s=WITHIN_S, what="the server knows")


async def test_new_connections_can_be_reset(proxy: FaultProxy, echo: Echo) -> None:
    await proxy.accept(Accept.RESET)
    async with connected(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.receive(1)
    assert echo.connections == 0


async def test_nobody_listens_and_then_somebody_does_again(proxy: FaultProxy) -> None:
    await proxy.accept(Accept.REFUSE)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, proxy.port)
    await proxy.accept(Accept.FORWARD)
    async with connected(proxy) as client:
        await client.echo_s(b"back")


async def test_half_open_accepts_swallows_and_tells_nobody(proxy: FaultProxy, echo: Echo) -> None:
    await proxy.accept(Accept.HALF_OPEN)
    async with connected(proxy) as client:
        await client.send(b"x" * 5000)
        await until(
            lambda: proxy.counts().dropped_to_server == 5000, within_s=WITHIN_S, what="swallowed"
        )
        assert await client.hears_nothing()
    assert echo.connections == 0
    await proxy.accept(Accept.FORWARD)
    async with connected(proxy) as client:
        await client.echo_s(b"back")


async def test_one_direction_is_dropped_and_the_other_goes_on(
    proxy: FaultProxy, echo: Echo
) -> None:
    proxy.set(Direction.TO_CLIENT, drop=True)
    async with connected(proxy) as client:
        await client.send(b"lost answer")
        await until(lambda: echo.received_bytes == 11, within_s=WITHIN_S, what="the server heard")
        assert await client.hears_nothing()
        assert proxy.counts().dropped_to_client == 11
        proxy.set()
        await client.echo_s(b"heard again")
    assert echo.received_bytes == 22


async def test_a_dropped_request_never_reaches_the_server(proxy: FaultProxy, echo: Echo) -> None:
    proxy.set(Direction.TO_SERVER, drop=True)
    async with connected(proxy) as client:
        await client.send(b"lost request")
        assert await client.hears_nothing()
    assert (echo.connections, echo.received_bytes) == (1, 0)


async def test_slices_come_one_by_one_and_complete(proxy: FaultProxy) -> None:
    proxy.set(Direction.TO_CLIENT, slice_bytes=7, slice_delay_ms=3)
    data = random.Random(3).randbytes(700)
    async with connected(proxy) as client:
        started_at = time.monotonic()
        await client.send(data)
        parts: list[bytes] = []
        while sum(map(len, parts)) < len(data):
            async with asyncio.timeout(WITHIN_S):
                parts.append(await client.reader.read(65_536))
        taken_s = time.monotonic() - started_at
    assert b"".join(parts) == data
    assert len(parts) >= 50  # 100 slices; a busy reader may find two at once
    assert 0.3 <= taken_s < 0.3 + LATE_S


async def test_all_faults_together_still_lose_and_double_nothing(proxy: FaultProxy) -> None:
    proxy.set(latency_ms=5, jitter_ms=5, rate_bytes_s=2_000_000, slice_bytes=1000)
    data = random.Random(4).randbytes(500_000)
    async with connected(proxy) as client:
        sending = asyncio.create_task(client.send(data))
        answer = await client.receive(len(data))
        await sending
        client.writer.write_eof()
        assert await client.receive_rest() == b""
    assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()


async def test_a_receiver_that_does_not_read_stops_its_sender(
    proxy: FaultProxy, echo: Echo
) -> None:
    echo.reading.clear()
    size_bytes = 64_000_000  # far above what socket buffers and the proxy take together
    async with connected(proxy) as client:
        sending = asyncio.create_task(client.send(b"x" * size_bytes))
        held = await bytes_when_still(proxy)
        assert not sending.done()
        assert held < size_bytes / 2
        assert proxy.counts().in_flight_bytes < 2_000_000
        echo.reading.set()
        assert len(await client.receive(size_bytes)) == size_bytes
        await sending


async def bytes_when_still(proxy: FaultProxy) -> int:
    """Wait until the proxy has passed something and then nothing for a while."""
    seen, since = 0, time.monotonic()

    def is_still() -> bool:
        nonlocal seen, since
        passed = proxy.counts().bytes_to_server
        if passed != seen:
            seen, since = passed, time.monotonic()
        return seen > 0 and time.monotonic() - since > SILENCE_S

    await until(is_still, within_s=WITHIN_S, what="the sender stands still")
    return seen


async def test_the_end_of_one_direction_leaves_the_other_open(
    proxy: FaultProxy, echo: Echo
) -> None:
    proxy.set(Direction.TO_CLIENT, latency_ms=100)
    async with connected(proxy) as client:
        await client.send(b"last words")
        client.writer.write_eof()
        assert await client.receive_rest() == b"last words"


async def test_a_server_that_is_away_resets_the_client() -> None:
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port: int = listener.sockets[0].getsockname()[1]
    listener.close()
    async with FaultProxy("127.0.0.1", port) as proxy, connected(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.receive(1)


@pytest.mark.parametrize(
    "values",
    [
        {"latency_ms": -1},
        {"rate_bytes_s": 0},
        {"slice_bytes": 0},
        {"cut_after_bytes": -1},
        {"x": 1},
    ],
)
async def test_a_toxic_that_can_not_be_is_refused(
    proxy: FaultProxy, values: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        proxy.set(**values)


async def test_the_command_line_is_the_same_proxy_and_changes_live(echo: Echo) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.proxy", "--to", f"127.0.0.1:{echo.port}"),
        *("--direction", "to_client", "--latency-ms", "100"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def said() -> dict[str, object]:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            answer: dict[str, object] = json.loads(await process.stdout.readline())
        return answer

    try:
        port = int(str((await said())["listening"]).rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = Client(reader, writer)
        assert await client.echo_s(b"late") >= 0.1
        process.stdin.write(b'{"set": {"drop": true}, "direction": "to_client"}\n')
        assert (await said())["connections_open"] == 1
        await client.send(b"lost")
        assert await client.hears_nothing()
        process.stdin.write(b'{"set": {"colour": 1}}\n')
        assert "colour" in str((await said())["error"])
        writer.close()
    finally:
        process.terminate()
        assert await process.wait() == 0
