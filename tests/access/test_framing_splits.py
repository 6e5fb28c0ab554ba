"""The same bytes in other pieces: the answers, and what is passed on, stay the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.access.cases import Case, get, post
from tests.access.corpus import CORPUS, EACH, NOT_YET, REFUSED
from tests.access.one_case import AFTER, BEFORE, behind, converse, cut, judge
from tests.access.one_loop import OneLoop, one_loop
from tests.faults.figures import record

SHORT_BYTES: Final = 600  # longer ones are cut at random places
RANDOMLY: Final = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DONE: Final = [case for case in CORPUS if case.name not in NOT_YET]
LARGE: Final = [case for case in CORPUS if len(case.data) > SHORT_BYTES]
KEPT: Final = [case for case in DONE if case.kept and case.statuses == {200}]


@pytest.fixture(scope="module")
def lab() -> Iterator[OneLoop]:
    with one_loop() as lab:
        yield lab


class Pieces(asyncio.Protocol):
    """A server that keeps what it reads in the pieces that came."""

    def __init__(self) -> None:
        self.read: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.read.append(data)


def test_pieces_arrive_as_they_were_cut(lab: OneLoop) -> None:
    """Without this the tests below would prove nothing."""
    pieces = [b"a", b"bc", b"d"] * 20
    server = Pieces()

    async def send() -> None:
        listening = await asyncio.get_running_loop().create_server(lambda: server, "127.0.0.1", 0)
        wire = await lab.connect(listening.sockets[0].getsockname()[1])
        await wire.send(pieces)
        wire.transport.abort()
        listening.close()
        await listening.wait_closed()

    lab.do(send())
    assert server.read == pieces


@pytest.mark.parametrize("case", EACH)
def test_a_case_byte_by_byte(lab: OneLoop, case: Case) -> None:
    data = case.data + AFTER
    whole = converse(lab, case, [data])
    if case in LARGE:
        chance = random.Random(case.name)
        pieces = cut(data, [chance.randrange(len(data)) for _ in range(60)])
    else:
        pieces = [data[place : place + 1] for place in range(len(data))]
    split = converse(lab, case, pieces)
    judge(case, split)
    assert split.comparable() == whole.comparable()


@settings(RANDOMLY, max_examples=60)
@given(case=st.sampled_from(DONE), ends=st.lists(st.integers(0, 2**20), max_size=8))
def test_a_case_behind_a_good_request_in_any_pieces(
    lab: OneLoop, case: Case, ends: list[int]
) -> None:
    pieces = cut(BEFORE + case.data + AFTER, ends)
    judge(case, behind(converse(lab, case, pieces, before=1)))


@settings(RANDOMLY, max_examples=40)
@given(
    kept=st.lists(st.sampled_from(KEPT), max_size=6),
    last=st.sampled_from(REFUSED),
    ends=st.lists(st.integers(0, 2**20), max_size=12),
)
def test_any_pieces_of_many_requests_are_answered_in_order_until_one_is_refused(
    lab: OneLoop, kept: list[Case], last: Case, ends: list[int]
) -> None:
    heads = [place for place, case in enumerate(kept) if case.is_head]
    data = b"".join(case.data for case in [*kept, last])
    outcome = converse(lab, last, cut(data + AFTER, ends), heads=heads)
    assert [reply.status for reply in outcome.replies[:-1]] == [200] * len(kept)
    assert outcome.replies[-1].status in last.statuses
    passed = [case.passed for case in kept if case.passed is not None]
    assert [(seen.method, seen.target, seen.body) for seen in outcome.passed] == [
        (one.method, one.target, one.body) for one in passed
    ]


def test_a_request_cut_anywhere_in_two(lab: OneLoop) -> None:
    data = post(b"Content-Length: 2", b"X: y", body=b"ab") + get() + AFTER
    whole = lab.talk([data])
    assert whole.count(b"HTTP/1.1 200 ") == 3
    for end in range(1, len(data)):
        assert lab.talk([data[:end], data[end:]]).count(b"HTTP/1.1 200 ") == 3


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_every_case_cut_anywhere_in_two(lab: OneLoop) -> None:
    """Each place of each case of the corpus."""
    cuts = 0
    differing: list[str] = []
    deviating = sorted(NOT_YET)
    for case in DONE:
        data = case.data + AFTER
        outcome = converse(lab, case, [data])
        whole = outcome.comparable()
        try:
            judge(case, outcome)
        except AssertionError:
            deviating.append(case.name)
        step = 1 if case not in LARGE else len(data) // 200
        for end in range(1, len(data), step):
            cuts += 1
            if converse(lab, case, [data[:end], data[end:]]).comparable() != whole:
                differing.append(f"{case.name} at {end}")
    passed = not differing and not deviating
    record(50, "corpus", passed, cases=len(CORPUS), deviating=deviating, cuts=cuts,
           differing=differing[:100])  # fmt: skip
    assert (differing, deviating) == ([], sorted(NOT_YET))
