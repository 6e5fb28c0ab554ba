"""Reads by key: those of one kind that wait together are one statement for all their keys.

A read by key costs mostly what is around it: a place in the pool, a round trip, a wakeup of two
processes. Sixty callers who ask for a product each share one of everything, and who ask for the
same one share its row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Final

from services.data.batch import Batcher
from services.data.link import Record

Key = tuple[Hashable, ...]
Fetch = Callable[..., Awaitable[list[Record]]]

# One is under way while the next gathers; more of them would only make them smaller.
LANES: Final = 2
KEYS_MAX: Final = 200  # above that a statement takes longer than the first of them should wait


class ByKey:
    """Reads by key from one server.

    A statement takes an array for each column of the key, and returns those columns first:
    `select slug, … where slug = any($1)`, or a join with `unnest($1, $2)`.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._batchers: dict[str, Batcher[Key, list[Record]]] = {}

    async def find(self, sql: str, *key: Hashable) -> list[Record]:
        """The rows of one key, in the order in which the statement returns them."""
        batcher = self._batchers.get(sql)
        if batcher is None:
            batcher = self._batchers[sql] = self._open(sql)
        return await batcher.call(key)

    async def close(self) -> None:
        for batcher in self._batchers.values():
            await batcher.close()

    def _open(self, sql: str) -> Batcher[Key, list[Record]]:
        async def work(keys: Sequence[Key], _: bool) -> list[list[Record]]:
            return await find_all(self._fetch, sql, keys)

        return Batcher(
            "read", work, lanes=LANES, key_of=lambda key: key, rows_max=KEYS_MAX, effects=False
        )


async def find_all(fetch: Fetch, sql: str, keys: Sequence[Key]) -> list[list[Record]]:
    """The rows of each key, by one statement."""
    found: dict[Any, list[Record]] = {key: [] for key in keys}
    width = len(keys[0])
    if width == 1:
        for row in await fetch(sql, [key[0] for key in keys]):
            found[(row[0],)].append(row)
    else:
        for row in await fetch(sql, *map(list, zip(*keys, strict=True))):
            found[tuple(row[:width])].append(row)
    return [found[key] for key in keys]
