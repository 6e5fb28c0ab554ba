"""POST /events: behaviour events are checked, put into the log and acknowledged, all in access.

Batches that come while the log is being written to are gathered and go in together next: one
append is under way at a time, each batch is an entry of its own, and what is answered 202 is on
the log's disk. It is the least of all traffic: whatever else has to wait is a reason to refuse it.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from services.access.admission import Admission
from services.access.allowances import Allowances
from services.access.claims import session_cookie
from services.access.client_address import Networks, client_of
from services.access.cross_site import Sites
from services.access.memory import Memory
from services.access.passage import Passage
from services.access.routes import Route
from services.access.tracing import names_of
from services.access.visitors import Visitors, is_private, name_of, source_of
from services.event_log import Entry, LogFull, NotAppended, ValkeyEventLog
from services.events import read_body, write_events
from services.exchange import Headers
from services.histogram import Histogram
from services.problems import (
    FieldError,
    InternalError,
    InvalidBody,
    InvalidJson,
    MethodNotAllowed,
    Overloaded,
    Problem,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
)
from services.settings import AccessSettings
from services.tasks import end_tasks
from services.telemetry import logger
from services.valkey import LOST, close, connect_events

if TYPE_CHECKING:
    from services.access.protocol import AccessProtocol

log = logger(__name__)

# sendBeacon sends a string as text/plain: any other type would need CORS from another origin.
MEDIA_TYPES: Final = (b"application/json", b"text/plain")
TIMEOUT_S: Final = 1.0  # an append takes the milliseconds of an fsync
AWAY_S: Final = 0.5  # after a failure: who comes meanwhile is refused at once
APPEND_BYTES: Final = 1_048_576  # in one transaction, which Valkey does in a few milliseconds
BATCH_COST_BYTES: Final = 512  # of a batch that waits, beside its events
# Above this part of its memory the log takes no more from clients: what the shop itself has to
# tell must find room, however much they send.
FULL: Final = 0.8
LOOK_S: Final = 1.0  # between two looks at how full it is, or sooner after
LOOK_BYTES: Final = 1_048_576
FULL_RETRY_S: Final = 10
WHERE: Final = re.compile(r" - at `\$(.*)`$")
ACCEPTED: Final = b'{"accepted":%d}'
LINES: Final = (
    b"content-type: application/json\r\ncache-control: no-store\r\ncontent-length: %d\r\n"
)
NOTHING: Final = b"cache-control: no-store\r\n"


class Waiting(NamedTuple):
    """A batch on its way into the log. source: of which the visitor's name is made."""

    passage: Passage
    connection: AccessProtocol
    arrived_ms: int
    source: bytes
    number: int
    events: bytes


