"""The closed loop: each connection sends its next request when it has the answer to the last one.

For measuring what a server can do at most, where wrk is not installed. It is as fast as plain
Python gets: one process, one epoll, ready bytes, no object a request. Like every closed loop it
stops asking while a server stands still, so its percentiles flatter (loadtests.generator does not).

python -m loadtests.closed --url URL --connections 360 --seconds 3 [--close [--silently]] prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hdrh.histogram import HdrHistogram

from loadtests.answers import GOOD, Answers, request_bytes
from loadtests.recorder import HIGHEST_US, SIGNIFICANT_DIGITS
from loadtests.story import Distribution

BUFFER_BYTES: Final = 256 * 1024  # an answer beyond it comes in parts
POLL_S: Final = 0.05  # how late the end of a run may be noticed when nothing is answered
FAILURES_ALLOWED: Final = 1_000  # after which a server is taken for dead


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the loop saw. Latency runs from connect() or sending to the whole answer."""

    answers: int
    seconds: float
    errors: dict[str, int]
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    percentiles: list[tuple[float, float]]  # as loadtests.story.Distribution has them
    received_bytes: int  # of whole answers: heads and bodies
    connections_made: int
    connect_mean_ms: float  # from connect() to established
    connect_p99_ms: float
    own_cpu_share: float  # near 1: this loop was the limit, not the server


class Loop:
    """One run against one address."""

    def __init__(
        self,
        url: str,
        connections: int,
        *,
        close: bool,
        say_close: bool = True,
        targets: Sequence[str] = (),
        lines: Sequence[str] = (),
        good: bytes = GOOD,
        failures_allowed: int = FAILURES_ALLOWED,
    ) -> None:
        """say_close: with short connections, tell the server to close, too. Else this side does
        alone; targets: asked for in turn instead of the path of url; lines: of each request's head;
        good: how an answer begins that counts."""
        place = urlsplit(url)
        self._address = (place.hostname or "", place.port or 80)
        self._next_request = cycle(
            request_bytes(place.netloc, target, close=close and say_close, lines=lines)
            for target in targets or (place.path or "/",)
        ).__next__
        self._close = close
        self._failures_allowed = failures_allowed
        self._connections = connections
        self._poller = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._receive: dict[int, Callable[[bytearray], int]] = {}
        self._send: dict[int, Callable[[bytes], int]] = {}
        self._sent_at: dict[int, int] = {}
        self._waiting: set[int] = set()  # not established yet
        self._answers = Answers(good)
        self._buffer = bytearray(BUFFER_BYTES)
        self._latency_ns: list[int] = []
        self._connect_ns: list[int] = []
        self._received_bytes = 0
        self.errors: Counter[str] = Counter()

    def run(self, seconds: float) -> Outcome:
        """Load the server for that long; every connection is closed at the end."""
        cpu_before_s, began_at = time.process_time(), time.perf_counter()
        try:
            for _ in range(self._connections):
                self._open()
            (self._turn_short if self._close else self._turn_kept)(began_at + seconds)
        finally:
            for connection in self._sockets.values():
                connection.close()
            self._poller.close()
        took_s = time.perf_counter() - began_at
        share = (time.process_time() - cpu_before_s) / took_s
        latencies, connects = _histogram(self._latency_ns), _histogram(self._connect_ns)
        p50_ms, p90_ms, p99_ms, p999_ms, max_ms = _percentiles_ms(latencies, 50, 90, 99, 99.9, 100)
        return Outcome(
            answers=len(self._latency_ns),
            seconds=took_s,
            errors=dict(self.errors),
            mean_ms=_mean_ms(self._latency_ns),
            p50_ms=p50_ms,
            p90_ms=p90_ms,
            p99_ms=p99_ms,
            p999_ms=p999_ms,
            max_ms=max_ms,
            percentiles=list(Distribution.of("", latencies).percentiles),
            received_bytes=self._received_bytes,
            connections_made=len(self._connect_ns),
            connect_mean_ms=_mean_ms(self._connect_ns),
            connect_p99_ms=_percentiles_ms(connects, 99)[0],
            own_cpu_share=share,
        )

    def _turn_kept(self, until: float) -> None:
        """Answer and ask again, on connections that stay. The one hot loop: no calls of ours."""
        poll, clock = self._poller.poll, time.perf_counter_ns
        receive, send, sent_at = self._receive, self._send, self._sent_at
        buffer, next_request, answers = self._buffer, self._next_request, self._answers
        record, until_ns = self._latency_ns.append, int(until * 1e9)
        whole, received, good, waiting = 0, 0, answers.good, self._waiting
        while (now := clock()) < until_ns:
            for number, _ in poll(POLL_S):
                try:
                    if number in waiting:
                        self._established(number)
                        continue
                    size = receive[number](buffer)
                    # The size of the answer before: only its Age or Date may have changed.
                    if size != whole or not buffer.startswith(good):
                        if not answers.complete(number, buffer, size):
                            continue
                        whole = answers.size
                    received += whole
                    now = clock()
                    record(now - sent_at[number])
                    sent_at[number] = now
                    send[number](next_request())
                except (OSError, ValueError) as error:
                    self._failed(number, error)
        self._received_bytes = received

    def _turn_short(self, until: float) -> None:
        """Answer, close, connect anew."""
        poll, clock = self._poller.poll, time.perf_counter_ns
        buffer, answers, until_ns = self._buffer, self._answers, int(until * 1e9)
        while clock() < until_ns:
            for number, _ in poll(POLL_S):
                try:
                    if number in self._waiting:
                        self._established(number)
                        continue
                    size = self._receive[number](buffer)
                    if answers.complete(number, buffer, size):
                        self._latency_ns.append(clock() - self._sent_at[number])
                        self._received_bytes += answers.size
                        self._sockets.pop(number).close()
                        self._open()
                except (OSError, ValueError) as error:
                    self._failed(number, error)

    def _open(self) -> None:
        connection = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
        number = connection.fileno()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[number] = connection
        self._receive[number], self._send[number] = connection.recv_into, connection.send
        self._answers.forget(number)
        self._sent_at[number] = time.perf_counter_ns()
        connection.connect_ex(self._address)
        self._waiting.add(number)
        self._poller.register(number, select.EPOLLOUT)

    def _established(self, number: int) -> None:
        self._waiting.discard(number)
        connection = self._sockets[number]
        failure = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            raise OSError(failure, "connect")
        now = time.perf_counter_ns()
        self._connect_ns.append(now - self._sent_at[number])
        if not self._close:  # else what the client waits for begins with connect()
            self._sent_at[number] = now
        self._poller.modify(number, select.EPOLLIN)
        connection.send(self._next_request())

    def _failed(self, number: int, error: Exception) -> None:
        """Count it and put another connection in its place."""
        self.errors[str(error) or type(error).__name__] += 1
        if sum(self.errors.values()) > self._failures_allowed:
            raise SystemExit(f"no server to measure: {dict(self.errors)}")
        self._waiting.discard(number)
        self._sockets.pop(number).close()
        self._open()


