"""Sending one case of the corpus, and judging what became of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.access.answers import Reply, replies
from tests.access.cases import Case
from tests.access.one_loop import OneLoop
from tests.access.upstream import Seen

BEFORE: Final = b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n"
# Ends every conversation: either it is answered with close, or what stood before it was.
AFTER: Final = b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# A limit may be met in the parser or before it, and says so in other words.
VARYING: Final = re.compile(rb'"(?:request_id|detail)":"[^"]*",?')
# Of its own in every answer.
UNLIKE: Final = frozenset((b"date", b"age", b"x-request-id"))


@dataclass(frozen=True)
class Outcome:
    """What the client and business saw of one conversation."""

    replies: list[Reply]
    passed: list[Seen]

    def comparable(self) -> object:
        """Equal for two conversations that differ in nothing but their moment and names."""
        unlike = UNLIKE
        if any(reply.status >= 400 for reply in self.replies):
            unlike |= {b"content-length"}
        said = [
            (
                reply.status,
                [field for field in reply.headers if field[0] not in unlike],
                VARYING.sub(b"", reply.body),
            )
            for reply in self.replies
        ]
        return said, [(seen.method, seen.target, seen.body) for seen in self.passed]


def converse(
    lab: OneLoop,
    case: Case,
    pieces: Iterable[bytes],
    *,
    before: int = 0,
    heads: Sequence[int] = (),
) -> Outcome:
    """Send the pieces; the case's answer is the one after `before` others.

    heads: the places of further answers to HEAD.
    """
    lab.passed_on()
    received = lab.talk(pieces)
    found, left = replies(received, [*heads, before] if case.is_head else heads)
    assert left == b"", f"after the last answer: {left[:200]!r}"
    return Outcome(found, lab.passed_on())


def judge(case: Case, outcome: Outcome) -> None:
    """Fail where the case was not answered, kept and passed on as it has to be."""
    assert outcome.replies, f"no answer: {case}"
    first, *others = outcome.replies
    assert first.status in case.statuses, f"{case}: {first.status}"
    goes_on = case.kept and first.status < 400
    assert first.closes is not goes_on
    assert [reply.body for reply in others] == ([b"/after"] if goes_on else [])
    passed = case.passed if first.status < 400 else None
    expected = [] if passed is None else [(passed.method, passed.target, passed.body)]
    if goes_on:
        expected.append((b"GET", b"/after", b""))
    assert [(seen.method, seen.target, seen.body) for seen in outcome.passed] == expected
    if passed is not None:
        seen = outcome.passed[0]
        assert {name: seen.values(name) for name in passed.has} == passed.has
        assert not seen.names() & set(passed.lacks)


def behind(outcome: Outcome) -> Outcome:
    """The outcome without that of the good request that went before."""
    assert (outcome.replies[0].status, outcome.replies[0].body) == (200, b"/before")
    assert outcome.passed[0].target == b"/before"
    return Outcome(outcome.replies[1:], outcome.passed[1:])


def cut(data: bytes, ends: Sequence[int]) -> list[bytes]:
    """The data in pieces that end at these places."""
    places = sorted({0, len(data), *(end % len(data) for end in ends)})
    return [data[start:end] for start, end in pairwise(places)]
