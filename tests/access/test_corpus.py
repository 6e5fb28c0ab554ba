"""Every case of the corpus through access: answered, kept and passed on as the RFCs say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.access import strict
from tests.access.answers import read_head
from tests.access.cases import Case, lines
from tests.access.corpus import CORPUS, EACH, NOT_YET, REFUSED
from tests.access.corpus_served import SERVED
from tests.access.one_case import AFTER, BEFORE, behind, converse, judge
from tests.access.one_loop import HELD, PAGE, OneLoop, one_loop


@pytest.fixture(scope="module")
def lab() -> Iterator[OneLoop]:
    with one_loop() as lab:
        yield lab


def test_the_corpus_is_as_large_as_it_says() -> None:
    names = [case.name for case in CORPUS]
    assert len(names) == len(set(names)) >= 122
    assert len(REFUSED) >= 200


def test_the_strict_reading_agrees_with_the_corpus() -> None:
    """What the fuzzing is measured by, measured by what was written by hand."""
    for case in CORPUS:
        if len(case.data) > 8_000 or case.name == "RTSP/1.0":
            continue  # limits are of the server, not of HTTP
        requests, _ = strict.read(case.data + AFTER)
        read = [(one.method, one.target, one.body) for one in requests[:1]]
        if case.passed is not None:
            assert read == [(case.passed.method, case.passed.target, case.passed.body)], case.name
        assert len(requests) == (case.passed is not None or case.kept) + case.kept, case.name


@pytest.mark.parametrize("case", EACH)
def test_a_case_alone_and_behind_a_good_request(lab: OneLoop, case: Case) -> None:
    judge(case, converse(lab, case, [case.data + AFTER]))
    judge(case, behind(converse(lab, case, [BEFORE + case.data + AFTER], before=1)))


@pytest.mark.parametrize(
    "data",
    [lines(b"HEAD /here HTTP/1.1", b"Host: a/b"), lines(b"HEAD /here HTTP/1.1", b"Host: a", b"X"),
     lines(b"HEAD /" + b"a" * 9000 + b" HTTP/1.1", b"Host: a"),
     lines(b"HEAD /here HTTP/1.1", b"Host: a", b"X: " + b"y" * 40_000),
     lines(b"HEAD /here HTTP/1.1", b"Host: a", b"Content-Length: 100000000")],
    ids=["400", "400 by the parser", "414", "431", "413"],
)  # fmt: skip
def test_the_refusal_of_a_head_has_no_body(lab: OneLoop, data: bytes) -> None:
    """RFC 9110 9.3.2: whoever reads on would take it for the next answer."""
    received = lab.talk([data])
    read = read_head(received)
    assert read is not None
    assert read[0] >= 400
    assert read[2] == b""


def test_what_is_malformed_is_never_answered_from_memory(lab: OneLoop) -> None:
    """The corpus aimed at a page that access holds."""
    answered = []
    for case in REFUSED:
        lab.hold_a_page()
        outcome = converse(lab, case, [case.aimed_at(HELD).data + AFTER])
        statuses = {reply.status for reply in outcome.replies}
        if not statuses <= case.statuses or outcome.passed:
            answered.append((case.name, statuses, outcome.passed))
    assert answered == []


def test_what_is_odd_but_right_is_answered_from_memory(lab: OneLoop) -> None:
    cases = [case for case in SERVED if case.data.startswith(b"GET /here HTTP/1.")]
    plain = [case for case in cases if case.passed and not case.passed.body]
    plain = [case for case in plain if case.name not in NOT_YET]
    assert len(plain) > 20
    for case in plain:
        lab.hold_a_page()
        outcome = converse(lab, case, [case.aimed_at(HELD).data + AFTER])
        assert (outcome.replies[0].status, outcome.replies[0].body) == (200, PAGE), case.name
        assert len(outcome.replies) == 1 + case.kept, case.name
        passed = [seen.target for seen in outcome.passed]
        assert passed == [b"/after"] * case.kept, case.name
