"""What is listened to in one process, and by which clients."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from services.access.live_history import Message
from services.live_stream import START, Position
from services.problems import Overloaded

if TYPE_CHECKING:
    from services.access.claims import Claim
    from services.access.identity import Identity
    from services.access.protocol import AccessProtocol

LINGER_S: Final = 30.0  # a topic is kept for who comes back: three times the longest retry
TOPICS_LIMIT: Final = 20_000  # of a process; what the worker reads at each change
KEYS_LIMIT: Final = 20  # states of one topic: a customer's last orders


class Topic:
    """Something that is listened to, with what is known of it since it is."""

    __slots__ = ("idle_at", "latest", "name", "streams")

    def __init__(self, name: str) -> None:
        self.name = name
        self.streams: set[Stream] = set()
        self.latest: dict[str, Message] = {}
        self.idle_at = time.monotonic()

    def learn(self, message: Message) -> None:
        self.latest.pop(message.key, None)  # so that the newest comes last
        self.latest[message.key] = message
        if len(self.latest) > KEYS_LIMIT:
            del self.latest[next(iter(self.latest))]

    def leave(self, stream: Stream) -> None:
        self.streams.discard(stream)
        if not self.streams:
            self.idle_at = time.monotonic()


class Stream:
    """One client that listens.

    since: it was given what there was up to this position. claim, identity: whose it is, where
    that matters. waits: its Last-Event-ID, while there is no history to look it up in. raised: its
    transport may hold more than others, of what it was given at the beginning.
    """

    __slots__ = (
        *("address", "claim", "connection", "identity", "raised", "shard", "since", "topics"),
        "waits",
    )

    def __init__(
        self, connection: AccessProtocol, address: str, topics: tuple[Topic, ...], shard: int
    ) -> None:
        self.connection: AccessProtocol | None = connection  # None: it has ended
        self.address = address
        self.topics = topics
        self.shard = shard
        self.since: Position = START
        self.claim: Claim | None = None
        self.identity: Identity | None = None
        self.raised = False
        self.waits: bytes | None = None

    def write(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.transport.write(data)


class Topics:
    """All topics of a process by name."""

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def names(self) -> list[str]:
        return list(self._topics)

    def get(self, name: str) -> Topic | None:
        return self._topics.get(name)

    def join(self, names: Sequence[str]) -> tuple[tuple[Topic, ...], list[str]]:
        """The topics of these names, and the names of those that nobody had listened to.

        Raises Overloaded where that would be too many.
        """
        new = [name for name in names if name not in self._topics]
        if len(self._topics) + len(new) > TOPICS_LIMIT:
            raise Overloaded("Too much is listened to already.", retry_after_s=10)
        for name in new:
            self._topics[name] = Topic(name)
        return tuple([self._topics[name] for name in names]), new

    def audience(self, name: str) -> Collection[Stream]:
        found = self._topics.get(name)
        return found.streams if found is not None else ()

    def forget_states(self) -> None:
        for topic in self._topics.values():
            topic.latest.clear()

    def forget_idle(self) -> None:
        """Drop what nobody has listened to for a while."""
        before = time.monotonic() - LINGER_S
        gone = [
            name for name, one in self._topics.items() if not one.streams and one.idle_at < before
        ]
        for name in gone:
            del self._topics[name]
