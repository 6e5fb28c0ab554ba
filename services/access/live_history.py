"""What was told to live streams lately, as the bytes they get: for who comes back."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

from services.live_stream import START, STREAM_KEPT, Entry, Position

HISTORY_BYTES: Final = 8 * 2**20  # of data; the rest of a message is some 500 bytes
# A position is of one life of Valkey: digits of that, and the two parts of an entry's id.
EVENT_ID: Final = re.compile(rb"([0-9a-f]{8})-([0-9]{1,19})-([0-9]{1,19})")


class Message:
    """An entry as clients get it; all of them are sent the same bytes."""

    __slots__ = ("data", "key", "position", "topic")

    def __init__(self, epoch: str, entry: Entry) -> None:
        self.position = entry.position
        self.topic = entry.topic
        self.key = entry.key
        self.data = b"id: %b\nevent: %b\ndata: %b\n\n" % (
            event_id(epoch, entry.position),
            entry.event.encode(),
            entry.data,
        )


class History:
    """The last messages of one stream, bounded in number and bytes.

    floor: of what comes after it everything is here. last: the position that was read last.
    """

    def __init__(self, *, messages: int = STREAM_KEPT, size_bytes: int = HISTORY_BYTES) -> None:
        self.epoch = ""
        self.floor = self.last = START
        self.size_bytes = 0
        self._messages_limit = messages
        self._bytes_limit = size_bytes
        self._messages: deque[Message] = deque()
        self._by_topic: dict[str, deque[Message]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def begin(self, epoch: str, floor: Position) -> None:
        """Forget everything; nothing before `floor` is known of this stream."""
        self.epoch = epoch
        self.floor = self.last = floor
        self.size_bytes = 0
        self._messages.clear()
        self._by_topic.clear()

    def add(self, entry: Entry) -> Message | None:
        """The message of an entry; None of one that could not be read."""
        self.last = entry.position
        if not entry.topic:
            return None
        message = Message(self.epoch, entry)
        self._messages.append(message)
        of_topic = self._by_topic.get(entry.topic)
        if of_topic is None:
            of_topic = self._by_topic[entry.topic] = deque()
        of_topic.append(message)
        self.size_bytes += len(message.data)
        while len(self._messages) > self._messages_limit or self.size_bytes > self._bytes_limit:
            self._drop_oldest()
        return message

    def reached_by(self, epoch: str, position: Position) -> bool:
        """Whether all that came after a position is here."""
        return epoch == self.epoch and self.floor <= position <= self.last

    def since(self, position: Position, topics: Iterable[str]) -> list[Message]:
        """Messages of these topics after a position, in order."""
        found: list[Message] = []
        for topic in topics:
            for message in reversed(self._by_topic.get(topic, ())):
                if message.position <= position:
                    break
                found.append(message)
        found.sort(key=lambda message: message.position)
        return found

    def _drop_oldest(self) -> None:
        oldest = self._messages.popleft()
        self.floor = oldest.position
        self.size_bytes -= len(oldest.data)
        of_topic = self._by_topic[oldest.topic]
        of_topic.popleft()
        if not of_topic:
            del self._by_topic[oldest.topic]


def event_id(epoch: str, position: Position) -> bytes:
    """What a client is told as the id of an event."""
    return b"%b-%d-%d" % (epoch.encode(), *position)


def read_event_id(text: bytes) -> tuple[str, Position] | None:
    """None for what is no id of ours."""
    match = EVENT_ID.fullmatch(text)
    if match is None:
        return None
    return match[1].decode(), (int(match[2]), int(match[3]))
