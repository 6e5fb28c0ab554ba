"""The tag stream as it is told: from the outbox relay to everybody who holds pages."""

from __future__ import annotations

import time
from typing import Final

import msgspec
from redis.asyncio import Redis

from services.tags import CHANNEL, TagMessage

WAKE_CHANNEL: Final = "tercet:outbox-wake"
POSITION_KEY: Final = "tercet:tag:"
POSITION_TTL_S: Final = 3600  # longer than anything cached lives

# Two relays may tell the same tag, the slower one with the older position.
RAISE_POSITIONS: Final = """
for _, key in ipairs(KEYS) do
    local held = tonumber(redis.call('GET', key))
    if not held or held < tonumber(ARGV[1]) then
        redis.call('SET', key, ARGV[1], 'EX', ARGV[2])
    end
end
"""

_encode = msgspec.json.Encoder().encode


class TagPublisher:
    """One relay's end of the stream."""

    def __init__(self, valkey: Redis, relay: str) -> None:
        self._valkey = valkey
        self._relay = relay
        self._sequence = 0
        self.spoke_at = float("-inf")  # monotonic

    async def publish(self, tags: list[str], position: int) -> None:
        """Send tags, or none as a heartbeat; raises what redis raises, and may be called again.

        The position of each tag is stored before the message is sent: a process that starts later
        still knows which cached values are older than the change.
        """
        message = TagMessage(self._relay, self._sequence + 1, position, tags)
        async with self._valkey.pipeline(transaction=False) as pipeline:
            if tags:
                keys = [POSITION_KEY + tag for tag in tags]
                pipeline.eval(RAISE_POSITIONS, len(keys), *keys, position, POSITION_TTL_S)
            pipeline.publish(CHANNEL, _encode(message))
            await pipeline.execute()
        self._sequence += 1
        self.spoke_at = time.monotonic()
