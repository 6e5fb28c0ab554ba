"""Requests sent without waiting for answers: in order, in bounds, and nothing after an end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.access.answers import Reply, replies
from tests.access.cases import Case
from tests.access.corpus import REFUSED
from tests.access.one_case import AFTER, BEFORE, Outcome, behind, judge
from tests.access.one_loop import HELD, PAGE, OneLoop, Wire, echo, one_loop, turn
from tests.access.upstream import Seen
from tests.faults.waiting import until

SMALL = [case for case in REFUSED if len(case.data) < 8_000]


@pytest.fixture(scope="module")
def running() -> Iterator[OneLoop]:
    with one_loop() as lab:
        yield lab


@pytest.fixture
def lab(running: OneLoop) -> Iterator[OneLoop]:
    yield running
    running.upstream.script = echo


def ask(target: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join((method + b" " + target + b" HTTP/1.1", b"Host: a", *lines, b"", b""))


def hold_back(lab: OneLoop, target: bytes) -> asyncio.Event:
    """Business answers this target when the event is set."""
    gate = asyncio.Event()

    async def script(seen: Seen) -> bytes:
        if seen.target == target:
            await gate.wait()
        return await echo(seen)

    lab.upstream.script = script
    return gate


async def is_asked(lab: OneLoop, target: bytes) -> None:
    await until(
        lambda: target in [seen.target for seen in lab.upstream.requests],
        within_s=5,
        what="business is asked",
    )


async def until_asked(lab: OneLoop, wire: Wire, target: bytes) -> None:
    """Everything sent has been read by access, and business works on the target."""
    await is_asked(lab, target)
    for _ in range(5):
        await turn()
    assert not wire.received


def bodies(received: bytes, heads: list[int] | None = None) -> list[bytes]:
    found, left = replies(received, heads or [])
    assert left == b""
    return [reply.body for reply in found]


def test_what_is_malformed_is_refused_after_the_answer_it_has_to_wait_for(lab: OneLoop) -> None:
    async def conversation(case: Case) -> bytes:
        gate = hold_back(lab, b"/before")
        wire = await lab.connect()
        try:
            await wire.send([BEFORE, case.data + AFTER])
            await until_asked(lab, wire, b"/before")
            gate.set()
            assert await wire.until(lambda: wire.ended)
            return bytes(wire.received)
        finally:
            wire.transport.abort()

    for case in SMALL:
        lab.passed_on()
        found, left = replies(lab.do(conversation(case)))
        assert left == b"", case.name
        judge(case, behind(Outcome(found, lab.passed_on())))


def test_a_thousand_requests_behind_a_slow_one_are_answered_in_order(lab: OneLoop) -> None:
    """Few of them wait in access itself: the rest stay where the kernel makes the client wait."""
    targets = [b"/%d" % n for n in range(1000)]

    async def conversation() -> bytes:
        gate = hold_back(lab, b"/0")
        wire = await lab.connect()
        wire.transport.write(b"".join(map(ask, targets)) + AFTER)
        await until_asked(lab, wire, b"/0")
        assert len(lab.upstream.requests) <= 64
        gate.set()
        assert await wire.until(lambda: wire.ended)
        wire.transport.abort()
        return bytes(wire.received)

    lab.passed_on()
    assert bodies(lab.do(conversation())) == [*targets, b"/after"]
    assert [seen.target for seen in lab.passed_on()] == [*targets, b"/after"]


def test_answers_from_access_itself_wait_for_those_before_them(lab: OneLoop) -> None:
    async def conversation() -> bytes:
        gate = hold_back(lab, b"/slow")
        wire = await lab.connect()
        local = [ask(b"/live"), ask(b"*", method=b"OPTIONS"), ask(b"/live", method=b"HEAD")]
        await wire.send([ask(b"/slow"), *local, AFTER])
        await until_asked(lab, wire, b"/slow")
        gate.set()
        assert await wire.until(lambda: wire.ended)
        wire.transport.abort()
        return bytes(wire.received)

    found, left = replies(lab.do(conversation()), [3])
    assert left == b""
    assert [reply.status for reply in found] == [200, 200, 204, 200, 200]
    assert found[0].body == b"/slow"
    assert (found[3].body, found[4].body) == (b"", b"/after")


def test_a_held_page_waits_for_the_answers_before_it(lab: OneLoop) -> None:
    lab.hold_a_page()

    async def conversation() -> bytes:
        gate = hold_back(lab, b"/slow")
        wire = await lab.connect()
        await wire.send([ask(HELD), ask(b"/slow"), ask(HELD), AFTER])
        assert await wire.until(lambda: wire.received.endswith(PAGE))
        await is_asked(lab, b"/slow")
        await turn()
        assert wire.received.count(PAGE) == 1
        gate.set()
        assert await wire.until(lambda: wire.ended)
        wire.transport.abort()
        return bytes(wire.received)

    assert bodies(lab.do(conversation())) == [PAGE, b"/slow", PAGE, b"/after"]


def test_nothing_behind_a_close_is_served(lab: OneLoop) -> None:
    lab.passed_on()
    received = lab.talk([ask(b"/0") + ask(b"/1", b"Connection: close") + ask(b"/2") + ask(b"/3")])
    assert bodies(received) == [b"/0", b"/1"]
    assert [seen.target for seen in lab.passed_on()] == [b"/0", b"/1"]


KINDS = st.sampled_from(["get", "head", "post", "chunks", "live", "options"])


def rendered(kind: str, number: int) -> tuple[bytes, bytes | None]:
    """A request of this kind, and the body of its answer; None where it is access' own."""
    target = b"/%d" % number
    if kind == "post":
        return ask(target, b"Content-Length: 2", method=b"POST") + b"ab", target
    if kind == "chunks":
        head = ask(target, b"Transfer-Encoding: chunked", method=b"PUT")
        return head + b"1\r\na\r\n1;x=y\r\nb\r\n0\r\nT: u\r\n\r\n", target
    if kind == "head":
        return ask(target, method=b"HEAD"), b""
    if kind == "live":
        return ask(b"/live"), None
    if kind == "options":
        return ask(b"*", method=b"OPTIONS"), b""
    return ask(target), target


def same(reply: Reply, expected: bytes | None) -> bool:
    return reply.body == expected if expected is not None else reply.body.startswith(b"{")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kinds=st.lists(KINDS, max_size=20), delays=st.lists(st.integers(0, 3), max_size=20))
def test_any_mixture_is_answered_in_order_however_long_each_takes(
    lab: OneLoop, kinds: list[str], delays: list[int]
) -> None:
    made = [rendered(kind, number) for number, kind in enumerate(kinds)]
    turns = dict(zip([b"/%d" % n for n in range(len(kinds))], delays, strict=False))

    async def script(seen: Seen) -> bytes:
        for _ in range(turns.get(seen.target, 0)):
            await turn()
        return await echo(seen)

    lab.upstream.script = script
    received = lab.talk([b"".join(data for data, _ in made) + AFTER])
    found, left = replies(received, [n for n, kind in enumerate(kinds) if kind == "head"])
    assert left == b""
    expected = [body for _, body in made] + [b"/after"]
    assert len(found) == len(expected)
    assert all(map(same, found, expected))
