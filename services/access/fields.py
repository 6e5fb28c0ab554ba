"""Which header fields pass through access, on the way to business and on the way back.

What business is told about the client is written here and nowhere else. X-Forwarded-For is the
client's address, X-Forwarded-Proto its scheme, X-Forwarded-Host its Host; what a client says in
those fields, in Forwarded or in X-Real-IP is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from services.access.tracing import REQUEST_ID, made_traceparent, valid_traceparent
from services.consistency import TOKEN_HEADER
from services.exchange import Headers, Response, UnsafeRequest
from services.plain import NEVER_KEPT, Field
from services.request import CONTROLS, header_lines

# RFC 9110 7.6.1, and the older ones that servers still act on.
HOP_BY_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"transfer-encoding", b"proxy-authenticate", b"proxy-authorization"),
        *(b"http2-settings", b"proxy-authentication-info"),
    )
)
# Names with which access or business speak to each other: from a client they are lies.
INTERNAL: Final = frozenset(
    (
        *(b"x-internal-secret", b"x-request-id", b"x-deadline-ms", b"x-customer-id"),
        *(b"x-customer-role", b"x-customer-guests", b"x-session-id", b"x-guest-token-sha256"),
        *(b"traceparent", b"tracestate"),
    )
)
# Names by which some proxy or framework is told where a request came from or goes to.
ORIGIN: Final = frozenset(
    (
        *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip"),
        *(b"true-client-ip", b"cf-connecting-ip", b"fastly-client-ip", b"x-user-id"),
        *(b"x-original-url", b"x-rewrite-url", b"x-original-host", b"x-host"),
        *(b"x-http-method-override", b"x-http-method", b"x-method-override"),
    )
)
KEEP_ALIVE: Final = (b"connection", b"keep-alive")  # names nothing that would go on
CLOSE: Final = (b"connection", b"close")
WRITTEN_BY_POOL: Final = frozenset((b"host", b"content-length", b"expect"))
NOT_ANSWERED: Final = frozenset(
    (
        *(b"server", b"date", b"x-powered-by", b"content-length", b"cache-tag"),
        b"x-content-type-options",  # access says it itself, once
    )
)
# Clients choose the names, and how long: what is beyond these is decided each time.
DECISIONS_KEPT: Final = 1024
NAME_KEPT_BYTES: Final = 64
LINE_KEPT_BYTES: Final = 256


class Way(IntEnum):
    """What becomes of a client's field."""

    ON = 0
    DROPPED = 1
    CREDENTIAL = 2  # ends here: business is told whose it is
    CONNECTION = 3
    REQUEST_ID = 4
    TRACEPARENT = 5
    TRACESTATE = 6
    TOKEN = 7  # what the client has seen: verified here


SPECIAL: Final = {
    b"authorization": Way.CREDENTIAL,
    b"cookie": Way.CREDENTIAL,
    b"connection": Way.CONNECTION,
    b"x-request-id": Way.REQUEST_ID,
    b"traceparent": Way.TRACEPARENT,
    b"tracestate": Way.TRACESTATE,
    TOKEN_HEADER.encode(): Way.TOKEN,
}
_ways: dict[bytes, Way] = {}
_answered: dict[bytes, bool] = {}


def way_of(name: bytes) -> Way:
    """What becomes of a client's field of this lower-case name.

    A name with an underscore is dropped: a server that reads names as CGI does would take
    x_internal_secret for x-internal-secret.
    """
    way = _ways.get(name)
    if way is None:
        way = SPECIAL.get(name) or _decided(name)
        if len(_ways) < DECISIONS_KEPT and len(name) <= NAME_KEPT_BYTES:
            _ways[name] = way
    return way


def _decided(name: bytes) -> Way:
    dropped = (
        name in HOP_BY_HOP
        or name in INTERNAL
        or name in ORIGIN
        or name in WRITTEN_BY_POOL
        or name.startswith((b"x-forwarded-", b"x-internal-", b"x-tercet-"))
        or b"_" in name
    )
    return Way.DROPPED if dropped else Way.ON


