"""`python -m tests.failures.slow_attack PORT CONNECTIONS`: slow clients on this machine.

Prints `begun` when all are connected; then, when the server has ended them all or after 20 s, how
many seconds the longest one lasted and how many are still open.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import cycle
from typing import Final

WAYS: Final = (
    (b"", b""),
    (b"GET /here HTTP/1.1\r\nHost: a\r\n", b""),
    (b"GET /here HTTP/1.1\r\nHost: a\r\nX: ", b"y"),
)
AT_ONCE: Final = 100  # being connected
GIVE_UP_S: Final = 20.0


class Slow(asyncio.Protocol):
    """One connection; lasted_s once it has been ended."""

    def __init__(self) -> None:
        self.lasted_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.began_at = time.monotonic()

    def eof_received(self) -> None:
        self.lasted_s = time.monotonic() - self.began_at

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lasted_s is None:
            self.lasted_s = time.monotonic() - self.began_at


async def connected(port: int, begin: bytes) -> tuple[asyncio.Transport, Slow]:
    loop = asyncio.get_running_loop()
    transport, slow = await loop.create_connection(Slow, "127.0.0.1", port)
    transport.write(begin)
    return transport, slow


async def attack(port: int, connections: int) -> None:
    ways = [way for way, _ in zip(cycle(WAYS), range(connections), strict=False)]
    slow: list[tuple[asyncio.Transport, Slow]] = []
    for start in range(0, connections, AT_ONCE):
        some = ways[start : start + AT_ONCE]
        slow += await asyncio.gather(*(connected(port, begin) for begin, _ in some))
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    began_at = time.monotonic()
    while time.monotonic() - began_at < GIVE_UP_S:
        await asyncio.sleep(1)  # a byte a second
        if all(one.lasted_s is not None for _, one in slow):
            break
        for (transport, one), (_, dripped) in zip(slow, ways, strict=True):
            if dripped and one.lasted_s is None:
                transport.write(dripped)
    lasted = [one.lasted_s for _, one in slow if one.lasted_s is not None]
    sys.stdout.write(f"{max(lasted, default=0.0):.2f} {len(slow) - len(lasted)}\n")


if __name__ == "__main__":
    asyncio.run(attack(int(sys.argv[1]), int(sys.argv[2])))