class Beacons:
    """What one process takes; the counters are for metrics."""

    def __init__(
        self,
        settings: AccessSettings,
        admission: Admission,
        allowances: Allowances,
        proxies: Networks,
        memory: Memory,
    ) -> None:
        self.accepted_total = self.batches_total = self.appends_total = self.private_total = 0
        # yielded: other traffic waits; rate: of the address; buffer, log: no room; away: no log.
        self.refused = {"yielded": 0, "rate": 0, "buffer": 0, "log": 0, "away": 0, "invalid": 0}
        self.took = Histogram()  # appends
        self.buffered_bytes = self._unseen_bytes = 0
        self._limit_bytes = settings.events_buffer_bytes
        self._gates = tuple(set(admission.gates.values()))
        self._allowances = allowances
        self._proxies = proxies
        self._session_cookie = session_cookie(secure=settings.cookie_secure)
        self._memory = memory
        self._sites = Sites(settings.origins)
        self._valkey = connect_events(settings, timeout_s=TIMEOUT_S)
        if self._valkey is not None:
            self._log, self._visitors = ValkeyEventLog(self._valkey), Visitors(self._valkey)
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._away_until = self._full_until = self._looked_at = 0.0

    def start(self, passage: Passage, connection: AccessProtocol) -> None:
        """Answer a request to POST /events, now or once its events are in the log."""
        passage.route = Route.BEACON
        passage.request_id = names_of(passage.headers)[0]
        try:
            if passage.method != b"POST":
                raise MethodNotAllowed(headers={"allow": "POST"})
            if is_private(passage.headers):
                self.private_total += 1
                connection.send(passage, 204, NOTHING, b"", time.monotonic())
            else:
                self._take(passage, connection)
        except Problem as problem:
            connection.refuse(passage, problem)

    async def aclose(self) -> None:
        """Write what waits, then close."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=TIMEOUT_S)
            await end_tasks(self._task)
        if self._valkey is not None:
            await close(self._valkey)

    # Taking a batch

    def _take(self, passage: Passage, connection: AccessProtocol) -> None:
        headers = passage.headers
        self._sites.check(headers, passage.host)  # what it sends would count as our visitor's
        _check_type(headers)
        address = client_of(connection.address, headers, self._proxies)
        self._admit(address, len(passage.body))
        try:
            events = read_body(passage.body).events
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.refused["invalid"] += 1
            raise _problem_of(error) from None
        written = write_events(events)
        self._waiting.append(
            Waiting(
                passage,
                connection,
                int(time.time() * 1000),
                source_of(headers, address, self._session_cookie),
                len(events),
                written,
            )
        )
        self.buffered_bytes += len(written) + BATCH_COST_BYTES
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._append_all())

    def _admit(self, address: str, size_bytes: int) -> None:
        """Raise what speaks against taking a batch now."""
        now = time.monotonic()
        if self._memory.pressure or any(now < gate.pressed_until for gate in self._gates):
            self.refused["yielded"] += 1
            raise Overloaded("Nothing was kept; other traffic goes first.", retry_after_s=5)
        if Route.BEACON in self._allowances.limited:
            refusal = self._allowances.take(Route.BEACON, address, None, now)
            if refusal is not None:
                self.refused["rate"] += 1
                raise refusal.problem()
        if self._valkey is None or now < self._away_until:
            self.refused["away"] += 1
            raise Unavailable("Events are not taken at the moment.", retry_after_s=5)
        if now < self._full_until:
            self.refused["log"] += 1
            raise _full()
        if self.buffered_bytes + size_bytes + BATCH_COST_BYTES > self._limit_bytes:
            self.refused["buffer"] += 1
            raise TooManyRequests("Events come faster than they are written.", retry_after_s=1)

    # Writing

    async def _append_all(self) -> None:
        try:
            while self._waiting:
                batches = self._next()
                problem: Problem | None = None
                try:
                    await self._append(batches)
                except LogFull:
                    self._full_until = time.monotonic() + LOOK_S
                    self.refused["log"] += len(batches)
                    problem = _full()
                except NotAppended as error:
                    self._away_until = time.monotonic() + AWAY_S
                    self.refused["away"] += len(batches)
                    log.warning("events not written", error=repr(error), batches=len(batches))
                    problem = Unavailable(
                        "It is not known whether the events were kept; send them again with the"
                        " same ids.",
                        retry_after_s=5,
                    )
                except Exception:
                    log.exception("bug")
                    problem = InternalError()
                self._answer(batches, problem)
        finally:
            self._task = None

    def _next(self) -> list[Waiting]:
        """The oldest that wait, as many as go into one append."""
        size_bytes = number = 0
        while size_bytes < APPEND_BYTES and number < len(self._waiting):
            size_bytes += len(self._waiting[number].events) + BATCH_COST_BYTES
            number += 1
        taken, self._waiting = self._waiting[:number], self._waiting[number:]
        return taken

    async def _append(self, batches: list[Waiting]) -> None:
        began_at = time.monotonic()
        entries = []
        try:
            for batch in batches:
                key = await self._visitors.key_of(batch.arrived_ms)
                name = name_of(key, batch.source)
                entries.append(Entry(batch.arrived_ms, name, batch.number, batch.events))
            await self._log.append(entries)
            now = time.monotonic()
            self.appends_total += 1
            self.took.add(now - began_at)
            self._unseen_bytes += sum(len(batch.events) for batch in batches)
            if now - self._looked_at >= LOOK_S or self._unseen_bytes >= LOOK_BYTES:
                self._looked_at, self._unseen_bytes = now, 0
                await self._look()
        except LOST as error:
            raise NotAppended(repr(error)) from error

    async def _look(self) -> None:
        """See how full the log is."""
        if self._valkey is None:
            return
        try:
            told = await self._valkey.info("memory")
        except LOST:
            return  # what was appended is there all the same
        if int(told["maxmemory"]) and int(told["used_memory"]) > FULL * int(told["maxmemory"]):
            self._full_until = time.monotonic() + LOOK_S

    def _answer(self, batches: list[Waiting], problem: Problem | None) -> None:
        now = time.monotonic()
        for batch in batches:
            passage, connection = batch.passage, batch.connection
            self.buffered_bytes -= len(batch.events) + BATCH_COST_BYTES
            if problem is None:
                self.batches_total += 1
                self.accepted_total += batch.number
            if not connection.awaits(passage):
                continue  # its client has left
            if problem is not None:
                connection.refuse(passage, problem)
            else:
                body = ACCEPTED % batch.number
                connection.send(passage, 202, LINES % len(body), body, now)


def _full() -> TooManyRequests:
    return TooManyRequests("The log of events is full.", retry_after_s=FULL_RETRY_S)


def _check_type(headers: Headers) -> None:
    """Raise UnsupportedMediaType unless the body is said to be JSON, or a beacon's text."""
    for name, value in headers:
        if name == b"content-type":
            if value.partition(b";")[0].strip().lower() in MEDIA_TYPES:
                return
            break
    raise UnsupportedMediaType("Or text/plain, as sendBeacon has it.")


def _problem_of(error: Exception) -> Problem:
    """What is wrong with a body, with the index of the event: /events/3/type."""
    if not isinstance(error, msgspec.ValidationError):
        return InvalidJson()
    text = str(error)
    where = WHERE.search(text)
    field = ""
    if where is not None:
        text = text[: where.start()]
        field = re.sub(r"[.\[]", "/", where.group(1)).replace("]", "")
    errors: list[FieldError] = [{"field": field, "detail": text}]
    return InvalidBody(errors=errors)