class Sorted:
    """A request's fields, sorted: what goes on, and what access needs to know itself."""

    __slots__ = (
        *("authorizations", "cookies", "lines", "own", "passed", "request_id", "tokens"),
        "traceparent",
    )

    def __init__(self, headers: Headers, lines: bytes | None = None) -> None:
        """lines: all that goes on of the headers, where that is known."""
        self.cookies: Sequence[bytes] = ()
        self.authorizations: Sequence[bytes] = ()
        self.tokens: Sequence[bytes] = ()
        self.own = b""  # lines that access adds, once they are made
        self.lines = b"" if lines is None else lines  # go on besides what is passed
        passed: Headers = []
        self.passed = passed
        if lines is not None:
            self.traceparent = traceparent = made_traceparent()
            self.request_id = traceparent[3:35]
            return
        special: list[tuple[Way, Field]] | None = None
        for field in headers:
            name = field[0]
            way = _ways.get(name)
            if way is None:
                way = way_of(name)
            if way == 0:
                passed.append(field)
            elif way != 1 and field != KEEP_ALIVE:
                if special is None:
                    special = []
                special.append((way, field))
        if special is None:
            self.traceparent = traceparent = made_traceparent()
            self.request_id = traceparent[3:35]
        else:
            self._sort(special)

    def _sort(self, special: list[tuple[Way, Field]]) -> None:
        values: dict[Way, list[bytes]] = {}
        cookies: list[bytes] = []
        authorizations: list[bytes] = []
        states: Headers = []
        for way, field in special:
            if way is Way.CREDENTIAL:
                (cookies if field[0] == b"cookie" else authorizations).append(field[1])
            elif way is Way.TRACESTATE:
                states.append(field)
            else:
                values.setdefault(way, []).append(field[1])
        self.cookies, self.authorizations = cookies, authorizations
        self.tokens = values.get(Way.TOKEN, ())
        if Way.CONNECTION in values:
            named = named_in(b",".join(values[Way.CONNECTION]))
            self.passed = [field for field in self.passed if field[0] not in named]
        self._name(values.get(Way.REQUEST_ID, ()), values.get(Way.TRACEPARENT, ()), states)

    def _name(self, ids: Sequence[bytes], parents: Sequence[bytes], states: Headers) -> None:
        """Request id and trace context: the client's where it is one, else made here.

        A name that the client gave twice or malformed is made. A made request id is the trace's
        id, so that one leads to the other.
        """
        if len(parents) == 1 and valid_traceparent(parents[0]):
            self.traceparent = parents[0][:55]
            self.passed.extend(states)
        else:
            self.traceparent = made_traceparent()
        if len(ids) == 1 and REQUEST_ID.fullmatch(ids[0]) is not None:
            self.request_id = ids[0]
        else:
            self.request_id = self.traceparent[3:35]


def passed_lines(headers: Headers) -> bytes | None:
    """What goes on of these fields, as lines; None if any of them is special, or not to be sent."""
    passed: Headers = []
    for field in headers:
        way = way_of(field[0])
        if way is Way.ON:
            passed.append(field)
        elif way is not Way.DROPPED and field not in (KEEP_ALIVE, CLOSE):
            return None
    try:
        return header_lines(b"GET", b"/", passed, b"", None)
    except UnsafeRequest:  # its own answer says so
        return None


def named_in(value: bytes, named: set[bytes] | None = None) -> set[bytes]:
    """The names that a Connection field declares to be for this hop only (RFC 9110 7.6.1)."""
    names = named if named is not None else set()
    names.update(token.strip().lower() for token in value.split(b","))
    return names


def connection_names(headers: Headers) -> frozenset[bytes] | set[bytes]:
    """The names that a message's Connection fields declare to be for this hop only."""
    named: set[bytes] | None = None
    for name, value in headers:
        if name == b"connection":
            named = named_in(value, named)
    return named or frozenset()


def answer_fields(answer: Response, *, to_head: bool) -> Headers:
    """The fields of business' answer that are for the client, with its Content-Length."""
    fields: Headers = []
    named: set[bytes] | None = None
    length: bytes | None = None
    for field in answer.headers:
        name = field[0]
        goes = _answered.get(name)
        if goes is None:
            goes = _is_answered(name)
        if goes:
            fields.append(field)
        elif name == b"connection":
            named = named_in(field[1], named)
        elif name == b"content-length":
            length = field[1]
    if named is not None:
        fields = [field for field in fields if field[0] not in named]
    if to_head:
        if length is not None:
            fields.append((b"content-length", length))
    elif answer.status not in (204, 304):
        fields.append((b"content-length", b"%d" % len(answer.body)))
    return fields


class _AnswerLines(dict[Field, bytes]):
    """Lines of answers as the client gets them, by field; empty for those that it does not get."""

    def __missing__(self, field: Field) -> bytes:
        name, value = field
        line = field_line(field) if _is_answered(name) else b""
        if name == b"connection" and value.lower() != b"keep-alive":
            raise KeyError(name)  # it may name others
        if len(line) <= LINE_KEPT_BYTES and name not in NEVER_KEPT and name[:2] != b"x-":
            if len(self) >= DECISIONS_KEPT:
                self.clear()
            self[field] = line
        return line


_line_of: Final = _AnswerLines().__getitem__


def field_line(field: Field) -> bytes:
    """A field as a line. A value that would start a line of its own is a bug."""
    line = b"%b: %b" % field
    if line.translate(None, CONTROLS) != line:
        raise RuntimeError("an answer's header has control characters")
    return line + b"\r\n"


def answer_lines(answer: Response, *, to_head: bool) -> bytes:
    """answer_fields() as lines: nearly all of them have been seen before."""
    if not to_head and answer.status not in (204, 304):
        try:
            lines = b"".join(map(_line_of, answer.headers))
        except KeyError:
            pass
        else:
            return b"%bcontent-length: %d\r\n" % (lines, len(answer.body))
    return b"".join([field_line(field) for field in answer_fields(answer, to_head=to_head)])


def _is_answered(name: bytes) -> bool:
    goes = not (
        name in NOT_ANSWERED
        or name in HOP_BY_HOP
        or name in INTERNAL
        or name.startswith(b"x-internal-")
    )
    if len(_answered) < DECISIONS_KEPT:
        _answered[name] = goes
    return goes
