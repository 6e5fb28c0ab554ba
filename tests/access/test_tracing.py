"""Request ids and trace contexts: taken when well formed, else made."""

from __future__ import annotations

import pytest

from services.access.tracing import names_of

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = b"00-" + TRACE + b"-00f067aa0ba902b7-01"


@pytest.mark.parametrize("given", [b"a", b"A-z_0.9", b"x" * 64])
def test_a_well_formed_request_id_is_kept(given: bytes) -> None:
    assert names_of([(b"x-request-id", given)])[0] == given


@pytest.mark.parametrize("given", [b"", b"x" * 65, b"a b", b"a\tb", b"a;b", b"\xe9", b"a\n"])
def test_any_other_request_id_is_replaced(given: bytes) -> None:
    made = names_of([(b"x-request-id", given)])[0]
    assert made != given
    assert len(made) == 32


def test_two_request_ids_are_none() -> None:
    assert names_of([(b"x-request-id", b"a"), (b"x-request-id", b"a")])[0] != b"a"


def test_a_made_request_id_is_the_id_of_its_trace() -> None:
    request_id, traceparent, traced = names_of([])
    assert traceparent.split(b"-")[1] == request_id
    assert not traced
    assert names_of([(b"traceparent", PARENT)])[0] == TRACE


def test_made_names_differ() -> None:
    assert len({names_of([])[0] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "given", [PARENT, b"01" + PARENT[2:], b"cc" + PARENT[2:] + b"-what-will-be"]
)
def test_a_valid_traceparent_is_kept(given: bytes) -> None:
    assert names_of([(b"traceparent", given)])[1:] == (given[:55], True)


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"ff" + PARENT[2:],
        b"00-" + b"0" * 32 + PARENT[35:],
        PARENT[:36] + b"0" * 16 + b"-01",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + b"-more",
        b"01" + PARENT[2:] + b"more",
        b"0x" + PARENT[2:],
        PARENT.replace(b"-", b"_"),
    ],
)
def test_any_other_traceparent_is_replaced(given: bytes) -> None:
    _, traceparent, traced = names_of([(b"traceparent", given)])
    assert traceparent != given
    assert len(traceparent) == 55
    assert not traced
