"""Batches of behaviour events, ready to be sent, and the closed loop that sends them in turn.

python -m loadtests.event_posts --url URL --connections 32 --seconds 3 --batch 50 prints JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from loadtests.closed import Loop
from loadtests.posts import post_bytes

ACCEPTED: Final = b"HTTP/1.1 202 "
BATCHES: Final = 400  # sent in turn: enough that no cache of anybody's knows them by heart
VISITORS: Final = 100
# Of a hundred events, as a shop has them.
MIX: Final = (
    *["view"] * 80,
    *["search"] * 8,
    *["add_to_cart"] * 8,
    *["checkout"] * 2,
    *["purchase"] * 2,
)


def event(kind: str, slugs: Sequence[str], number: UUID | None = None) -> dict[str, Any]:
    """One of them, as a client writes it."""
    made: dict[str, Any] = {
        "id": str(number or uuid4()),
        "type": kind,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    if kind in ("view", "add_to_cart"):
        made["product"] = random.choice(slugs)
    elif kind == "search":
        made |= {"query": f"lamp {random.randrange(200)}", "results": random.randrange(3)}
    return made


def batch(size: int, slugs: Sequence[str]) -> list[dict[str, Any]]:
    return [event(random.choice(MIX), slugs) for _ in range(size)]


def request_of(host: str, events: Sequence[dict[str, Any]], visitor: int = 0) -> bytes:
    """The request that sends them, of one of many visitors."""
    token = f"{visitor % VISITORS:043d}"
    body = json.dumps({"events": list(events)}, separators=(",", ":")).encode()
    return post_bytes(host, "/events", body, [f"Cookie: tercet_customer={token}"], close=False)


def requests(host: str, size: int, slugs: Sequence[str]) -> Iterator[bytes]:
    for visitor in range(BATCHES):
        yield request_of(host, batch(size, slugs), visitor)


class EventPosts(Loop):
    """Sends batches in turn, and takes 202 alone for an answer."""

    def __init__(self, url: str, connections: int, size: int, slugs: Sequence[str]) -> None:
        super().__init__(url, connections, close=False, good=ACCEPTED)
        made = list(requests(urlsplit(url).netloc, size, slugs))
        self._next_request = cycle(made).__next__


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.event_posts")
    add = parser.add_argument
    add("--url", required=True)
    add("--connections", type=int, default=32)
    add("--seconds", type=float, default=3.0)
    add("--batch", type=int, default=50, help="events of each")
    add("--products", default="a-lamp,a-chair,a-table", help="slugs that are looked at")
    options = parser.parse_args()
    slugs = options.products.split(",")
    loop = EventPosts(options.url, options.connections, options.batch, slugs)
    print(json.dumps(asdict(loop.run(options.seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
