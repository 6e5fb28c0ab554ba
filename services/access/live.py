"""Live streams of one process: who listens to what, and what each is told.

An open stream is an entry in the set of each of its topics and little more: no task, no timer, no
buffer of its own but the transport's, which is bounded. docs/live.md has the rules.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from services.access.buckets import Connections
from services.access.live_fanout import SLICE, FanOut
from services.access.live_history import History, Message, event_id, read_event_id
from services.access.live_owners import Owners
from services.access.live_topics import Stream, Topics
from services.live_stream import Entry, Follower, Position
from services.live_watch import Watcher
from services.problems import Overloaded, TooManyRequests
from services.tasks import end_tasks
from services.telemetry import logger
from services.valkey import close, connect

if TYPE_CHECKING:
    from services.access.edge import Edge
    from services.access.protocol import AccessProtocol

log = logger(__name__)

RESET: Final = b"event: reset\ndata: {}\n\n"
UNKNOWN_ID: Final = b"-"  # as a Last-Event-ID: whatever was missed, it is not known
HEARTBEAT: Final = b":\n\n"
HEARTBEAT_S: Final = 15.0  # below the 30 to 60 s after which proxies end what is silent
TICK_S: Final = 0.25
SHARDS: Final = int(HEARTBEAT_S / TICK_S)  # each tick one of them: 167 writes of 10,000 streams
CHECKED_IN: Final = int(0.5 / TICK_S)  # ticks: who still is who he was, within a second
BUFFER_BYTES: Final = 65_536  # what one client may leave untaken; a state has some 300 bytes
REPLAY_BYTES: Final = 262_144  # who has missed more reads the page again
SOCKET_BUFFER_BYTES: Final = 32_768  # the kernel takes twice that, where it would take megabytes
UNHEARD_MS: Final = 60_000  # a client that vanished is noticed so long after a write
SHED_PART: Final = 10  # each look at a full memory ends so much of the streams
STEP_S: Final = 0.01  # between two steps of a spread-out end
VALKEY_TIMEOUT_S: Final = 5.0  # above the 2 s for which a read waits


class Live:
    """The streams of one process. The counters are for metrics."""

    def __init__(self, edge: Edge) -> None:
        settings = edge.settings
        self.limit = settings.live_limit or edge.connections.limit * 3 // 4
        self.clients = Connections(
            limit=self.limit,
            limit_by_address=settings.live_limit_by_address,
            exempt=edge.unlimited,
        )
        self.history = History()
        self.topics = Topics()
        self.fan_out = FanOut(self.topics.audience)
        self.owners = Owners(edge.forwarder.identities, self._disown, parts=CHECKED_IN)
        self._valkey = connect(settings, timeout_s=VALKEY_TIMEOUT_S)
        self.follower = Follower(self._valkey, self)
        self._watcher = Watcher(self._valkey, self.topics.names)
        self._shards: list[set[Stream]] = [set() for _ in range(SHARDS)]
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self.opened_total = self.resumed_total = self.reset_total = 0
        self.slow_total = self.shed_total = self.disowned_total = 0

    def start(self) -> None:
        """Follow the stream of states from now on; called within the event loop."""
        self._tasks = [
            asyncio.create_task(self.follower.run()),
            asyncio.create_task(self._watcher.run()),
        ]

    async def aclose(self) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        for stream in self._all():
            self._end(stream)
        await end_tasks(*self._tasks)
        await self.owners.aclose()
        await close(self._valkey)

    # Streams that begin

    @property
    def closing(self) -> bool:
        """Whether those that begin now would end at once."""
        return self._closing

    def admit(self, connection: AccessProtocol, address: str, names: Sequence[str]) -> Stream:
        """A stream that listens; raises what there is no room for."""
        clients = self.clients
        full = clients.refused_total
        if not clients.opened(address):
            if clients.refused_total > full:
                raise Overloaded("There are too many streams already.", retry_after_s=10)
            raise TooManyRequests("This address has too many streams.", retry_after_s=10)
        try:
            topics, new = self.topics.join(names)
        except Overloaded:
            clients.closed(address)
            raise
        if new:
            self._watcher.ask(new)
        self.opened_total += 1
        stream = Stream(connection, address, topics, self.opened_total % SHARDS)
        for topic in topics:
            topic.streams.add(stream)
        self._shards[stream.shard].add(stream)
        return stream

    def begin(self, stream: Stream, last_event_id: bytes) -> None:
        """Tell it what there is: its head is written."""
        if stream.connection is not None:
            _bound_socket(stream.connection.transport)
        self._catch_up(stream, last_event_id)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _catch_up(self, stream: Stream, last_event_id: bytes) -> None:
        """Tell it what it has missed, or how everything is now."""
        history = self.history
        if not history.epoch:
            stream.waits = last_event_id
            return
        messages, reset = self._missed(stream, last_event_id)
        parts = [message.data for message in messages]
        if reset:
            self.reset_total += 1
            parts.insert(0, RESET)
        parts.append(b"id: %b\n\n" % event_id(history.epoch, history.last))
        stream.since, stream.waits = history.last, None
        data = b"".join(parts)
        if len(data) > BUFFER_BYTES and stream.connection is not None:
            stream.connection.transport.set_write_buffer_limits(BUFFER_BYTES + len(data))
            stream.raised = True
        stream.write(data)

    def _missed(self, stream: Stream, last_event_id: bytes) -> tuple[list[Message], bool]:
        """What it is to be told, and whether it has missed what is not known here."""
        seen = read_event_id(last_event_id)
        if seen is not None and self.history.reached_by(*seen):
            missed = self.history.since(seen[1], [topic.name for topic in stream.topics])
            if sum(len(message.data) for message in missed) <= REPLAY_BYTES:
                self.resumed_total += 1
                return missed, False
        latest = [message for topic in stream.topics for message in topic.latest.values()]
        latest.sort(key=lambda message: message.position)
        return latest, bool(last_event_id)

    # What the connections say

    def left(self, stream: Stream) -> None:
        """Its client has gone, or is sent away."""
        if stream.connection is None:
            return
        stream.connection = None
        self.clients.closed(stream.address)
        self._shards[stream.shard].discard(stream)
        self.owners.discard(stream)
        for topic in stream.topics:
            topic.leave(stream)

    def too_slow(self, stream: Stream) -> None:
        """Its client leaves more untaken than there is room for."""
        if stream.connection is not None:
            self.slow_total += 1
            self.left(stream)

    # What the follower of the stream says

    def began(self, epoch: str, floor: Position, entries: Sequence[Entry]) -> None:
        """Everybody who listens may have missed something, unless this is the first time."""
        first = not self.history.epoch
        self.history.begin(epoch, floor)
        for entry in entries:
            self.history.add(entry)
        self.fan_out.clear()
        self.topics.forget_states()
        self._watcher.ask(self.topics.names())
        if not first:
            log.warning("live streams begin anew", streams=self.clients.open)
        self._in_slices(self._all(), self._begin_anew)

    def _begin_anew(self, stream: Stream) -> None:
        self._catch_up(stream, UNKNOWN_ID if stream.waits is None else stream.waits)

    def arrived(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            message = self.history.add(entry)
            topic = self.topics.get(entry.topic)
            if message is None or topic is None:
                continue
            topic.learn(message)
            if topic.streams:
                self.fan_out.add(message)

    def found(self) -> None:
        """What is watched may have run out meanwhile."""
        self._watcher.ask(self.topics.names())

    # Time

    def _tick(self) -> None:
        self._turn = turn = (self._turn + 1) % SHARDS
        for stream in list(self._shards[turn]):
            stream.write(HEARTBEAT)
            if stream.raised:
                _lower(stream)
        self.owners.check(turn)
        if turn == 0:
            self.topics.forget_idle()
        self._timer = None
        if self.clients.open or len(self.topics):
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    # The end

    def stop(self, within_s: float) -> None:
        """End all streams, one after another, in that time; who comes now is told to come again."""
        self._closing = True
        self._in_slices(self._all(), self._end, within_s=within_s)

    def shed(self) -> None:
        """Memory is short: end a part of the streams."""
        streams = self._all()
        part = streams[: -(-len(streams) // SHED_PART)]
        self.shed_total += len(part)
        for stream in part:
            self._end(stream)

    def _disown(self, stream: Stream) -> None:
        if stream.connection is not None:
            self.disowned_total += 1
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        connection = stream.connection
        if connection is not None:
            self.left(stream)
            connection.end_stream()

    # Parts of it

    def _in_slices(
        self, streams: list[Stream], do: Callable[[Stream], None], *, within_s: float = 0.0
    ) -> None:
        """Do it for all of them, some in each turn of the loop, or evenly within a time."""
        loop = asyncio.get_running_loop()
        at_once = SLICE
        if within_s:
            at_once = max(1, -(-len(streams) // max(1, int(within_s / STEP_S))))

        def step(at: int) -> None:
            for stream in streams[at : at + at_once]:
                do(stream)
            if at + at_once < len(streams):
                loop.call_later(STEP_S if within_s else 0, step, at + at_once)

        step(0)

    def _all(self) -> list[Stream]:
        return [stream for shard in self._shards for stream in shard]


def _bound_socket(transport: asyncio.Transport) -> None:
    """What the kernel holds for a client that reads slowly, and how long for one that is gone."""
    own = transport.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
    transport.set_write_buffer_limits(BUFFER_BYTES)


def _lower(stream: Stream) -> None:
    """Its beginning is taken: from now on it has the room that all have."""
    if stream.connection is not None:
        transport = stream.connection.transport
        if transport.get_write_buffer_size() <= BUFFER_BYTES:
            transport.set_write_buffer_limits(BUFFER_BYTES)
            stream.raised = False