def _histogram(values_ns: list[int]) -> HdrHistogram:
    """In microseconds."""
    histogram = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
    for value_us, count in Counter(value // 1000 for value in values_ns).items():
        histogram.record_value(min(max(1, value_us), HIGHEST_US), count)
    return histogram


def _percentiles_ms(histogram: HdrHistogram, *percentiles: float) -> list[float]:
    """Zeros of a histogram that is empty."""
    return [histogram.get_value_at_percentile(percent) / 1000 for percent in percentiles]


def _mean_ms(values_ns: list[int]) -> float:
    return sum(values_ns) / len(values_ns) / 1e6 if values_ns else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.closed")
    add = parser.add_argument
    add("--url", required=True)
    add("--connections", type=int, default=360)
    add("--seconds", type=float, default=3.0)
    add("--close", action="store_true", help="a new connection for each request")
    add("--silently", action="store_true", help="with --close: the server is not told, we close")
    add("--failures-allowed", type=int, default=FAILURES_ALLOWED, help="beyond it, the run ends")
    add("--targets", type=Path, help="a file of targets, one a line, to ask for in turn")
    add("--header", action="append", default=[], metavar="NAME: VALUE", help="may be given again")
    options = parser.parse_args()
    loop = Loop(
        options.url,
        options.connections,
        close=options.close,
        say_close=not options.silently,
        targets=options.targets.read_text().splitlines() if options.targets else (),
        lines=options.header,
        failures_allowed=options.failures_allowed,
    )
    print(json.dumps(asdict(loop.run(options.seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
