"""What browsers tell of their users: batches of behaviour events, POST /events."""

from __future__ import annotations

import json
import random
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from loadtests.generator import Asked, Failed, OneRequest, Refused
from loadtests.shop import JSON_HEADERS, Goods, Zipf, status_of
from services.keepalive import Pool, Response

# Of a hundred events of a shop: most are looks at products, and few end in a purchase.
TYPES: Final = ("view", "search", "add_to_cart", "checkout", "purchase")
WEIGHTS: Final = (80, 10, 6, 2, 2)


class Batches(OneRequest):
    """One batch of so many events each time; 202 is what was hoped for, and only that counts.

    Every event has an id of its own: one that comes twice would count once.
    """

    def __init__(
        self, pool: Pool, goods: Goods, *, seed: int, batch: int, exponent: float, own: bytes = b""
    ) -> None:
        self.pool = pool
        self._slugs, self._words = goods.slugs, goods.words or ["shirt"]
        self._zipf = Zipf(len(goods.slugs), seed=seed, exponent=exponent)
        self._dice = random.Random(seed)
        self._batch, self._own = batch, own
        # Runs with the same seed must not send the same ids.
        self._salt = uuid.uuid4().int & ~((1 << 64) - 1)
        self._count = 0

    def ask(self) -> Asked:
        at = datetime.now(UTC).isoformat()
        kinds = self._dice.choices(TYPES, WEIGHTS, k=self._batch)
        body = json.dumps({"events": [self._event(kind, at) for kind in kinds]}).encode()
        return Asked(b"POST", b"/events", [JSON_HEADERS], body, self._own)

    def judge(self, answer: Response) -> None:
        if answer.status in (429, 503):
            raise Refused("to come again")  # docs/events.md: they are the first to be refused
        if answer.status != 202:
            raise Failed(status_of(answer))

    def _event(self, kind: str, at: str) -> dict[str, Any]:
        self._count += 1
        event: dict[str, Any] = {
            "type": kind,
            "id": str(uuid.UUID(int=self._salt | self._count)),
            "at": at,
        }
        if kind in ("view", "add_to_cart"):
            event["product"] = self._slugs[self._zipf.pick()]
        if kind == "search":
            event |= {"query": self._dice.choice(self._words), "results": 3}
        return event
