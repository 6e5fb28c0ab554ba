"""An open loop of ready requests: each is sent when it is due, whether or not others are answered.

python -m loadtests.offered --url URL --requests FILE --rate 200 --seconds 5 [--close] prints JSON.
FILE has one ready request an entry, as loadtests.posts writes it; they are sent in turn. Latency
runs from the moment at which a request was due: who waits for a connection waits for an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from loadtests.pace import Pace
from loadtests.posts import BETWEEN

TIMEOUT_S: Final = 10.0  # an answer that takes longer is none
LEAST: Final = 20  # answers of which percentiles are told


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of what was offered. answers: by status, or by the name of what went wrong;
    p50_ms, p99_ms: of those that were good; 0.0 of too few."""

    offered: int
    seconds: float
    answers: dict[str, int]
    good: int
    p50_ms: float
    p99_ms: float


class Crowd:
    """Sends requests to one server at a rate, on connections that stay or on one for each."""

    def __init__(self, url: str, requests: list[bytes], *, close: bool) -> None:
        place = urlsplit(url)
        self._address = (place.hostname or "", place.port or 80)
        self._requests = cycle(requests)
        self._close = close
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._took_s: list[float] = []
        self._answers: Counter[str] = Counter()

    async def run(self, rate: float, seconds: float) -> Offered:
        pace, count = Pace(), round(rate * seconds)
        began_at = time.monotonic()
        try:
            async with asyncio.TaskGroup() as sent:
                for number in range(count):
                    due_at = began_at + number / rate
                    await pace.until(due_at)
                    sent.create_task(self._send(next(self._requests), due_at))
        finally:
            pace.close()
            for _, writer in self._idle:
                writer.close()
        took_s, known = sorted(self._took_s), len(self._took_s) >= LEAST
        return Offered(
            offered=count,
            seconds=time.monotonic() - began_at,
            answers=dict(self._answers),
            good=len(took_s),
            p50_ms=1000 * took_s[len(took_s) // 2] if known else 0.0,
            p99_ms=1000 * took_s[len(took_s) * 99 // 100] if known else 0.0,
        )

    async def _send(self, request: bytes, due_at: float) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = await self._answer(request)
        except (OSError, TimeoutError, EOFError, ValueError) as error:
            self._answers[type(error).__name__] += 1
            return
        self._answers[str(status)] += 1
        if 200 <= status < 300:
            self._took_s.append(time.monotonic() - due_at)

    async def _answer(self, request: bytes) -> int:
        """The status of a whole answer."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().partition(b": ")[::2] for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(fields.get(b"content-length", b"0")))
        except BaseException:
            writer.close()
            raise
        if self._close or fields.get(b"connection") == b"close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.offered")
    add = parser.add_argument
    add("--url", required=True)
    add("--requests", type=Path, required=True)
    add("--rate", type=float, required=True, help="requests a second")
    add("--seconds", type=float, default=3.0)
    add("--close", action="store_true", help="a new connection for each request")
    options = parser.parse_args()
    crowd = Crowd(options.url, options.requests.read_bytes().split(BETWEEN), close=options.close)
    print(json.dumps(asdict(asyncio.run(crowd.run(options.rate, options.seconds)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
