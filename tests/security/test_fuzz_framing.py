"""E50: whatever a client sends, business sees the requests that access saw, and no other.

Mutated streams go through access to uvicorn's own server. A second, strict reading of the same
bytes says which requests are in them (tests/access/strict.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from tests.access import strict
from tests.access.answers import Reply, replies
from tests.access.echo import NUMBER, Echo, Got
from tests.access.mutations import pieces, stream
from tests.access.one_case import AFTER
from tests.access.one_loop import OneLoop, one_loop, turn
from tests.faults.figures import record

STREAMS: Final = 3_000  # in `make test`
MANY_STREAMS: Final = 100_000
# Right, and refused all the same: spaces after a host or coding, a host that begins oddly.
LENIENT: Final = re.compile(rb"(?i)(?:host|transfer-encoding):[^\r\n]*[ \t]\r\n|https?://[._~-]")


@pytest.fixture(scope="module")
def business() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def lab(business: Echo) -> Iterator[OneLoop]:
    with one_loop(business.config()) as lab:
        yield lab


@dataclass
class Finding:
    """What is wrong with one stream, and the stream."""

    kind: str
    seed: int
    data: bytes
    told: str


@dataclass
class Tally:
    """What a run came to."""

    streams: int = 0
    passed_on: int = 0
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)

    def of(self, kind: str) -> int:
        return Counter(finding.kind for finding in self.findings)[kind]


async def conversation(lab: OneLoop, data: bytes, seed: int) -> tuple[bytes, bool]:
    """All answers to the stream, and whether they came to an end."""
    requests, end = strict.read(data)
    heads = [place for place, request in enumerate(requests) if request.method == b"HEAD"]
    wire = await lab.connect()

    def finished() -> bool:
        if wire.ended or end in ("closed", "malformed"):
            return wire.ended
        return len(replies(bytes(wire.received), heads)[0]) >= len(requests)

    try:
        await wire.send(pieces(data, seed))
        over = await wire.until(finished)
        for _ in range(3):
            await turn()  # for what should not come any more
        return bytes(wire.received), over
    finally:
        wire.transport.abort()


def was_refused(found: list[Reply]) -> bool:
    """Whether the last answer says that there was no request to answer."""
    return (
        bool(found)
        and found[-1].closes
        and not found[-1].values(NUMBER)
        and (found[-1].status >= 400)
    )


def same_target(one: bytes, other: bytes) -> bool:
    """An empty query is not told from none."""
    return one.partition(b"?")[::2] == other.partition(b"?")[::2]


def disagreement(
    data: bytes, found: list[Reply], got: list[Got], overheard: list[bytes]
) -> str | None:
    """How business' requests or the answers differ from what is in the stream; None if not."""
    requests, _ = strict.read(data)
    served = len(found) - was_refused(found)
    if served > len(requests):
        return f"{served} answers to {len(requests)} requests"
    named = [reply.values(NUMBER) for reply in found]
    if [name for name in named if name] != [[b"%d" % number] for number in range(len(got))]:
        return f"business' answers are {named} of {len(got)}"
    answered = [place for place, name in enumerate(named) if name]
    for place, one in zip(answered, got, strict=True):
        request = requests[place]
        if (one.method, one.body) != (request.method, request.body) or not same_target(
            one.target, request.target
        ):
            return f"{one} is not {request}"
    again = [request for part in overheard for request in strict.read(part)[0]]
    own = [request for request in again if request.target == b"/internal/pages"]
    if len(again) - len(own) != len(got) or any(strict.read(p)[1] != "clean" for p in overheard):
        return f"{len(again)} requests in what business read, which took {len(got)}"
    return None


def tried(lab: OneLoop, business: Echo, seed: int, tally: Tally) -> None:
    data = stream(seed) + AFTER
    business.forget()
    received, over = lab.do(conversation(lab, data, seed))
    got, overheard = business.forget()
    requests, _ = strict.read(data)
    heads = [place for place, request in enumerate(requests) if request.method == b"HEAD"]
    found, left = replies(received, heads)
    tally.streams += 1
    tally.passed_on += len(got)
    tally.refused += any(reply.status >= 400 for reply in found)

    def find(kind: str, told: str) -> None:
        tally.findings.append(Finding(kind, seed, data, told))

    if was_refused(found) and len(found) <= len(requests) and LENIENT.search(data) is None:
        find("refused though right", f"{found[-1].body!r}")
    if not over:
        find("hang", f"{len(found)} answers of {len(requests)}")
    if any(reply.status >= 500 for reply in found):
        find("5xx", str([reply.status for reply in found]))
    if b"/smuggled" in [one.target for one in got] and b"/smuggled" not in [
        request.target for request in requests
    ]:
        find("smuggled", str(got))
    told = "after the last answer" if left else disagreement(data, found, got, overheard)
    if told is not None:
        find("disagreement", told)


def run(lab: OneLoop, business: Echo, first_seed: int, streams: int) -> Tally:
    tally = Tally()
    for seed in range(first_seed, first_seed + streams):
        tried(lab, business, seed, tally)
    return tally


def test_business_sees_the_requests_that_are_in_the_stream(lab: OneLoop, business: Echo) -> None:
    tally = run(lab, business, 0, STREAMS)
    assert tally.findings == []
    assert tally.passed_on > STREAMS / 2  # most of it is HTTP, or nothing would be tried
    assert tally.refused > STREAMS / 4


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_business_sees_the_requests_that_are_in_many_streams(lab: OneLoop, business: Echo) -> None:
    tally = run(lab, business, 1_000_000, MANY_STREAMS)
    kinds = ("disagreement", "smuggled", "5xx", "hang")
    figures = {kind: tally.of(kind) for kind in kinds}
    record(50, "mutated streams", not tally.findings, streams=tally.streams,
           passed_on=tally.passed_on, refused=tally.refused, first_seed=1_000_000,
           **figures)  # fmt: skip
    assert tally.findings[:10] == []
