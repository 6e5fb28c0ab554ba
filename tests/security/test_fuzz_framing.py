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
from tests.access.agreement import converse, disagreement
from tests.access.echo import Echo
from tests.access.mutations import pieces, stream
from tests.access.one_case import AFTER
from tests.access.one_loop import OneLoop, one_loop
from tests.faults.figures import record

STREAMS: Final = 500  # in `make test`
MANY_STREAMS: Final = 100_000
# Right, and refused all the same: spaces after a host or coding, a host that begins oddly or has
# an underscore.
LENIENT: Final = re.compile(
    rb"(?i)(?:host|transfer-encoding):[^\r\n]*[ \t]\r\n|https?://(?:[._~-]|[^/?\s]*_)"
)


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


def tried(lab: OneLoop, business: Echo, seed: int, tally: Tally) -> None:
    data = stream(seed) + AFTER
    requests, _ = strict.read(data)
    said = converse(lab, business, data, pieces(data, seed))
    found, got = said.replies, said.got
    tally.streams += 1
    tally.passed_on += len(got)
    tally.refused += any(reply.status >= 400 for reply in found)

    def find(kind: str, told: str) -> None:
        tally.findings.append(Finding(kind, seed, data, told))

    if said.refused and len(found) <= len(requests) and LENIENT.search(data) is None:
        find("refused though right", f"{found[-1].body!r}")
    if not said.over:
        find("hang", f"{len(found)} answers of {len(requests)}")
    if any(reply.status >= 500 for reply in found):
        find("5xx", str([reply.status for reply in found]))
    if b"/smuggled" in [one.target for one in got] and b"/smuggled" not in [
        request.target for request in requests
    ]:
        find("smuggled", str(got))
    told = disagreement(data, said)
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
    kinds = ("disagreement", "smuggled", "refused though right", "5xx", "hang")
    figures = {kind.replace(" ", "_"): tally.of(kind) for kind in kinds}
    record(50, "mutated streams", not tally.findings, streams=tally.streams,
           passed_on=tally.passed_on, refused=tally.refused, first_seed=1_000_000,
           **figures)  # fmt: skip
    assert tally.findings[:10] == []
