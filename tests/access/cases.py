"""What a case of the corpus is: raw bytes of one request, and what has to become of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

HOST: Final = b"Host: a"
GET: Final = b"GET /here HTTP/1.1"
POST: Final = b"POST /here HTTP/1.1"
TARGET: Final = b"/here"  # whoever runs a case may put another in its place
CHUNKED: Final = b"Transfer-Encoding: chunked"
SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def lines(*given: bytes, body: bytes = b"") -> bytes:
    """A head of these lines, each with the ending that RFC 9112 2.1 asks for, and a body."""
    return b"\r\n".join((*given, b"", body))


def get(*given: bytes) -> bytes:
    return lines(GET, HOST, *given)


def post(*given: bytes, body: bytes = b"") -> bytes:
    return lines(POST, HOST, *given, body=body)


def chunked(body: bytes, *given: bytes) -> bytes:
    return lines(POST, HOST, CHUNKED, *given, body=body)


@dataclass(frozen=True, slots=True)
class Passed:
    """A request as business has to see it."""

    method: bytes
    target: bytes
    body: bytes = b""
    has: dict[bytes, list[bytes]] = field(default_factory=dict)  # these names, with these values
    lacks: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One request: how it may be answered, whether its connection goes on, what is passed on.

    Any status of 400 and above means that the connection ends and nothing was passed on.
    """

    name: str
    rule: str  # the section that decides
    data: bytes
    statuses: frozenset[int]
    kept: bool
    passed: Passed | None

    def aimed_at(self, target: bytes) -> Case:
        """The same request for another target."""
        return replace(self, data=self.data.replace(TARGET, target))

    def __str__(self) -> str:
        return self.name

    @property
    def is_head(self) -> bool:
        return self.passed is not None and self.passed.method == b"HEAD"


def served(
    name: str,
    rule: str,
    data: bytes,
    *,
    method: bytes = b"GET",
    target: bytes = TARGET,
    body: bytes = b"",
    kept: bool = True,
    has: dict[bytes, list[bytes]] | None = None,
    lacks: tuple[bytes, ...] = (),
    or_refused: tuple[int, ...] = (),
) -> Case:
    """Passed on as this and answered by business; or_refused: where the RFC leaves it open."""
    passed = Passed(method, target, body, has or {}, lacks)
    return Case(name, rule, data, frozenset((200, *or_refused)), kept, passed)


def refused(name: str, rule: str, data: bytes, *statuses: int) -> Case:
    """Answered with 400, or one of the statuses, closed, and never passed on."""
    return Case(name, rule, data, frozenset(statuses or (400,)), kept=False, passed=None)


def answered_here(name: str, rule: str, data: bytes, status: int) -> Case:
    """Answered by access itself."""
    return Case(name, rule, data, frozenset((status,)), kept=True, passed=None)
