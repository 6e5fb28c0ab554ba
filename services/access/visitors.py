"""Who a behaviour event comes from: a name that holds for one day and leads back to nobody.

It is a keyed hash of the customer's token or, where a browser has none, of its address and
User-Agent. The key is random, the same for all processes of access, and forgotten with the day,
so that afterwards not even the shop can say whose name it was. None of what goes in is kept.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Final

from redis.asyncio import Redis

from services.access.claims import claim_of
from services.exchange import Headers
from services.problems import Problem

KEY_PREFIX: Final = "tercet:behaviour:key:"
KEY_BYTES: Final = 32
KEY_KEPT_S: Final = 25 * 3600  # its day, and an hour for clocks that differ
NAME_BYTES: Final = 8  # of a million visitors a day two share one with a probability of 3e-8
DAY_MS: Final = 86_400_000


class Visitors:
    """The keys of the days, as they are in the log's Valkey."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey
        self._day = -1
        self._key = b""

    async def key_of(self, arrived_ms: int) -> bytes:
        """The key of the day (UTC) of a moment; raises what Valkey raises."""
        day = arrived_ms // DAY_MS
        if day != self._day:
            name = f"{KEY_PREFIX}{day}"
            made = secrets.token_bytes(KEY_BYTES)
            await self._valkey.set(name, made, nx=True, ex=KEY_KEPT_S)
            found = await self._valkey.get(name)
            self._day, self._key = day, found if isinstance(found, bytes) else made
        return self._key


def name_of(key: bytes, source: bytes) -> bytes:
    """The visitor's name for the day of the key."""
    return blake2b(source, digest_size=NAME_BYTES, key=key).digest()


def source_of(headers: Headers, address: str, session_cookie: bytes) -> bytes:
    """What tells this visitor from others: to be hashed at once, and never kept.

    session_cookie: the name of a session's cookie.
    """
    authorizations = [value for name, value in headers if name == b"authorization"]
    cookies = [value for name, value in headers if name == b"cookie"]
    try:
        token = claim_of(authorizations, cookies, session_cookie).token
    except Problem:  # an odd Authorization is no reason to refuse an event
        token = None
    if token is not None:
        return b"token " + token
    agent = b"".join(value for name, value in headers if name == b"user-agent")
    return b"address %b %b" % (address.encode(), agent)


def is_private(headers: Headers) -> bool:
    """Whether the browser asks not to be tracked (Sec-GPC, or the older DNT)."""
    return any(name in (b"sec-gpc", b"dnt") and value == b"1" for name, value in headers)
