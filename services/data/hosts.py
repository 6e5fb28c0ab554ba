"""The hosts that a DSN names, and a connection to the first of them that fits.

asyncpg tries them one after the other within one time limit, so that a host which is silent leaves
none for the next. Here the next one is begun while the silent one is still waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from services.data.link import Link

Open = Callable[[str], Coroutine[Any, Any, Link]]

# A login takes some 10 ms; a host that says nothing for this long may be frozen or cut off.
HEAD_START_S: Final = 0.2


def dsn_of_each(dsn: str) -> list[str]:
    """One DSN for each host of `dsn`, in its order; all else as it was."""
    parts = urlsplit(dsn)
    user, at, places = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{place}")) for place in places.split(",")]


class Hosts:
    """Remembers which host fitted last: it is asked first."""

    def __init__(self, dsn: str) -> None:
        self._dsns = dsn_of_each(dsn)

    async def first(self, open_link: Open) -> Link:
        """The link of the first host whose open_link succeeds; raises what the last of them did."""
        if len(self._dsns) == 1:
            return await open_link(self._dsns[0])
        attempts: dict[asyncio.Task[Link], str] = {}
        try:
            return await self._race(open_link, attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()
                attempt.add_done_callback(_let_go)

    async def _race(self, open_link: Open, attempts: dict[asyncio.Task[Link], str]) -> Link:
        waiting = list(self._dsns)
        failure: Exception | None = None
        while waiting or attempts:
            if waiting:
                dsn = waiting.pop(0)
                attempts[asyncio.create_task(open_link(dsn))] = dsn
            ended, _ = await asyncio.wait(
                attempts,
                timeout=HEAD_START_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in ended:
                dsn = attempts.pop(attempt)
                try:
                    link = attempt.result()
                except Exception as error:
                    failure = error
                else:
                    self._dsns.remove(dsn)
                    self._dsns.insert(0, dsn)
                    for other in ended & attempts.keys():
                        _let_go(other)
                        del attempts[other]
                    return link
        assert failure is not None  # noqa: S101 - a DSN names at least one host
        raise failure


def _let_go(attempt: asyncio.Task[Link]) -> None:
    """End the connection of an attempt that came second, if it made one."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().connection.terminate()
